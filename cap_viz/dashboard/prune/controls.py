"""The Prune page's controls, all bound to the URL, and the setting they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import streamlit as st

from cap_viz.dashboard.components.panels import listed, note
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.mask_controls import KEYS as BASIS_KEYS
from cap_viz.dashboard.prune.mask_controls import basis_controls, calibration_items, spread_note, wrong_basis
from cap_viz.dashboard.prune.setting import PruneSetting, mask_spec, measured_percents, title_of
from cap_viz.dashboard.prune.words import heads_words
from cap_viz.dashboard.state import bad_choice, choose, keep_valid
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.pruning import CRITERIA
from cap_viz.pruning.mask import SCOPES, Scope
from cap_viz.runs.comparison import counts_weights
from cap_viz.runs.run_queries import eval_runs, score_runs
from cap_viz.runs.store import StoredRun
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet, evaluation_set
from cap_viz.tasks.readable import controls_for

KEYS = ("model", "task", "n", "criterion", "against", "sparsity", "scope", "format", "written", *BASIS_KEYS)
DEFAULTS = {"criterion": "cap", "against": "wanda", "scope": "both"}
ROW_PIXELS = (180, 180, 270, 270, 110)
DEFAULT_PERCENT, HIGHEST_PERCENT = 20, 90
PERCENTS = {str(percent) for percent in range(HIGHEST_PERCENT + 1)}


def controls(view: Frame) -> PruneSetting:
    """Draw the controls, return their setting. Raises `CapVizError` when the evaluation items are unknown."""
    texts = controls_for(view.model.id)
    for sentence in wrong_in_link(texts):
        note(sentence)
    evaluation = evaluation_items(view)
    runs = usable_scores(view)
    # A row that wraps: in a narrow window with a sidebar it takes two or three lines.
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        first, second, slider, scope_place, more = (st.container(width=width) for width in ROW_PIXELS)
    with first:
        criterion = pick("Criterion", "criterion", criterion_help())
    with second:
        against = pick("Compared with", "against", "A second rule, at the same sparsity.")
    with scope_place:
        scope = scope_control()
    with more, st.popover("More", width="stretch", help="What the criteria are built on, and how zeros are spread"):
        options, scores, text = basis_controls(runs, (criterion, against), texts)
    in_heads = [title_of(name) for name in dict.fromkeys((criterion, against)) if not counts_weights(name)]
    with slider:
        percent = st.slider(
            "Sparsity" if not in_heads else f"Sparsity ({listed(in_heads)}: share of heads)",
            0,
            HIGHEST_PERCENT,
            DEFAULT_PERCENT,
            format="%d %%",
            key="sparsity",
            bind="query-params",
            persist_state="session",
            help=" ".join([GLOSSARY["sparsity"], *(f"{title} counts heads instead." for title in in_heads)]),
        )
    setting = PruneSetting(
        model=view.model,
        evaluation=evaluation,
        criteria=(criterion, against),
        sparsity=round(percent / 100, 2),
        options=replace(options, scope=scope),
        scores=scores,
        calibration=calibration_items(view.task, scores, text),
        only_gradient=not runs and bool(score_runs(view.runs, view.model, view.task.name, estimator="gradient")),
    )
    spread_note(setting)
    heads_note(view, setting)
    measured_marks(view.runs, setting, percent)
    return setting


def heads_note(view: Frame, setting: PruneSetting) -> None:
    """Say what share of the weights goes with whole heads, and that the other criterion removes another."""
    for name in dict.fromkeys(setting.criteria):
        if counts_weights(name) or (setting.scores is None and CRITERIA[name].needs_scores):
            continue
        others = [title_of(other) for other in setting.criteria if counts_weights(other)]
        beside = f" {listed(others)} removes {100 * setting.sparsity:.0f} % of the weights." if others else ""
        st.caption(f"{title_of(name)} removes {heads_words(view, mask_spec(setting, name))}.{beside}")


def wrong_in_link(texts: Sequence[str]) -> list[str]:
    """Messages about invalid values in the URL, which Streamlit would drop silently."""
    said = [
        bad_choice("criterion", list(CRITERIA), DEFAULTS["criterion"], "criterion"),
        bad_choice("against", list(CRITERIA), DEFAULTS["against"], "criterion"),
        wrong_sparsity(),
        bad_choice("scope", SCOPES, DEFAULTS["scope"], "scope"),
        *wrong_basis(texts),
    ]
    return [sentence for sentence in said if sentence]


def wrong_sparsity() -> str:
    asked = st.query_params.get("sparsity")
    if asked is None or asked in PERCENTS:
        return ""
    return (
        f"The link asks for a sparsity of “{asked[:20]}”; it is a whole number of percent from 0 to {HIGHEST_PERCENT}. "
        f"Showing {DEFAULT_PERCENT} % instead."
    )


def pick(label: str, key: str, help_text: str) -> str:
    """Draw a select box of criteria by their plain names, bound to the URL."""
    names = list(CRITERIA)
    keep_valid(key, names)
    return st.selectbox(
        label,
        names,
        names.index(DEFAULTS[key]),
        key=key,
        bind="query-params",
        persist_state="session",
        help=help_text,
    )


def criterion_help() -> str:
    rules = "\n".join(f"- `{one.name}` {one.title}: {one.summary}" for one in CRITERIA.values())
    return f"{GLOSSARY['criterion']}\n\n{rules}"


def scope_control() -> Scope:
    keep_valid("scope", SCOPES)
    chosen = st.segmented_control(
        "Scope",
        SCOPES,
        default=DEFAULTS["scope"],
        required=True,
        key="scope",
        bind="query-params",
        persist_state="session",
        width="stretch",
        help="Which weights take part: attention projections (q, k, v, o), MLP projections (gate, up, down), or both. "
        "The sparsity is reached over these.",
    )
    return cast(Scope, chosen)


def usable_scores(view: Frame) -> list[StoredRun]:
    """Return head scores from calibration examples only, because pruning must not have seen the evaluation items.

    Shipped ones come first, since shipped accuracies are built on them; then those with the most examples.
    """
    found = [
        run for run in score_runs(view.runs, view.model, view.task.name) if run.spec.examples.split == "calibration"
    ]
    return sorted(found, key=lambda run: run.origin != "precomputed")


def evaluation_items(view: Frame) -> ExampleSet:
    """Return the first n items of the task (all of a text), from a stored run if its data is not on this machine."""
    task = view.task
    if task.is_local():
        return evaluation_set(task.name, None if task.kind == "text" else view.n)
    stored = [run for run in eval_runs(view.runs, view.model, task.name) if run.spec.examples.version == task.version]
    if stored:
        ids = max((run.spec.examples.ids for run in stored), key=len)
        return ExampleSet(task.name, task.version, ids[: view.n], "evaluation")
    raise CapVizError(
        f"The examples of {task.title} are not on this machine, and no stored run names them; set CAP_VIZ_DATA to a "
        f"folder that holds {task.data_folder}/, or choose the offline task mini_science."
    )


def measured_marks(runs: Sequence[StoredRun], setting: PruneSetting, percent: int) -> None:
    """Draw buttons that jump to the sparsities with stored accuracies."""
    measured = measured_percents(runs, setting, highest=HIGHEST_PERCENT)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(marks_words(setting, bool(measured)), width="content")
        for value, criteria in measured.items():
            st.button(
                mark_label(value, criteria, setting),
                key=f"prune_mark_{value}",
                type="secondary" if value == percent else "tertiary",
                on_click=choose,
                args=({"sparsity": value},),
            )


def marks_words(setting: PruneSetting, any_measured: bool) -> str:
    same = " (both are the same criterion: choose another to compare)" if len(set(setting.criteria)) == 1 else ""
    if load_task(setting.evaluation.task).kind == "text":
        return "Text has no accuracy to store: only what is removed can be shown."
    if any_measured:
        return f"Stored accuracies{same} at"
    return f"No stored accuracies on these {len(setting.evaluation.ids)} items yet{same}."


def mark_label(percent: int, criteria: set[str], setting: PruneSetting) -> str:
    every = set(setting.criteria)
    only = "" if criteria == every else f" ({', '.join(title_of(name) for name in sorted(criteria))} only)"
    return f"{percent} %{only}"
