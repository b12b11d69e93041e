"""Runs started on the Heads page: the popover of a new run, its cost and sizes, generic text, whole layers.

The cost is estimated from stored runs of the same estimator, the sizes of a hybrid run for a budget from a pilot of 16
examples measured both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from cap_viz.attribution.effect_metrics import DIFFERENTIABLE, METRICS, applicable_metrics
from cap_viz.attribution.estimators import ESTIMATORS
from cap_viz.attribution.results import ABLATIONS
from cap_viz.dashboard.components.job_card import offer_jobs
from cap_viz.dashboard.components.submission import submit_all
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.controls import WANTED_RUN, name_of
from cap_viz.dashboard.names import ABLATION_NAMES, job_title, metric_name
from cap_viz.dashboard.selection import choose
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError, UsageError
from cap_viz.progress import duration
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import block_run, block_spec
from cap_viz.runs.sample_plan import hybrid_specs, pilot_specs, plan_from, seconds_each, timed_run
from cap_viz.runs.spec import RunSpec, ScoreSpec, spec_key
from cap_viz.stats.hybrid import FEWEST_EXACT
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set
from cap_viz.tasks.readable import controls_for
from cap_viz.tasks.wordings import WORDINGS, on_one_line, with_line_breaks

# Key of the button that starts a new run, under which a refusal is shown; session key of the popover.
STARTED, NEW_RUN_OPEN = "heads_started", "heads_new_run"
USUAL_EXAMPLES = {"exact": 16, "gradient": 128}
SIZES = ("by hand", "time budget", "precision")
CONTROL_EXAMPLES = 16
OWN_WORDING = "The task's own"
UNKNOWN = {
    "exact": "Every head is ablated in turn on every example; no run has been timed here yet.",
    "gradient": "A backward pass per example: about a hundredth of the exact time.",
}


def new_run(frame: Frame) -> None:
    """Draw the popover: settings, estimated cost, and the start button or the reason why there is none."""
    popover = st.popover("New run", icon=":material/play_arrow:", width="stretch", key=NEW_RUN_OPEN, on_change="rerun")
    with popover, st.container(width=360, gap="small"):
        if reason := frame.hindrance(frame.task):
            st.markdown(reason)
            return
        estimator = picked("Estimator", ESTIMATORS, "heads_estimator", help=GLOSSARY["estimator"])
        names = ABLATION_NAMES.__getitem__
        ablation = picked("Ablation", ABLATIONS, "heads_ablation", format_func=names, help=GLOSSARY["ablation"])
        seed_place, metric_place = st.columns(2)
        seed, metric = int(seed_place.number_input("Seed of the draw", 0, 9999, 0, key="heads_seed")), None
        if estimator != "exact":
            offered = [name for name in applicable_metrics(frame.task) if name in DIFFERENTIABLE]
            titles = partial(metric_name, frame.task)
            metric = str(metric_place.selectbox("Metric", offered, key="heads_gradient_metric", format_func=titles))
        drawn = partial(calibration_set, frame.task, seed=seed, prompt=picked_prompt(frame.task))
        try:
            specs = wanted_specs(frame, estimator, drawn, ablation, metric)
        except CapVizError as error:
            st.caption(str(error))
            return
        for name, spec in specs.items():
            st.caption(cost_sentence(frame, len(spec.examples.ids), frame.task.name, name))
        st.button("Start", type="primary", width="stretch", key="heads_start", on_click=submit, args=(frame, specs))


def picked(label: str, options: tuple[str, ...], key: str, **more: Any) -> str:
    """Draw options side by side, of which one is always chosen, at first the first."""
    return str(st.segmented_control(label, options, default=options[0], required=True, key=key, **more))


def picked_prompt(task: Task) -> str | None:
    """Draw the wordings of the prompt, to which one may be added; return None for the task's own."""
    if not task.splits.calibration[0].asks:
        return None
    offered = [OWN_WORDING, *map(on_one_line, WORDINGS)]
    asked = st.selectbox("Prompt", offered, key="heads_prompt", accept_new_options=True, help=GLOSSARY["wording"])
    return None if asked in (None, OWN_WORDING) else with_line_breaks(asked)


def wanted_specs(
    frame: Frame, estimator: str, drawn: Callable[[int], ExampleSet], ablation: str, metric: str | None
) -> dict[str, ScoreSpec]:
    """Return the specs to compute, by estimator. Raises `CapVizError` if they cannot be built or planned."""
    task, most = frame.task, len(frame.task.splits.calibration)
    if estimator == "hybrid":
        if most <= FEWEST_EXACT:
            raise UsageError(f"The hybrid estimator needs more than {FEWEST_EXACT} examples; {task.title} has {most}.")
        pilot = ScoreSpec(frame.model, drawn(FEWEST_EXACT), ablation=ablation)
        n, n_gradient = hybrid_sizes(frame, pilot_specs(pilot, metric or "nll"), most)
        return hybrid_specs(replace(pilot, examples=drawn(n)), metric, drawn(n_gradient))
    usual = min(USUAL_EXAMPLES[estimator], most)
    n = int(st.number_input("Examples", 1, most, usual, key="heads_n", help=GLOSSARY["calibration"]))
    return {estimator: ScoreSpec(frame.model, drawn(n), estimator, ablation, metric)}


