"""Controls of the Prune page, and the setting they describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import streamlit as st

from cap_viz.dashboard.components.measured_column import swatch, title_of
from cap_viz.dashboard.components.panels import listed
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import (
    criteria_help,
    criteria_in_groups,
    criterion_option,
    metric_title,
    metrics_help,
    run_title,
    task_name,
    texts_missing,
)
from cap_viz.dashboard.prune.setting import HIGHEST_PERCENT, PruneSetting, measured_percents
from cap_viz.dashboard.selection import Selection, choose
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.pruning import CRITERIA
from cap_viz.pruning.mask import Scope
from cap_viz.pruning.options import ALLOCATIONS, KV_COMBINES, PATTERNS, KvCombine, MaskOptions, pattern_sparsity
from cap_viz.runs.comparison import counts_weights
from cap_viz.runs.run_queries import eval_runs, score_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.settings import N_CALIBRATION, SEED
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, evaluation_set
from cap_viz.tasks.readable import controls_for

DEFAULT_PERCENT, MOST_SEED = 20, 99
# Widths of the controls; the slider takes what is left.
CHOICE_PIXELS, MORE_PIXELS = 210, 110
# Accuracy effects of single heads are too coarse to rank heads by.
METRICS = ("nll", "choice_nll", "logit_diff")
UNIFORM, OWN_TASK = "uniform", "task"
SCOPE_NAMES = {"both": "Both", "attention": "Attention", "mlp": "MLP"}
# Stored sparsities stand close below the slider they are marks of.
MARKS = """<style>
.st-key-prune_marks { margin-top: -0.9rem; }
.st-key-prune_marks button { min-height: 1.5rem; padding: 0 0.4rem; }
.st-key-prune_controls > :has(> .st-key-prune_slider) { min-width: 260px; }
</style>"""


def controls(view: Frame) -> PruneSetting:
    """Draw the controls, return their setting. Raises `CapVizError` when the evaluation items are unknown."""
    selection, evaluation, runs = view.selection, evaluation_items(view, view.n), usable_scores(view)
    st.html(MARKS)
    with st.container(horizontal=True, vertical_alignment="top", gap="small", key="prune_controls"):
        first, second = (st.container(width=CHOICE_PIXELS) for _ in range(2))
        slider, more = st.container(width="stretch", key="prune_slider"), st.container(width=MORE_PIXELS)
    names = {name: criterion_option(name) for name in criteria_in_groups(list(CRITERIA))}
    with first:
        help = f"{GLOSSARY['criterion']}\n\n{criteria_help(list(names))}"
        criterion = selection.selectbox("Prune by", "criterion", names, default="cap", help=help)
    with second:
        help = "A second criterion, at the same sparsity."
        against = selection.selectbox("Compare with", "against", names, default="wanda", help=help)
    criteria = tuple(dict.fromkeys((criterion, against)))
    with more:
        st.space("small")
        with st.popover("More", width="stretch", help="What the criteria are built on, and how zeros are spread"):
            options, scores, text = more_controls(selection, runs, criteria, controls_for(view.model.id))
    with slider:
        sparsity = sparsity_slider(selection, criteria, options.pattern)
        marks = st.container(horizontal=True, vertical_alignment="center", gap="xxsmall", key="prune_marks")
    setting = PruneSetting(
        model=view.model,
        evaluation=evaluation,
        criteria=criteria,
        sparsity=round(sparsity / 100, 2),
        options=options,
        scores=scores,
        calibration=calibration_items(view.task, scores, text),
    )
    with marks:
        stored_marks(view, setting, sparsity)
    if sentence := deaf_words(setting):
        st.caption(sentence)
    return setting


def sparsity_slider(selection: Selection, criteria: Sequence[str], pattern: str | None) -> int:
    """Draw the slider; a pattern of zeros has one sparsity only."""
    in_heads = [title_of(name) for name in criteria if not counts_weights(name)]
    label = "Sparsity" if not in_heads else f"Sparsity ({listed(in_heads)}: share of heads)"
    if pattern is not None:
        needed = round(100 * pattern_sparsity(pattern))
        st.slider(f"{label}, always {needed} % in the pattern {pattern}", 0, HIGHEST_PERCENT, needed, disabled=True)
        return needed
    help, most = GLOSSARY["sparsity"], HIGHEST_PERCENT
    return selection.slider(label, "sparsity", 0, most, default=DEFAULT_PERCENT, format="%d %%", help=help)


def stored_marks(view: Frame, setting: PruneSetting, sparsity: int) -> None:
    """Draw buttons that jump to the sparsities with stored accuracies."""
    if view.task.kind == "text" or setting.options.pattern is not None:
        return
    measured = measured_percents(view.runs, setting)
    nothing = f"Nothing stored on these {len(setting.evaluation.ids)} items."
    st.caption("Stored:" if measured else nothing, width="content")
    for value, criteria in measured.items():
        only = "" if criteria == set(setting.criteria) else next(iter(criteria))
        st.button(
            f"{swatch(only)} {value} %" if only else f"{value} %",
            help=f"{title_of(only)} only" if only else None,
            key=f"prune_mark_{value}",
            type="secondary" if value == sparsity else "tertiary",
            on_click=choose,
            args=({"sparsity": value},),
        )


def deaf_words(setting: PruneSetting) -> str:
    """Name the criteria that ignore the chosen allocation or pattern; empty if none does."""
    spread = setting.options.spread
    deaf = [title_of(name) for name in setting.criteria if setting.options_of(name).spread != spread]
    return f"{listed(deaf)}: {spread} does not apply, the criterion itself decides where zeros go." if deaf else ""


# What the criteria are built on ----------------------------------------------------------------------------------


def more_controls(
    selection: Selection, runs: Sequence[StoredRun[ScoreSpec]], criteria: Sequence[str], texts: Sequence[str]
) -> tuple[MaskOptions, ScoreSpec | None, str]:
    """Draw the controls these criteria use; `runs` are the head scores to choose from, `texts` the generic texts.

    Return the options, the head scores and the text to measure activations on. A control that is not shown has its
    default.
    """
    needs = [CRITERIA[name] for name in criteria]
    scope = selection.segmented("Scope", "scope", SCOPE_NAMES, help=GLOSSARY["scope"])
    # Without a criterion on head scores, these still determine the calibration examples of the others.
    metric, kv_combine, scores = None, None, runs[0].spec if runs else None
    if any(one.needs_scores for one in needs):
        metric, kv_combine, scores = head_controls(selection, runs)
    spreads = {UNIFORM: "As the criterion does"}
    if any(one.allocations for one in needs):
        spreads |= {name: name.replace("owl", "OWL") for name in ALLOCATIONS}
    if any(one.patterns for one in needs):
        spreads |= {name: name for name in PATTERNS}
    spread, text, seed = UNIFORM, OWN_TASK, None
    if len(spreads) > 1:
        help = f"{GLOSSARY['allocation']}\n\n{GLOSSARY['pattern']}"
        spread = selection.selectbox("Zeros spread", "spread", spreads, help=help)
    if spread in ALLOCATIONS or any(one.needs_calibration for one in needs):
        sources = {OWN_TASK: "This task's examples", **{name: task_name(name) for name in texts}}
        help = "Calibration examples of the task, or generic text; head scores stay on the task."
        text = selection.selectbox("Activations measured on", "calibration", sources, help=help)
    if any(one.needs_seed for one in needs):
        help = "Names the random draw. One draw shows little: 19 of them make the smallest p 0.05."
        seed = selection.number_input("Draw of the control", "control_seed", 0, MOST_SEED, default=0, help=help)
    options = MaskOptions(
        scope=cast(Scope, scope),
        metric=metric,
        kv_combine=kv_combine,
        control_seed=seed,
        allocation=spread if spread in ALLOCATIONS else None,
        pattern=spread if spread in PATTERNS else None,
    )
    return options, scores, text


def head_controls(
    selection: Selection, runs: Sequence[StoredRun[ScoreSpec]]
) -> tuple[str, KvCombine, ScoreSpec | None]:
    help, groups = metrics_help(METRICS), GLOSSARY["kv_group"]
    metric = selection.selectbox("Metric of the head scores", "metric", METRICS, names=metric_title, help=help)
    kv_combine = selection.selectbox(
        "Key-value groups combined by", "kv", KV_COMBINES, names=str.capitalize, help=groups
    )
    specs = {score_label(run): run.spec for run in runs}
    if not specs:
        return metric, cast(KvCombine, kv_combine), None
    help = "The stored run CAP is built on. Criteria that measure activations do so on the same examples."
    names = {label: run_title(spec) for label, spec in specs.items()}
    chosen = selection.selectbox("Head scores", "scores", names, help=help)
    return metric, cast(KvCombine, kv_combine), specs[chosen]


def score_label(run: StoredRun[ScoreSpec]) -> str:
    return f"{len(run.spec.examples.ids)}-{run.spec.estimator}-{run.spec.ablation}-{run.key[:8]}"


# What is stored --------------------------------------------------------------------------------------------------


def usable_scores(view: Frame) -> list[StoredRun[ScoreSpec]]:
    """Return head scores from calibration examples only, because pruning must not have seen the evaluation items.

    Shipped ones come first, since shipped accuracies are built on them; then those with the most examples.
    """
    scored = score_runs(view.runs, view.model, view.task.name)
    found = [run for run in scored if run.spec.examples.split == "calibration"]
    return sorted(found, key=lambda run: run.origin != "precomputed")


def evaluation_items(view: Frame, n: int) -> ExampleSet:
    """Return the first n items of the task (all of a text), from a stored run if its data is not on this machine."""
    task = view.task
    if task.is_local():
        return evaluation_set(task.name, None if task.kind == "text" else min(n, len(task.splits.evaluation)))
    stored = [run.spec.examples for run in eval_runs(view.runs, view.model, task.name)]
    ids = max((examples.ids for examples in stored if examples.version == task.version), key=len, default=())
    if not ids:
        raise CapVizError(f"{texts_missing(task)} No stored run names them.")
    return ExampleSet(task.name, task.version, ids[:n], "evaluation")


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
