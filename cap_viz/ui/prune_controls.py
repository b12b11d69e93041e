"""The Prune page's controls, all bound to the URL, and the setting they describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import streamlit as st

from cap_viz.errors import CapVizError
from cap_viz.finding import eval_runs, score_runs
from cap_viz.pruning import CRITERIA
from cap_viz.pruning.base import KV_COMBINES
from cap_viz.pruning.masks import SCOPES, Scope
from cap_viz.runs import calibration_set, evaluation_set
from cap_viz.shipped import N_CALIBRATION, SEED
from cap_viz.spec import ExampleSet, ScoreSpec
from cap_viz.store import StoredRun
from cap_viz.ui.frame import Frame
from cap_viz.ui.panels import GLOSSARY, METRIC_NAMES, note
from cap_viz.ui.prune_setting import Setting, measured_percents, title_of
from cap_viz.ui.state import bad_choice, choose, keep_valid

KEYS = ("model", "task", "n", "criterion", "against", "sparsity", "scope", "metric", "kv", "scores")
DEFAULTS = {"criterion": "cap", "against": "wanda", "scope": "both", "metric": "nll", "kv": "mean"}
DEFAULT_PERCENT, HIGHEST_PERCENT = 20, 90
PERCENTS = {str(percent) for percent in range(HIGHEST_PERCENT + 1)}
# Accuracy effects of single heads are too coarse to rank heads by.
METRICS = ("nll", "choice_nll", "logit_diff")


def controls(view: Frame) -> Setting:
    """Draw the controls. Raises `CapVizError` when the items to measure on cannot be known."""
    for sentence in wrong_in_link():
        note(sentence)
    evaluation = evaluation_items(view)
    runs = usable_scores(view)
    first, second, slider, scope_place, more = st.columns([2.2, 2.2, 3.6, 3.6, 1.5], vertical_alignment="bottom")
    with first:
        criterion = pick("Criterion", "criterion", list(CRITERIA), criterion_help())
    with second:
        against = pick("Compared with", "against", list(CRITERIA), "A second rule, at the same sparsity.")
    with scope_place:
        scope = scope_control()
    with more, st.popover("More", width="stretch", help="What CAP is built on"):
        metric, kv_combine, scores = cap_options(runs)
    with slider:
        percent = st.slider(
            "Sparsity",
            0,
            HIGHEST_PERCENT,
            DEFAULT_PERCENT,
            format="%d %%",
            key="sparsity",
            bind="query-params",
            persist_state="session",
            help=GLOSSARY["sparsity"],
        )
    setting = Setting(
        model=view.model,
        evaluation=evaluation,
        criteria=(criterion, against),
        sparsity=round(percent / 100, 2),
        scope=scope,
        metric=metric,
        kv_combine=kv_combine,
        scores=scores,
        calibration=calibration_items(view, scores),
    )
    measured_marks(view.runs, setting, percent)
    return setting


def wrong_in_link() -> list[str]:
    """Sentences about values the URL has wrong, which Streamlit would drop without a word."""
    said = [
        bad_choice("criterion", list(CRITERIA), DEFAULTS["criterion"], "criterion"),
        bad_choice("against", list(CRITERIA), DEFAULTS["against"], "criterion"),
        wrong_sparsity(),
        bad_choice("scope", SCOPES, DEFAULTS["scope"], "scope"),
        bad_choice("metric", METRICS, DEFAULTS["metric"], "metric"),
        bad_choice("kv", KV_COMBINES, DEFAULTS["kv"], "KV combination"),
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


def pick(label: str, key: str, options: list[str], help_text: str) -> str:
    """A bound select with plain names, which is what the URL holds."""
    keep_valid(key, options)
    return st.selectbox(
        label,
        options,
        options.index(DEFAULTS[key]),
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


def cap_options(runs: Sequence[StoredRun]) -> tuple[str, str, ScoreSpec | None]:
    """Metric, KV combination and head scores behind CAP."""
    st.caption("These change CAP only. Accuracy is measured in the same way whatever stands here.")
    meanings = "\n".join(f"- `{name}`: {METRIC_NAMES[name]}" for name in METRICS)
    metric = pick("Metric of the head scores", "metric", list(METRICS), f"Effects are differences of:\n\n{meanings}")
    kv_combine = pick(
        "Key-value groups combined by",
        "kv",
        list(KV_COMBINES),
        "Several query heads share one set of key and value weights (grouped-query attention). Their importance is the "
        "mean or the maximum of these heads' importances; the paper leaves it open.",
    )
    labels = {score_label(run): run for run in runs}
    if not labels:
        return metric, kv_combine, None
    keep_valid("scores", list(labels))
    chosen = st.selectbox(
        "Head scores",
        list(labels),
        key="scores",
        bind="query-params",
        persist_state="session",
        help="The stored run CAP is built on: examples, estimator, ablation, key. Wanda measures activations on the "
        "same examples.",
    )
    spec = labels[chosen].spec
    return metric, kv_combine, spec if isinstance(spec, ScoreSpec) else None


def score_label(run: StoredRun) -> str:
    spec = cast(ScoreSpec, run.spec)
    return f"{len(spec.examples.ids)}-{spec.estimator}-{spec.ablation}-{run.key[:8]}"


def usable_scores(view: Frame) -> list[StoredRun]:
    """Head scores from calibration examples only: pruning must not have seen the evaluation items.

    Shipped ones first, since shipped accuracies are built on them; then most examples.
    """
    found = [
        run for run in score_runs(view.runs, view.model, view.task.name) if run.spec.examples.split == "calibration"
    ]
    return sorted(found, key=lambda run: run.origin != "precomputed")


def evaluation_items(view: Frame) -> ExampleSet:
    """The first n items of the task; from a stored run where the task's data is not on this machine."""
    if view.task.is_local():
        return evaluation_set(view.task.name, view.n)
    for run in eval_runs(view.runs, view.model, view.task.name):
        ids = run.spec.examples.ids
        if len(ids) >= view.n and run.spec.examples.version == view.task.version:
            return ExampleSet(view.task.name, view.task.version, ids[: view.n], "evaluation")
    raise CapVizError(
        f"The questions of {view.task.title} are not on this machine, and no stored run has {view.n} of them; "
        "set CAP_VIZ_DATA to a folder with its files, or choose the offline task mini_science."
    )


def calibration_items(view: Frame, scores: ScoreSpec | None) -> ExampleSet | None:
    if scores is not None:
        return scores.examples
    return calibration_set(view.task.name, N_CALIBRATION, SEED) if view.task.is_local() else None


def measured_marks(runs: Sequence[StoredRun], setting: Setting, percent: int) -> None:
    """Sparsities with stored accuracies, to jump to."""
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


def marks_words(setting: Setting, any_measured: bool) -> str:
    same = " (both are the same criterion: choose another to compare)" if len(set(setting.criteria)) == 1 else ""
    if any_measured:
        return f"Stored accuracies{same} at"
    return f"No stored accuracies on these {len(setting.evaluation.ids)} items yet{same}."


def mark_label(percent: int, criteria: set[str], setting: Setting) -> str:
    every = set(setting.criteria)
    only = "" if criteria == every else f" ({', '.join(title_of(name) for name in sorted(criteria))} only)"
    return f"{percent} %{only}"
