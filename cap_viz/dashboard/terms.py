"""Terms of the field as the pages explain them: help texts beside controls and entries of the Glossary page."""

from __future__ import annotations

GLOSSARY = {
    "effect": "How much the loss on the right answer (or the given text) changes when the head's output is replaced. "
    "Positive: the model does worse without the head.",
    "head": "One attention head, named by its layer and its number within the layer, both from 0.",
    "ablation": "What replaces a head's output: zeros, its mean over the calibration tokens, or its output on "
    "another example (resample). They ask different questions, so rankings may differ.",
    "calibration": "The questions on which heads are measured; accuracy is always taken on other questions.",
    "ci": "95 % confidence interval: from Student's t over the examples for effects, Wilson's for accuracies.",
    "rank": "Position among all heads by mean effect, 1 for the largest. The interval resamples the examples.",
    "fdr": "Benjamini-Hochberg over all heads: of those called non-zero, at most 5 % should be false finds.",
    "reliability": "Agreement of the ranking of heads between two random halves of the examples (Spearman correlation, "
    "median of 200 splits), projected to all examples.",
    "kv_group": "Heads that share one set of keys and values (grouped-query attention).",
    "dense": "The model as it is, with no weight removed; 95 % Wilson interval. None of these questions was used to "
    "measure heads.",
    "chance": "Accuracy a guesser would reach: the mean of 1 / number of options. For yes/no questions the share of "
    "the commoner answer, since always giving that one is a guess, too.",
    "sparsity": "Share of the weights in attention and MLP projections that are set to zero.",
    "criterion": "The rule that decides which weights go first.",
    "best": "Highest accuracy. Tied: the paired McNemar test does not tell the two apart (p ≥ 0.05). In brackets: "
    "points of accuracy against dense on the same questions.",
    "estimator": "How effects are computed. Exact: each head is ablated in turn and the rest of the model run again.",
    "nll": "Answer loss: mean surprise per token of the right answer, in nats (negative log-likelihood).",
    "choice_nll": "Choice loss: surprise at the right option among the options offered, in nats.",
    "logit_diff": "Margin loss: all other options against the right one (log-sum-exp difference), in nats.",
    "accuracy": "Errors: 1 where another option is more likely than the right one. Coarse; not used for ranking heads.",
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
        "nll": "nll",
        "choice_nll": "choice_nll",
        "logit_diff": "logit_diff",
        "accuracy": "accuracy (as a metric of heads)",
        "loss": "Loss of a text",
    },
    "How sure we are": {
        "ci": "Confidence interval",
        "rank": "Rank and its interval",
        "fdr": "False-discovery control",
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
        "dense": "Dense model",
        "chance": "Chance",
        "n": "Evaluation size",
        "best": "Best and tied",
    },
}
