"""Top of the Heads page: provenance, export, selectors of view, metric and run, and the state without a run."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cap_viz.attribution.effect_metrics import METRICS, applicable_metrics
from cap_viz.dashboard.components.head_map import START
from cap_viz.dashboard.components.job_card import ended_view
from cap_viz.dashboard.components.panels import empty, examples_fact, note, provenance, run_facts
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.control_task import TASK_EFFECT, View, best_control, pick_control, views_of
from cap_viz.dashboard.heads.export import export
from cap_viz.dashboard.heads.joint_ablation import KEY as TOGETHER
from cap_viz.dashboard.heads.new_run import new_run
from cap_viz.dashboard.heads.source import Source, pick_source, sources, submit_problem, watched_end
from cap_viz.dashboard.names import metric_name
from cap_viz.dashboard.state import bad_choice, bad_number, forget_with, keep_valid
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.readable import CONTROL_TEXTS

VIEW_WIDTH, METRIC_WIDTH, NEW_RUN_WIDTH = 272, 296, 122

# What is chosen for one model means nothing for another.
OF_ONE_MODEL = {"run": None, "layer": None, "head": None, START: None, TOGETHER: []}


@dataclass(frozen=True)
class Chosen:
    """Selected run, metric and view."""

    source: Source
    metric: str
    view: View


def controls(frame: Frame) -> Chosen | None:
    """Draw everything above the grid. Returns the selection, or None if there is no run yet."""
    forget_with("heads_model", frame.model.id, OF_ONE_MODEL)
    available = sources(frame)
    facts, share = st.columns([6, 1], vertical_alignment="center")
    view_place, metric_place, run_place, new_place = control_places()
    notes = [bad_choice("metric", list(METRICS), "nll", "the metric")]
    with run_place:
        source, missing = pick_source(available)
    notes.append(missing)
    with view_place:
        name, unknown = pick_view(frame.task, "exact" if source is None else source.estimator)
    notes.append(unknown)
    with metric_place:
        if name == TASK_EFFECT:
            metric, control = pick_metric(frame.task, source), best_control(frame, source)
        else:
            # Text has no options, so nll is the only metric of the control.
            metric = "nll"
            control, gone = pick_control(frame, source)
            notes.append(gone)
    view = View(name, control)
    with new_place:
        new_run(frame)
    if source is not None:
        notes += range_notes(source)
        with facts:
            provenance(source_facts(source, metric, view), origin=origin(source))
        with share:
            export(frame, source, metric, view)
    for sentence in filter(None, notes):
        note(sentence)
    submit_problem()
    ended = watched_end()
    if ended is not None:
        ended_view(ended)
    if source is None:
        no_runs(frame)
        return None
    return Chosen(source, metric, view)


def control_places() -> tuple[DeltaGenerator, DeltaGenerator, DeltaGenerator, DeltaGenerator]:
    """Return containers side by side that wrap on a narrow screen; columns would cut the segmented controls."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        view, metric = st.container(width=VIEW_WIDTH), st.container(width=METRIC_WIDTH)
        return view, metric, st.container(width="stretch"), st.container(width=NEW_RUN_WIDTH)


def pick_view(task: Task, estimator: str) -> tuple[str, str]:
    """Draw the view selector; return the view, and a note if the link named an unknown one."""
    views = views_of(task.name, estimator)
    sentence = bad_choice("view", views, TASK_EFFECT, "the view")
    keep_valid("view", views, TASK_EFFECT)
    if task.name in CONTROL_TEXTS:
        st.caption("This text is itself a control: it asks for no reasoning, and other tasks are compared with it.")
        return TASK_EFFECT, sentence
    if len(views) == 1:
        st.caption(f"Estimator: `{estimator}`. The comparison with generic text is made from exact runs.")
        return TASK_EFFECT, sentence
    name = st.segmented_control(
        "View",
        views,
        default=TASK_EFFECT,
        required=True,
        key="view",
        bind="query-params",
        help=GLOSSARY["view"],
    )
    return str(name), sentence


def pick_metric(task: Task, source: Source | None) -> str:
    if source is not None and source.metric is not None:
        st.caption(f"Metric: `{source.metric}`, the one this {source.estimator} run is about.")
        return source.metric
    offered = applicable_metrics(task)
    keep_valid("metric", offered, offered[0])
    if len(offered) == 1:
        others = ", ".join(name for name in METRICS if name not in offered)
        st.caption(f"Metric: `{offered[0]}`. {others} compare options, which {task.title} does not have.")
        return offered[0]
    metric = st.segmented_control(
        "Metric",
        offered,
        default="nll",
        required=True,
        key="metric",
        bind="query-params",
        help="  \n".join(f"`{name}` {GLOSSARY[name]}" for name in offered),
    )
    return str(metric)


def origin(source: Source) -> str:
    return "running" if source.run is None else source.run.origin


def source_facts(source: Source, metric: str, view: View) -> list[str]:
    facts = (
        run_facts(source.run)
        if source.run is not None
        else [source.spec.model.id, source.spec.examples.task, examples_fact(source.spec.examples)]
    )
    method = f"{source.estimator}, {source.spec.ablation} ablation"
    if source.gradient is not None:
        method += f", gradients of {len(source.gradient.spec.examples.ids)}"
    said = [*facts[:3], method, metric_name(load_task(source.spec.examples.task), metric)]
    if view.needs_control and view.control is not None:
        examples = view.control.spec.examples
        said.append(f"control {examples.task}, {examples_fact(examples)} ({view.control.origin})")
    return [*said, *facts[3:]]


def range_notes(source: Source) -> list[str]:
    """Return notes on a layer or head the model lacks. Call before the inputs, which drop such values silently."""
    if source.run is None:
        return []
    shape = source.run.provenance["shape"]
    return [
        bad_number("layer", 0, shape["n_layers"] - 1, "layer"),
        bad_number("head", 0, shape["n_heads"] - 1, "head"),
    ]


def no_runs(frame: Frame) -> None:
    empty(
        f"No head scores of {frame.model.id} on {frame.task.name} yet",
        "Start one with “New run” above, or from the shell: python -m cap_viz score "
        f"--model {frame.model.id} --task {frame.task.name} --n 16",
    )
