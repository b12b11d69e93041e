"""Runs started on the Heads page: the popover of a new run, its cost and sizes, generic text, whole layers.

The cost is estimated from stored runs of the same estimator, the sizes of a hybrid run for a budget from a pilot of 16
examples measured both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from cap_viz.attribution.effect_metrics import METRICS, applicable_metrics
from cap_viz.attribution.results import ABLATIONS
from cap_viz.dashboard.components.job_card import active_jobs, job_view
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.source import WANTED_RUN, Source, name_of, shape_of, start
from cap_viz.dashboard.names import ABLATION_NAMES, metric_name
from cap_viz.dashboard.selection import choose
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError, UsageError
from cap_viz.progress import duration
from cap_viz.runs.jobs import Job
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import alike, block_run, block_spec, is_head_scores
from cap_viz.runs.spec import RunSpec, ScoreSpec, spec_key
from cap_viz.runs.store import StoredRun
from cap_viz.stats.budget import ExampleCost, HybridPlan, pilot_of, plan_for_half_width, plan_for_seconds
from cap_viz.stats.hybrid import FEWEST_EXACT
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import calibration_set
from cap_viz.tasks.readable import CONTROL_TEXTS, controls_for

NEW_RUN_OPEN = "heads_new_run"
ESTIMATORS = {
    "exact": "Ablates each head in turn. No approximation; all metrics at once.",
    "gradient": "All heads from one backward pass per example. Fast, but may mislead on the largest heads.",
    "hybrid": "A few examples exactly, many by gradient. Its intervals are honest; those of gradient alone are too "
    "narrow.",
}
SIZES = ("by hand", "time budget", "precision")
CONTROL_EXAMPLES = 16
UNKNOWN = {
    "exact": "Every head is ablated in turn on every example; no run has been timed here yet.",
    "gradient": "A backward pass per example: about a hundredth of the exact time.",
}


def new_run(view: Frame) -> None:
    """Draw the popover: settings, estimated cost, and the start button or the reason why there is none."""
    popover = st.popover("New run", icon=":material/play_arrow:", width="stretch", key=NEW_RUN_OPEN, on_change="rerun")
    with popover, st.container(width=360, gap="small"):
        if not view.installed:
            st.markdown(view.install_hint)
            return
        if not view.task.is_local():
            st.markdown(missing_texts(view.task))
            return
        estimator = str(
            st.segmented_control(
                "Estimator",
                list(ESTIMATORS),
                default="exact",
                required=True,
                key="heads_estimator",
                label_visibility="collapsed",
            )
        )
        st.caption(ESTIMATORS[estimator])
        ablation = str(
            st.segmented_control(
                "Head's output becomes",
                ABLATIONS,
                default="zero",
                required=True,
                key="heads_ablation",
                format_func=lambda name: ABLATION_NAMES[name],
                help=GLOSSARY["ablation"],
            )
        )
        metric = None
        seed_place, metric_place = st.columns(2)
        seed = int(seed_place.number_input("Seed of the draw", 0, 9999, 0, key="heads_seed"))
        if estimator != "exact":
            # Errors have no gradient.
            offered = [name for name in applicable_metrics(view.task) if name != "accuracy"]
            names = partial(metric_name, view.task)
            metric = str(metric_place.selectbox("Metric", offered, key="heads_gradient_metric", format_func=names))
        try:
            specs = wanted_specs(view, estimator, seed, ablation, metric)
        except CapVizError as error:
            st.caption(str(error))
            return
        for name, spec in specs.items():
            st.caption(cost_sentence(view, len(spec.examples.ids), view.task.name, name))
        st.button("Start", type="primary", width="stretch", key="heads_start", on_click=submit, args=(view, specs))


def missing_texts(task: Task) -> str:
    offline = load_task("mini_text" if task.kind == "text" else "mini_science").title
    return (
        f"The examples of {task.title} are not on this machine. Set CAP_VIZ_DATA to a folder that holds "
        f"{task.data_folder}/ with its splits as JSON lines, or choose the task {offline}, which works offline."
    )


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
    # Both parts of a hybrid run must replace a head's output by the same values.
    shared = estimator == "hybrid" and ablation != "zero"
    found = both_ways(view, seed, ablation, metric, n, n_gradient, shared_reference=shared)
    return {name: spec for name, spec in found.items() if estimator in ("hybrid", name)}


def both_ways(
    view: Frame,
    seed: int,
    ablation: str,
    metric: str | None,
    n: int,
    n_gradient: int,
    *,
    shared_reference: bool = False,
) -> dict[str, ScoreSpec]:
    """Return an exact and a gradient spec; with a shared reference both take the ablation's values from the same."""
    few, many = (calibration_set(view.task.name, size, seed) for size in (n, n_gradient))
    return {
        "exact": ScoreSpec(model=view.model, examples=few, ablation=ablation),
        "gradient": ScoreSpec(
            model=view.model,
            examples=many,
            estimator="gradient",
            ablation=ablation,
            metric=metric,
            reference=few if shared_reference else None,
        ),
    }


