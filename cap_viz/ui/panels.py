"""Small pieces every page uses: heading, provenance row, tiles with intervals, the boxes for each state, glossary."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isnan

import streamlit as st

from cap_viz.spec import ExampleSet
from cap_viz.stats import Interval
from cap_viz.store import StoredRun
from cap_viz.tasks import Task

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
    "chance": "Accuracy a guesser would reach: the mean of 1 / number of options.",
    "sparsity": "Share of the weights in attention and MLP projections that are set to zero.",
    "criterion": "The rule that decides which weights go first.",
    "best": "Highest accuracy. Tied: the paired McNemar test does not tell the two apart (p ≥ 0.05). In brackets: "
    "points of accuracy against dense on the same questions.",
    "estimator": "How effects are computed. Exact: each head is removed in turn and the rest of the model run again.",
    "nll": "Answer loss: mean surprise per token of the right answer, in nats (negative log-likelihood).",
    "choice_nll": "Choice loss: surprise at the right option among the options offered, in nats.",
    "logit_diff": "Margin loss: all other options against the right one (log-sum-exp difference), in nats.",
    "accuracy": "Errors: 1 where another option is more likely than the right one. Coarse; not used for ranking heads.",
    "n": "How many evaluation questions accuracies are taken on: the first n of the task, all of them where it has "
    "fewer.",
    "loss": "Mean surprise per token of the given text, in nats, with no weight removed; averaged over the calibration "
    "examples, with Student's t interval.",
    "view": "`task effect` what removing a head does to this task  \n`generic text` what it does to text that asks "
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
    "together": "Heads removed at the same time, on evaluation questions, which ranked nothing. More than the sum of "
    "single effects: each stands in for the others. Less: they do some of the same work.",
    "ceiling": "Spearman correlation of the two rankings of all heads. Noise ceiling: what two identical true rankings "
    "would reach with so many examples, the root of the product of their reliabilities.",
}

METRIC_NAMES = {
    "nll": "answer loss (nll)",
    "choice_nll": "choice loss (choice_nll)",
    "logit_diff": "margin loss (logit_diff)",
    "accuracy": "error rate (accuracy)",
}
TEXT_LOSS = "token loss (nll)"
METRIC_UNITS = {"nll": "nats per token", "choice_nll": "nats", "logit_diff": "nats", "accuracy": "errors per question"}


def metric_name(task: Task, metric: str) -> str:
    """Text has no answer: there the loss is on every token of the given continuation."""
    return TEXT_LOSS if task.kind == "text" else METRIC_NAMES[metric]


def heading(title: str, sentence: str) -> None:
    """The page's name and the one sentence that says what it answers."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.title(title, anchor=False, width="content")
        st.markdown(sentence, width="content")


def provenance(facts: Sequence[str], *, origin: str | None = None) -> None:
    """One quiet line of facts; `origin` ("precomputed", "live", "running", "stale") becomes a badge in front."""
    colour = {"precomputed": "blue", "live": "violet", "running": "orange", "stale": "orange"}
    badge = f":{colour.get(origin, 'gray')}-badge[{origin}] " if origin else ""
    st.caption(badge + " · ".join(escaped(fact) for fact in facts))


def run_facts(run: StoredRun) -> list[str]:
    """Model, task, examples and age of a stored run, for `provenance`."""
    made = run.provenance
    return [
        run.spec.model.id,
        run.spec.examples.task,
        examples_fact(run.spec.examples),
        age(made["created"]),
    ]


def making_of(run: StoredRun) -> str:
    """How a stored run was computed, in one line: machine, time, versions, key."""
    made = run.provenance
    versions = ", ".join(f"{name} {number}" for name, number in made.get("versions", {}).items())
    return (
        f"{made.get('machine', '?')}, {made.get('device', '?')}, {made.get('dtype', '?')}, "
        f"{made.get('threads', '?')} threads, {made.get('seconds', 0):,.0f} s; {versions}; key {run.key}."
    )


def cut_words(run: StoredRun) -> str:
    """How many prompts were too long for the model and lost their beginning; empty where none did."""
    cut = run.provenance.get("truncated")
    if not cut:
        return ""
    prompts = "1 prompt was" if cut["examples"] == 1 else f"{cut['examples']} prompts were"
    return f"{prompts} too long for the model; the beginning was cut ({cut['tokens']} tokens in all)."


def examples_fact(examples: ExampleSet) -> str:
    seed = "" if examples.seed is None else f", seed {examples.seed}"
    kind = {"calibration": "calibration", "evaluation": "evaluation"}.get(examples.split, "chosen")
    return f"{len(examples.ids)} {kind} examples{seed}"


def tile(label: str, value: str, note: str = "", *, term: str | None = None) -> None:
    """A number with its interval or comment beneath; `term` adds the glossary's help."""
    st.metric(
        label,
        value,
        delta=note or None,
        delta_color="off",
        delta_arrow="off",
        help=GLOSSARY[term] if term else None,
    )


def empty(title: str, text: str) -> None:
    """Nothing here yet, and what would change that."""
    with st.container(border=True):
        st.markdown(f"**{title}**")
        st.caption(text)


def problem(sentence: str) -> None:
    """Something went wrong here: one sentence with what to do."""
    st.error(escaped(sentence), icon=":material/error:")


def note(sentence: str) -> None:
    """Something the user should know but need not act on."""
    st.info(escaped(sentence), icon=":material/info:")


def caution(sentence: str) -> None:
    """The numbers below should be read with care."""
    st.warning(escaped(sentence), icon=":material/warning:")


def stale(sentence: str) -> None:
    """The result below belongs to other settings than the controls show."""
    st.caption(f":orange-badge[stale] {escaped(sentence)}")


def escaped(text: str) -> str:
    """Plain text for Markdown: file names and model output must not turn into formatting."""
    for sign in "\\`*_~[]$<>":
        text = text.replace(sign, f"\\{sign}")
    return text


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def percent_interval(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} – {100 * interval.high:.1f} %"


def p_words(p: float) -> str:
    """A p-value with sensible digits; a dash where there is none."""
    if isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def signed(value: float, digits: int = 3) -> str:
    """With a true minus sign, which has the width of the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def age(created: str) -> str:
    """How long ago an ISO time was, in words."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError):
        return created
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"
