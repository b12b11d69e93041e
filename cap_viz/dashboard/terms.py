"""Terms of the field as the pages explain them: help texts beside controls and entries of the Glossary page."""

from __future__ import annotations

GLOSSARY = {
    "effect": "How much the loss on the right answer (or the given text) changes when a head's output is replaced. "
    "Positive: the model does worse without the head.",
    "head": "A part of a layer that looks back at earlier tokens and passes on what it finds there; a layer has "
    "several, which work side by side. L1H3 is head 3 of layer 1, both counted from 0.",
    "ablation": "What replaces a head's output: zeros, its mean over the calibration tokens, or its output on "
    "another example (resample). They ask different questions, so rankings may differ.",
    "calibration": "The questions on which heads are measured; accuracy is always taken on other questions.",
    "ci": "95 % confidence interval: from Student's t over the examples for effects, Wilson's for accuracies.",
    "rank": "Position among all heads by mean effect, 1 for the largest. The interval resamples the examples.",
    "fdr": "An effect is beyond chance where it is too clear for chance although so many heads are tested: its "
    "q-value, the p-value adjusted over all heads (Benjamini-Hochberg), is at most 0.05. Of such heads, at most 5 % "
    "should be false finds.",
    "reliability": "Agreement of the ranking of heads between two random halves of the examples (Spearman correlation, "
    "median of 200 splits), projected to all examples.",
    "kv_group": "Heads that share one set of keys and values (grouped-query attention).",
    "dense": "The model as it is, with no weight removed; 95 % Wilson interval. None of these questions was used to "
    "measure heads.",
    "chance": "Accuracy a guesser would reach: the mean of 1 / number of options. For yes/no questions the share of "
    "the commoner answer, since always giving that one is a guess, too.",
    "sparsity": "Share of the weights in attention and MLP projections that are set to zero.",
    "criterion": "The rule that ranks weights and so decides which are removed first, such as CAP or Wanda.",
    "mask": "Which weights are set to zero and which are kept: a criterion ranks them, the sparsity says how many go.",
    "allocation": "How a sparsity is spread over the layers: the same everywhere, or less in layers with outlier "
    "activations (OWL).",
    "scope": "Which weights may be removed: attention projections, MLP projections, or both.",
    "pattern": "Unstructured: zeros anywhere. Semi-structured (2:4, 4:8): so many kept of every few neighbours. "
    "Structured: whole heads. Only the last makes a model smaller without special formats.",
    "best": "Highest accuracy. Tied: the paired McNemar test does not tell the two apart (p ≥ 0.05). In brackets: "
    "points of accuracy against dense on the same questions.",
    "estimator": "How effects are computed. Exact: each head is ablated in turn and the rest of the model run again. "
    "Gradient: a first-order approximation from one backward pass. Hybrid: gradient on many examples, corrected by "
    "exact effects on a few.",
    "nll": "Mean surprise per token of the right answer, in nats (negative log-likelihood).",
    "choice_nll": "Surprise at the right option among the options offered, in nats.",
    "logit_diff": "All other options against the right one (log-sum-exp difference), in nats.",
    "accuracy": "1 where another option is more likely than the right one, else 0. Coarse; not used for ranking heads.",
    "nats": "Unit of surprise: the natural logarithm of 1 / probability. 0.69 nats more halve the probability.",
    "perplexity": "How many tokens the model hesitates between on running text, on average: the exponential of its "
    "mean loss per token. Lower is better.",
    "solution": "Mean surprise per token of a worked solution that is given with the question, in nats.",
    "written": "Answers the model writes itself, word by word. Strict: the answer stands where it was asked for. "
    "Flexible: it is the last number or option anywhere in the text.",
    "n": "How many evaluation questions accuracies are taken on: the first n of the task, all of them where it has "
    "fewer.",
    "loss": "Mean surprise per token of the given text, in nats, with no weight removed; averaged over the calibration "
    "examples, with Student's t interval.",
    "view": "`task effect` a head's effect on this task  \n`generic text` its effect on text that asks "
    "for no reasoning  \n`specificity` the first minus the second, each in standard deviations over heads",
    "specificity": "Effect on this task minus effect on generic text, each divided by how much heads truly differ in "
    "that run (standard deviation over heads, noise taken out). 0: as important to any text as to this task.",
    "scale": "`standardised` each effect divided by how much heads truly differ on that task, so that tasks of "
    "different difficulty share a scale  \n`nats` the change of the loss per token itself",
    "difference": "Effect on the first task minus effect on the second, each divided by how much heads truly differ in "
    "that run (standard deviation over heads, noise taken out).",
    "roles": "Mean attention over these examples, between 0 and 1. Previous token: to the token before. First token: "
    "to the first one, where attention goes that is not needed elsewhere. Entropy: 0 looks at one token, 1 at all "
    "alike. Induction: on random tokens written twice, to the token after the earlier occurrence.",
    "reading": "Loads the model and reads the example with the selected head and with its output at zero: how expected "
    "each token is, what the model writes itself, and where the head looks.",
    "together": "Heads ablated at the same time, on evaluation questions, which ranked nothing. More than the sum of "
    "single effects: each stands in for the others. Less: they overlap, or the answer was already lost.",
    "ceiling": "Spearman correlation of the two rankings of all heads. Noise ceiling: what two identical true rankings "
    "would reach with so many examples, the root of the product of their reliabilities.",
    "mcnemar": "Test of whether two models answer the same questions right equally often: it counts those that only "
    "the one and those that only the other gets right.",
    "holm": "p-values adjusted for the number of comparisons that answer one question, so that at most 5 % of such "
    "questions get any false verdict (Holm's method).",
    "toy": "Model of half a million parameters (`toy-reasoner`), trained for CAP Viz on tasks of its own (`toy_math`, "
    "`toy_choice`, `toy_strategy`, `toy_text`): everything about it is computed within seconds.",
    "run": "One stored result with its provenance: the full description of how it was computed, and a key made of "
    "that.",
    "origin": "`precomputed` came with CAP Viz  \n`live` computed or imported on this machine  \n`stale` measured with "
    "other settings than the controls show",
}