def hybrid_sizes(view: Frame, seed: int, ablation: str, metric: str, most: int) -> tuple[int, int]:
    how = st.segmented_control(
        "Examples", SIZES, default=SIZES[0], required=True, key="heads_sizes", label_visibility="collapsed"
    )
    if how != SIZES[0]:
        return planned_sizes(view, seed, ablation, metric, most, by_time=how == SIZES[1])
    first, second = st.columns(2)
    n = first.number_input("exactly", FEWEST_EXACT, most, min(FEWEST_EXACT, most), key="heads_hybrid_n")
    n_gradient = second.number_input("by gradient", int(n), most, min(128, most), key="heads_hybrid_big_n")
    return int(n), int(n_gradient)


def planned_sizes(view: Frame, seed: int, ablation: str, metric: str, most: int, *, by_time: bool) -> tuple[int, int]:
    """Return (n, N), the numbers of exact and gradient examples, for a budget the user enters.

    Raises `UsageError` if the pilot is missing or the budget cannot be met.
    """
    pilot = both_ways(view, seed, ablation, metric, FEWEST_EXACT, FEWEST_EXACT)
    exact, gradient = (view.store.get(pilot[name]) for name in ("exact", "gradient"))
    if exact is None or gradient is None:
        label = f"Measure the pilot ({FEWEST_EXACT} examples, both ways)"
        jobs = {f"Pilot, {view.task.name}, {name}, n = {FEWEST_EXACT}": spec for name, spec in pilot.items()}
        st.button(label, key="heads_pilot", on_click=start, args=(jobs,))
        raise UsageError("The sizes are planned from a pilot with this draw, ablation and metric, and then fixed.")
    plan = plan_from(view, exact, gradient, metric, most, by_time=by_time)
    st.caption(
        f"**{plan.n}** exactly and **{plan.n_gradient}** by gradient: about {duration(plan.seconds)}, and half of the "
        f"heads known to ± {plan.half_width:.2g} {METRICS[metric].unit} or better. Judged from the pilot, then fixed."
    )
    return plan.n, plan.n_gradient


def plan_from(
    view: Frame, exact: StoredRun, gradient: StoredRun, metric: str, most: int, *, by_time: bool
) -> HybridPlan:
    pilot = pilot_of(
        load_scores(view.store, exact).effects(metric), load_gradient(view.store, gradient).effects(metric)
    )
    cost = ExampleCost(exact=seconds_each(exact), gradient=seconds_each(gradient))
    if by_time:
        minutes = st.number_input("Minutes", 0.1, 600.0, 5.0, key="heads_minutes")
        return plan_for_seconds(pilot, cost, 60 * minutes, available=most)
    label = f"Median half-width of the intervals, {METRICS[metric].unit}"
    wanted = st.number_input(label, 0.0001, 10.0, 0.02, format="%.4f", key="heads_width")
    return plan_for_half_width(pilot, cost, wanted, available=most)


def submit(view: Frame, specs: Mapping[str, ScoreSpec]) -> None:
    """Queue the runs not stored and select them; a hybrid run is selected once both parts are there."""
    st.session_state[NEW_RUN_OPEN] = False
    missing = {name: spec for name, spec in specs.items() if view.store.sound(spec) is None}
    start({title_of(f"Head scores, {view.task.name}, {name}", spec): spec for name, spec in missing.items()})
    choose({"run": name_of(view, list(specs.values())[-1])})
    if len(specs) == 2:
        st.session_state[WANTED_RUN] = tuple(spec_key(spec) for spec in specs.values())


