"""Further mask controls of the Prune page: head scores, spread of zeros, calibration text and control seed.

Each is shown only if one of the two criteria uses it, and explains itself in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import streamlit as st

from cap_viz.dashboard.names import METRIC_NAMES
from cap_viz.dashboard.prune.setting import PruneSetting, title_of
from cap_viz.dashboard.state import bad_choice, bad_number, choose, keep_in_range, keep_valid
from cap_viz.defaults import N_CALIBRATION, SEED
from cap_viz.pruning import CRITERIA
from cap_viz.pruning.options import (
    ALLOCATIONS,
    KV_COMBINES,
    PATTERNS,
    USUAL,
    KvCombine,
    MaskOptions,
    pattern_sparsity,
)
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set

# Accuracy effects of single heads are too coarse to rank heads by.
METRICS = ("nll", "choice_nll", "logit_diff")
UNIFORM, OWN_TASK = "uniform", "task"
SPREAD_RULES = {
    UNIFORM: "The criterion's own way.",
    "owl": "OWL: layers with many outlying weight-times-input scores keep more, within 8 points of the sparsity.",
    "2:4": "2 of every 4 neighbouring weights of a row go, as some GPUs compute faster with; always 50 %.",
    "4:8": "4 of every 8 neighbouring weights of a row go; always 50 %.",
}
MOST_SEED = 99
SPREADS = (UNIFORM, *ALLOCATIONS, *PATTERNS)
DEFAULTS = {"metric": USUAL["metric"], "kv": USUAL["kv_combine"], "spread": UNIFORM, "calibration": OWN_TASK}
KEYS = (*DEFAULTS, "control_seed", "scores")


def basis_controls(
    runs: Sequence[StoredRun], criteria: Sequence[str], controls: Sequence[str]
) -> tuple[MaskOptions, ScoreSpec | None, str]:
    """Draw the controls these criteria use; `runs` are the head scores to choose from, `controls` the generic texts.

    Return the options, the head scores and the text to measure activations on. A control that is not shown has its
    default.
    """
    needs = [CRITERIA[name] for name in criteria]
    heads = any(one.needs_scores for one in needs)
    spreads = [UNIFORM]
    if any(one.allocations for one in needs):
        spreads += ALLOCATIONS
    if any(one.patterns for one in needs):
        spreads += PATTERNS
    metric, kv_combine = head_options() if heads else (None, None)
    # Without a criterion on head scores, these still determine the calibration examples of the others.
    scores = scores_option(runs) if heads else first_scores(runs)
    spread = spread_option(spreads) if len(spreads) > 1 else UNIFORM
    measured = any(one.needs_calibration for one in needs) or spread in ALLOCATIONS
    text = text_option((OWN_TASK, *controls)) if measured else OWN_TASK
    seed = seed_option() if any(one.needs_seed for one in needs) else None
    if not (heads or measured or len(spreads) > 1 or any(one.needs_seed for one in needs)):
        st.caption("Nothing else to choose for these criteria.")
    options = MaskOptions(
        metric=metric,
        kv_combine=kv_combine,
        control_seed=seed,
        allocation=spread if spread in ALLOCATIONS else None,
        pattern=spread if spread in PATTERNS else None,
    )
    return options, scores, text


def head_options() -> tuple[str, KvCombine]:
    meanings = "\n".join(f"- `{name}`: {METRIC_NAMES[name]}" for name in METRICS)
    metric = pick("Metric of the head scores", "metric", METRICS, f"Effects are differences of:\n\n{meanings}")
    kv_combine = pick(
        "Key-value groups combined by",
        "kv",
        KV_COMBINES,
        "Several query heads share one set of key and value weights (grouped-query attention). Their importance is the "
        "mean or the maximum of these heads' importances; the paper leaves it open.",
    )
    return metric, cast(KvCombine, kv_combine)


def scores_option(runs: Sequence[StoredRun]) -> ScoreSpec | None:
    labels = {score_label(run): run for run in runs}
    if not labels:
        return None
    keep_valid("scores", list(labels))
    chosen = st.selectbox(
        "Head scores",
        list(labels),
        key="scores",
        bind="query-params",
        persist_state="session",
        help="The stored run CAP is built on: examples, estimator, ablation, key. Criteria that measure activations "
        "do so on the same examples.",
    )
    return cast(ScoreSpec, labels[chosen].spec)


def first_scores(runs: Sequence[StoredRun]) -> ScoreSpec | None:
    return cast(ScoreSpec, runs[0].spec) if runs else None


def score_label(run: StoredRun) -> str:
    spec = cast(ScoreSpec, run.spec)
    return f"{len(spec.examples.ids)}-{spec.estimator}-{spec.ablation}-{run.key[:8]}"


def spread_option(spreads: Sequence[str]) -> str:
    """Draw the choice of allocation or pattern; a pattern moves the slider to its only sparsity."""
    rules = "\n".join(f"- `{name}` {SPREAD_RULES[name]}" for name in spreads)
    spread = pick("Zeros spread", "spread", spreads, f"Over layers or neighbours:\n\n{rules}", on_change=follow_pattern)
    st.caption(SPREAD_RULES[spread])
    return spread


def follow_pattern() -> None:
    if st.session_state["spread"] in PATTERNS:
        choose({"sparsity": round(100 * pattern_sparsity(st.session_state["spread"]))})


def text_option(texts: Sequence[str]) -> str:
    text = pick("Activations measured on", "calibration", texts, "Calibration examples of the task, or generic text.")
    st.caption(
        "Measured on the task's calibration examples."
        if text == OWN_TASK
        else f"Measured on {load_task(text).title.lower()} instead of the task; head scores stay on the task."
    )
    return text


def seed_option() -> int:
    keep_in_range("control_seed", 0, MOST_SEED)
    seed = st.number_input(
        "Draw of the control",
        0,
        MOST_SEED,
        key="control_seed",
        bind="query-params",
        persist_state="session",
        help="Which random numbers (random) or which permutation of heads (shuffled CAP).",
    )
    st.caption("One draw shows little: 19 of them make the smallest p 0.05.")
    return int(seed)


def pick(
    label: str, key: str, options: Sequence[str], help_text: str, on_change: Callable[[], None] | None = None
) -> str:
    """Draw a select box of plain names, bound to the URL."""
    keep_valid(key, options)
    return st.selectbox(
        label,
        options,
        list(options).index(DEFAULTS[key]),
        key=key,
        bind="query-params",
        persist_state="session",
        help=help_text,
        on_change=on_change,
    )


def wrong_basis(controls: Sequence[str]) -> list[str]:
    """Messages about invalid values in the URL; `controls` are the generic texts on offer."""
    return [
        bad_choice("metric", METRICS, DEFAULTS["metric"], "metric"),
        bad_choice("kv", KV_COMBINES, DEFAULTS["kv"], "KV combination"),
        bad_choice("spread", SPREADS, DEFAULTS["spread"], "spread of zeros"),
        bad_choice("calibration", (OWN_TASK, *controls), DEFAULTS["calibration"], "text to measure"),
        bad_number("control_seed", 0, MOST_SEED, "control_seed"),
    ]


def calibration_items(task: Task, scores: ScoreSpec | None, text: str) -> ExampleSet | None:
    """Calibration examples for activations and gradients: those of the head scores, or as many of another text.

    None if the data of the task or text is not on this machine.
    """
    if text == OWN_TASK and scores is not None:
        return scores.examples
    source = task if text == OWN_TASK else load_task(text)
    if not source.is_local():
        return None
    wanted = N_CALIBRATION if scores is None else len(scores.examples.ids)
    return calibration_set(source.name, min(wanted, len(source.splits.calibration)), SEED)


def spread_note(setting: PruneSetting) -> None:
    """Name the criteria that ignore the chosen allocation or pattern, or say that the pattern needs 50 % sparsity."""
    spread, pattern = setting.options.spread, setting.options.pattern
    if pattern is not None and setting.sparsity != (needed := pattern_sparsity(pattern)):
        st.caption(
            f"The pattern {pattern} has a sparsity of {100 * needed:.0f} %; at {100 * setting.sparsity:.0f} % zeros "
            "are free."
        )
        return
    deaf = [title_of(name) for name in dict.fromkeys(setting.criteria) if setting.options_of(name).spread != spread]
    if deaf:
        st.caption(f"{' and '.join(deaf)} decides itself where zeros go: {spread} does not apply to it.")