# Other names and ids of terms: what to type on the command line, what a link says, what others call it.
ALIASES: dict[str, tuple[str, ...]] = {
    "head": ("L1H3",),
    "ablation": ("zero", "mean", "resample", "knock-out"),
    "effect": ("head effect", "causal effect", "head score", "causal attribution"),
    "estimator": ("exact", "gradient", "hybrid", "attribution patching"),
    "kv_group": ("grouped-query attention", "GQA"),
    "calibration": ("calibration set",),
    "together": ("joint ablation", "what if all of these"),
    "roles": ("previous_token", "first_token", "induction", "entropy", "attention pattern"),
    "nll": ("nll", "negative log-likelihood", "token loss"),
    "choice_nll": ("choice_nll",),
    "logit_diff": ("logit_diff", "margin"),
    "accuracy": ("accuracy", "error_rate", "error rate"),
    "perplexity": ("ppl",),
    "solution": ("solution loss",),
    "written": ("generation", "exact match", "strict", "flexible"),
    "ci": ("interval", "95 %", "error bar"),
    "fdr": ("FDR", "q-value", "beyond chance", "survives", "Benjamini-Hochberg", "false finds"),
    "mcnemar": ("paired test", "p-value"),
    "holm": ("adjusted p", "multiple comparisons"),
    "reliability": ("split-half", "Spearman"),
    "ceiling": ("noise ceiling",),
    "dense": ("unpruned", "intact model"),
    "sparsity": ("pruning", "share of zeros"),
    "mask": ("pruned weights",),
    "allocation": ("owl", "uniform"),
    "pattern": ("2:4", "4:8", "structured", "unstructured"),
    "n": ("n", "evaluation set"),
    "toy": ("toy-reasoner", "toy_math", "toy_choice", "toy_strategy", "toy_text"),
    "run": ("key", "spec", "manifest", "provenance"),
    "origin": ("precomputed", "live", "stale"),
}

# Section and display name of each term on the Glossary page.
SECTIONS: dict[str, dict[str, str]] = {
    "Measuring heads": {
        "head": "Attention head",
        "ablation": "Ablation",
        "effect": "Effect of a head",
        "estimator": "Estimator",
        "kv_group": "Key-value group",
        "calibration": "Calibration examples",
        "together": "Heads ablated together",
        "reading": "Reading an example",
        "roles": "Role measures",
        "view": "Views of the heatmap",
    },
    "Losses": {
        "nll": "Answer loss",
        "choice_nll": "Choice loss",
        "logit_diff": "Margin loss",
        "accuracy": "Errors (as a metric of heads)",
        "loss": "Loss of a text",
        "perplexity": "Perplexity",
        "solution": "Loss on solutions",
        "written": "Answers written out",
        "nats": "Nats",
    },
    "How sure we are": {
        "ci": "Confidence interval",
        "rank": "Rank and its interval",
        "fdr": "False-discovery control",
        "mcnemar": "McNemar test",
        "holm": "Holm adjustment",
        "reliability": "Reliability of a ranking",
        "ceiling": "Rank correlation and noise ceiling",
    },
    "Comparing tasks": {
        "specificity": "Specificity",
        "scale": "Scale of the maps",
        "difference": "Difference of two tasks",
    },
    "Pruning": {
        "sparsity": "Sparsity",
        "criterion": "Criterion",
        "mask": "Mask",
        "scope": "Scope",
        "allocation": "Allocation",
        "pattern": "Pattern of zeros",
        "dense": "Dense model",
        "chance": "Chance",
        "n": "Evaluation size",
        "best": "Best and tied",
    },
    "Models and runs": {
        "toy": "Toy reasoner",
        "run": "Run",
        "origin": "Where a number comes from",
    },
}