def title_of(what: str, spec: RunSpec) -> str:
    return f"{what}, n = {len(spec.examples.ids)}"


def measure_button(view: Frame, label: str, what: str, spec: RunSpec, *, key: str, **more: Any) -> None:
    """Draw a button that starts a run, or say why it cannot be started here; `what` begins the title of the job."""
    task = load_task(spec.examples.task)
    if not view.installed:
        st.caption(view.install_hint)
    elif not task.is_local():
        st.caption(missing_texts(task))
    else:
        jobs = {title_of(f"{what}, {task.name}", spec): spec}
        st.button(label, key=key, on_click=start, args=(jobs,), **more)


def cost_sentence(view: Frame, n: int, task: str, estimator: str = "exact") -> str:
    """State the passes and time to score `n` examples of a task, and the run the estimate rests on."""
    basis = timed_run(view, task, estimator)
    if basis is None:
        return UNKNOWN[estimator]
    shape, seconds = shape_of(basis), seconds_each(basis)
    heads = shape.n_layers * shape.n_heads
    passes = f"{n * heads:,} ablated passes ({n} × {heads} heads)" if estimator == "exact" else f"{n} backward passes"
    return (
        f"{passes}, about **{duration(n * seconds)}**, at the {seconds:.2g} s per example of a run on "
        f"{load_task(basis.spec.examples.task).title} ({basis.provenance.get('threads', '?')} threads)."
    )


def seconds_each(run: StoredRun) -> float:
    return run.provenance["seconds"] / len(run.spec.examples.ids)


def timed_run(view: Frame, task: str, estimator: str = "exact") -> StoredRun | None:
    """Return the best uninterrupted run to time by: of the task, then stored locally, then with most examples."""
    timed = [
        run
        for run in view.runs
        if is_head_scores(run, estimator) and run.spec.model == view.model and not run.provenance["resumed_batches"]
    ]
    return max(
        timed,
        key=lambda run: (run.spec.examples.task == task, run.origin == "live", len(run.spec.examples.ids)),
        default=None,
    )


def control_jobs(source: Source) -> list[Job]:
    """Return the active jobs whose run can become the control of this one."""
    return active_jobs(
        lambda spec: isinstance(spec, ScoreSpec) and spec.examples.task in CONTROL_TEXTS and alike(spec, source.spec)
    )


def no_control(frame: Frame, source: Source) -> None:
    """Draw the placeholder of a view that lacks its control: the purpose of a control, and ways to measure it."""
    jobs, spec = control_jobs(source), source.spec
    for job in jobs:
        job_view(job, key="heads_control")
    texts = controls_for(spec.model.id)
    text = load_task(next((name for name in texts if load_task(name).is_local()), texts[-1]))
    with st.container(border=True):
        method = f"{spec.estimator}, {spec.ablation} ablation"
        st.markdown(f"**No generic text has been measured for this model yet ({method})**")
        st.markdown(
            "A head that matters on this task may simply be one that any text needs. To tell the two apart, the same "
            f"measurement is made on {text.title.lower()}, which asks for no reasoning."
        )
        if jobs:
            st.caption("It is being measured now; this view appears when it is complete.")
            return
        n = min(CONTROL_EXAMPLES, len(text.splits.calibration)) if text.is_local() else CONTROL_EXAMPLES
        wanted = replace(spec, examples=calibration_set(text.name, n))
        label = f"Measure {text.title.lower()} ({n} passages)"
        measure_button(frame, label, "Head scores", wanted, key="heads_control_start", type="primary")
        st.caption(cost_sentence(frame, n, text.name))


def offer_blocks(frame: Frame, spec: ScoreSpec) -> None:
    """Draw a button that measures whole layers, if the model and texts are local and no run is stored."""
    if frame.installed and frame.task.is_local() and block_run(frame.store, spec) is None:
        words = ablation_words(spec)
        measure_button(
            frame,
            "Measure whole layers, too",
            "Whole layers",
            block_spec(spec),
            key="heads_blocks_start",
            icon=":material/view_column:",
            help="Two more columns on the same examples: the effect of "
            f"{words.doing} the output of all heads of a layer, or of its MLP{words.each}.",
        )
