"""Popover that starts a run: estimator, number of examples or budget, estimated cost, start button."""

from __future__ import annotations

import streamlit as st

from cap_viz.attribution.effect_metrics import METRICS, applicable_metrics
from cap_viz.attribution.results import ABLATIONS
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.sample_plan import cost_sentence, planned_sizes
from cap_viz.dashboard.heads.source import WANTED_RUN, name_of, submitting, watch
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError, UsageError
from cap_viz.runs.spec import ScoreSpec, spec_key
from cap_viz.stats.hybrid import FEWEST_EXACT
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set

NEW_RUN_OPEN = "heads_new_run"
ESTIMATORS = {
    "exact": "Each head is ablated in turn and the rest of the model run again. No approximation; all metrics at once.",
    "gradient": "All heads from one backward pass per example, to first order. Fast; may mislead on the largest heads.",
    "hybrid": "A few examples exactly and many by gradient, combined. Unlike gradient alone its intervals cover.",
}
SIZES = ("by hand", "time budget", "precision")


def new_run(view: Frame) -> None:
    """Draw the popover: settings, estimated cost, and the start button or the reason why there is none."""
    popover = st.popover("New run", icon=":material/play_arrow:", width="stretch", key=NEW_RUN_OPEN, on_change="rerun")
    with popover, st.container(width=360):
        if not view.installed:
            st.markdown(view.install_hint)
            return
        if not view.task.is_local():
            st.markdown(missing_texts(view))
            return
        estimator = pick_estimator()
        seed = int(st.number_input("Seed of the draw", 0, 9999, 0, key="heads_seed"))
        ablation = pick_ablation()
        metric = None if estimator == "exact" else pick_gradient_metric(view.task)
        try:
            specs = wanted_specs(view, estimator, seed, ablation, metric)
        except CapVizError as error:
            st.caption(str(error))
            return
        for name, spec in specs.items():
            st.caption(cost_sentence(view, len(spec.examples.ids), view.task.name, name))
        st.button("Start", type="primary", width="stretch", key="heads_start", on_click=submit, args=(view, specs))


def missing_texts(view: Frame) -> str:
    task = view.task
    offline = "mini_text" if task.kind == "text" else "mini_science"
    return (
        f"The examples of {task.title} are not on this machine. Set CAP_VIZ_DATA to a folder that holds "
        f"{task.data_folder}/ with its splits as JSON lines, or choose the task {offline}, which works offline."
    )


def pick_estimator() -> str:
    chosen = st.segmented_control(
        "Estimator", list(ESTIMATORS), default="exact", required=True, key="heads_estimator", help=GLOSSARY["estimator"]
    )
    st.caption(ESTIMATORS[str(chosen)])
    return str(chosen)


def pick_ablation() -> str:
    chosen = st.segmented_control(
        "Replace a head's output by",
        ABLATIONS,
        default="zero",
        required=True,
        key="heads_ablation",
        help=GLOSSARY["ablation"],
    )
    return str(chosen)


def pick_gradient_metric(task: Task) -> str:
    """Select the metric of a gradient run: accuracy has no gradient. Exact runs hold every metric."""
    offered = [name for name in applicable_metrics(task) if name != "accuracy"]
    refused = [name for name in METRICS if name not in offered]
    chosen = st.selectbox("Metric", offered, key="heads_gradient_metric", help="A gradient is about one metric.")
    st.caption(f"Not offered: {', '.join(refused)} (no gradient, or no options to compare).")
    return str(chosen)


def wanted_specs(view: Frame, estimator: str, seed: int, ablation: str, metric: str | None) -> dict[str, ScoreSpec]:
    """Return the specs to compute, by estimator. Raises `CapVizError` if they cannot be built or planned."""
    most = len(view.task.splits.calibration)
    if estimator == "hybrid":
        if most <= FEWEST_EXACT:
            raise UsageError(
                f"The hybrid estimator needs more than {FEWEST_EXACT} examples; {view.task.title} has {most}."
            )
        n, n_gradient = hybrid_sizes(view, seed, ablation, metric or "nll", most)
    else:
        usual = 16 if estimator == "exact" else 128
        n = n_gradient = int(
            st.number_input("Examples", 1, most, min(usual, most), key="heads_n", help=GLOSSARY["calibration"])
        )
    few, many = (calibration_set(view.task.name, size, seed) for size in (n, n_gradient))
    # Both parts of a hybrid run must replace a head's output by the same values.
    reference = few if estimator == "hybrid" and ablation != "zero" else None
    found = {
        "exact": ScoreSpec(model=view.model, examples=few, ablation=ablation),
        "gradient": ScoreSpec(
            model=view.model,
            examples=many,
            estimator="gradient",
            ablation=ablation,
            metric=metric,
            reference=reference,
        ),
    }
    return {name: spec for name, spec in found.items() if estimator in ("hybrid", name)}


def hybrid_sizes(view: Frame, seed: int, ablation: str, metric: str, most: int) -> tuple[int, int]:
    how = st.segmented_control("Examples", SIZES, default=SIZES[0], required=True, key="heads_sizes")
    if how != SIZES[0]:
        return planned_sizes(view, seed, ablation, metric, most, by_time=how == SIZES[1])
    first, second = st.columns(2)
    n = first.number_input("exactly", FEWEST_EXACT, most, min(FEWEST_EXACT, most), key="heads_hybrid_n")
    n_gradient = second.number_input("by gradient", int(n), most, min(128, most), key="heads_hybrid_big_n")
    return int(n), int(n_gradient)


def submit(view: Frame, specs: dict[str, ScoreSpec]) -> None:
    """Queue the runs not stored and select them; runs as a callback, so that the bound run selector may be set."""
    st.session_state[NEW_RUN_OPEN] = False
    with submitting():
        for name, spec in specs.items():
            if view.store.sound(spec) is None:
                watch(spec, f"Head scores, {view.task.name}, {name}, n = {len(spec.examples.ids)}")
            st.session_state["run"] = name_of(view, spec)
        if len(specs) == 2:
            st.session_state[WANTED_RUN] = (spec_key(specs["exact"]), spec_key(specs["gradient"]))
