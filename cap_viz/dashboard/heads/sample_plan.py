"""Cost and sizes of a new head measurement.

The cost is estimated from stored runs of the same estimator, the sizes of a hybrid run for a budget from a pilot of 16
examples measured both ways.
"""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.source import shape_of, submitting, watch
from cap_viz.dashboard.names import METRIC_UNITS
from cap_viz.errors import UsageError
from cap_viz.progress import duration
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.run_queries import is_head_scores
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats.budget import ExampleCost, HybridPlan, pilot_of, plan_for_half_width, plan_for_seconds
from cap_viz.stats.hybrid import FEWEST_EXACT
from cap_viz.tasks.example_sets import calibration_set

UNKNOWN = {
    "exact": "Every head is ablated in turn on every example. No run has been timed here yet, so the time is unknown.",
    "gradient": "One backward pass per example judges all heads, about a hundredth of the exact estimator's time.",
}


def cost_sentence(view: Frame, n: int, task: str, estimator: str = "exact") -> str:
    """State the passes and time to score `n` examples of a task, and the run the estimate rests on."""
    basis = timed_run(view, task, estimator)
    if basis is None:
        return UNKNOWN[estimator]
    shape, seconds = shape_of(basis), seconds_each(basis)
    heads = shape.n_layers * shape.n_heads
    passes = f"{n * heads:,} ablated passes ({n} × {heads} heads)" if estimator == "exact" else f"{n} backward passes"
    return (
        f"{passes}, about **{duration(n * seconds)}**, "
        f"judged from {seconds:.2g} s per example in the stored run of {len(basis.spec.examples.ids)} on "
        f"{basis.spec.examples.task} ({basis.provenance.get('threads', '?')} threads; other machines differ)."
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


def planned_sizes(view: Frame, seed: int, ablation: str, metric: str, most: int, *, by_time: bool) -> tuple[int, int]:
    """Return (n, N), the numbers of exact and gradient examples, for a budget the user enters.

    Raises `UsageError` if the pilot is missing or the budget cannot be met.
    """
    pilot = pilot_specs(view, seed, ablation, metric)
    stored = {name: view.store.get(spec) for name, spec in pilot.items()}
    exact, gradient = stored["exact"], stored["gradient"]
    if exact is None or gradient is None:
        st.button(
            f"Measure the pilot ({FEWEST_EXACT} examples, both ways)", key="heads_pilot", on_click=submit, args=(pilot,)
        )
        raise UsageError("The sizes are planned from a pilot with this seed, ablation and metric, and then fixed.")
    plan = plan_from(view, exact, gradient, metric, most, by_time=by_time)
    st.caption(
        f"**{plan.n}** exactly and **{plan.n_gradient}** by gradient: about {duration(plan.seconds)}, and half of the "
        f"heads known to ± {plan.half_width:.2g} {METRIC_UNITS[metric]} or better. Judged from the pilot, then fixed."
    )
    return plan.n, plan.n_gradient


def pilot_specs(view: Frame, seed: int, ablation: str, metric: str) -> dict[str, ScoreSpec]:
    examples = calibration_set(view.task.name, FEWEST_EXACT, seed)
    return {
        "exact": ScoreSpec(model=view.model, examples=examples, ablation=ablation),
        "gradient": ScoreSpec(
            model=view.model, examples=examples, estimator="gradient", ablation=ablation, metric=metric
        ),
    }


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
    wanted = st.number_input(
        f"Median half-width of the intervals, {METRIC_UNITS[metric]}",
        0.0001,
        10.0,
        0.02,
        format="%.4f",
        key="heads_width",
    )
    return plan_for_half_width(pilot, cost, wanted, available=most)


def submit(specs: dict[str, ScoreSpec]) -> None:
    with submitting():
        for name, spec in specs.items():
            watch(spec, f"Pilot, {spec.examples.task}, {name}, n = {FEWEST_EXACT}")