def hybrid_sizes(frame: Frame, pilot: Mapping[str, ScoreSpec], most: int) -> tuple[int, int]:
    """Return the numbers of exact and gradient examples: entered, or planned for a budget.

    Raises `UsageError` if the pilot of a plan is missing or the budget cannot be met.
    """
    how = picked("Examples", SIZES, "heads_sizes", label_visibility="collapsed")
    if how == "by hand":
        first, second = st.columns(2)
        n = first.number_input("exactly", FEWEST_EXACT, most, min(FEWEST_EXACT, most), key="heads_hybrid_n")
        n_gradient = second.number_input("by gradient", int(n), most, min(128, most), key="heads_hybrid_big_n")
        return int(n), int(n_gradient)
    runs = {name: run for name, spec in pilot.items() if (run := frame.store.get(spec)) is not None}
    if missing := [spec for name, spec in pilot.items() if name not in runs]:
        label = f"Measure the pilot ({FEWEST_EXACT} examples, exactly and by gradient)"
        offer_runs(frame, label, *missing, key="heads_pilot")
        raise UsageError("The sizes are planned from a pilot with this draw, ablation and metric, and then fixed.")
    unit, seconds, half_width = METRICS[pilot["gradient"].metric or "nll"].unit, None, None
    if how == "time budget":
        seconds = 60 * st.number_input("Minutes", 0.1, 600.0, 5.0, key="heads_minutes")
    else:
        label = f"Median half-width of the intervals, {unit}"
        half_width = st.number_input(label, 0.0001, 10.0, 0.02, format="%.4f", key="heads_width")
    plan = plan_from(frame.store, runs, available=most, seconds=seconds, half_width=half_width)
    st.caption(
        f"**{plan.n}** exactly and **{plan.n_gradient}** by gradient: about {duration(plan.seconds)}, and half of the "
        f"heads known to ± {plan.half_width:.2g} {unit} or better, judged from the pilot. These sizes then stay fixed."
    )
    return plan.n, plan.n_gradient


def submit(frame: Frame, specs: Mapping[str, ScoreSpec]) -> None:
    """Queue the runs not stored and select them; a hybrid run is selected once both parts are there."""
    st.session_state[NEW_RUN_OPEN] = False
    submit_all({spec: job_title(spec) for spec in specs.values() if frame.store.sound(spec) is None}, STARTED)
    choose({"run": name_of(frame, list(specs.values())[-1])})
    if len(specs) == 2:
        st.session_state[WANTED_RUN] = tuple(spec_key(spec) for spec in specs.values())


def offer_runs(frame: Frame, label: str, *specs: RunSpec, key: str, said: str = "", **more: Any) -> None:
    """Offer to measure runs that are not stored, unless that is impossible here."""
    blocked = frame.hindrance(load_task(specs[0].examples.task))
    offer_jobs({spec: job_title(spec) for spec in specs}, label, said, key=key, blocked=blocked, **more)


def cost_sentence(frame: Frame, n: int, task: str, estimator: str = "exact") -> str:
    """State the passes and time to score `n` examples of a task, and the run the estimate rests on."""
    basis = timed_run(frame.runs, frame.model, task, estimator=estimator)
    if basis is None:
        return UNKNOWN[estimator]
    shape, seconds = basis.provenance["shape"], seconds_each(basis)
    heads = shape["n_layers"] * shape["n_heads"]
    passes = f"{n * heads:,} ablated passes ({n} × {heads} heads)" if estimator == "exact" else f"{n} backward passes"
    return (
        f"{passes}, about **{duration(n * seconds)}**, at the {seconds:.2g} s per example of a run on "
        f"{load_task(basis.spec.examples.task).title} ({basis.provenance.get('threads', '?')} threads)."
    )


def no_control(frame: Frame, spec: ScoreSpec) -> None:
    """Draw the placeholder of a view that lacks its control: the purpose of a control, and the way to measure it."""
    # Of the texts for every model one is part of CAP Viz.
    text = next(task for task in map(load_task, controls_for(spec.model.id)) if task.is_local())
    with st.container(border=True):
        method = f"{spec.estimator}, {spec.ablation} ablation"
        st.markdown(f"**No generic text has been measured for this model yet ({method})**")
        st.markdown(
            "A head that matters on this task may simply be one that any text needs. To tell the two apart, the same "
            f"measurement is made on {text.title.lower()}, which asks for no reasoning."
        )
        n = min(CONTROL_EXAMPLES, len(text.splits.calibration))
        wanted = replace(spec, examples=calibration_set(text.name, n))
        label = f"Measure {text.title.lower()} ({n} passages)"
        said = cost_sentence(frame, n, text.name)
        offer_runs(frame, label, wanted, key="heads_control_start", said=said, type="primary")


def offer_blocks(frame: Frame, spec: ScoreSpec) -> None:
    """Draw a button that measures whole layers, if the model and texts are local and no run is stored."""
    if frame.hindrance(frame.task) or block_run(frame.store, spec) is not None:
        return
    words = ablation_words(spec)
    offer_runs(
        frame,
        "Measure whole layers, too",
        block_spec(spec),
        key="heads_blocks_start",
        icon=":material/view_column:",
        help="Two more columns on the same examples: the effect of "
        f"{words.doing} the output of all heads of a layer, or of its MLP{words.each}.",
    )
