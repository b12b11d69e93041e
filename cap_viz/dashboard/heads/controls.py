"""Selectors of the Heads page: the run, stored or being computed, the view of it, and the metric."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeGuard

import streamlit as st

from cap_viz.attribution.effect_metrics import applicable_metrics
from cap_viz.dashboard.components.job_card import active_jobs
from cap_viz.dashboard.components.submission import own_jobs
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.data import GENERIC_TEXT, SPECIFICITY, TASK_EFFECT, View, controls_of, views_of
from cap_viz.dashboard.names import metric_name, metrics_help, run_title, task_name
from cap_viz.dashboard.selection import asked_for, choose
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.runs.jobs import Job
from cap_viz.runs.run_queries import of_whole_model
from cap_viz.runs.score_sources import ScoreSource, run_name, stored_sources, told_apart
from cap_viz.runs.spec import ScoreSpec, spec_key
from cap_viz.tasks.readable import CONTROL_TEXTS

# Session key: the keys of a run to show once it is available; a hybrid run waits for both of its parts.
WANTED_RUN = "heads_wanted"
VIEW_NAMES = {TASK_EFFECT: "This task", GENERIC_TEXT: "Generic text", SPECIFICITY: "Specificity"}


def sources(frame: Frame) -> list[ScoreSource]:
    """Return the stored head scores of this model and task, then the active jobs, each with a unique name."""
    jobs = {job.number: job for job in (*frame.jobs, *active_jobs(lambda spec: concerns(spec, frame)))}.values()
    # In this order: a job that is no longer active has its result.
    states = [(job, job.active, job.result) for job in jobs if concerns(job.spec, frame)]
    stored = {run.key for run in frame.runs}
    ended_since = [result for _, _, result in states if result is not None and result.key not in stored]
    found = stored_sources([*frame.runs, *ended_since], frame.model, frame.task.name)
    known = {source.keys for source in found}
    found += [
        ScoreSource(run_name(job.spec), job.spec, job=job)
        for job, active, _ in states
        if active and concerns(job.spec, frame) and (job.key,) not in known
    ]
    return told_apart(found)


def concerns(spec: object, frame: Frame) -> TypeGuard[ScoreSpec]:
    """Whether a spec is about heads of the chosen model, dense and whole, on the chosen task."""
    return (
        isinstance(spec, ScoreSpec)
        and spec.model == frame.model
        and spec.examples.task == frame.task.name
        and of_whole_model(spec)
    )


def name_of(frame: Frame, spec: ScoreSpec) -> str:
    """Return the name of a run that is stored or was just queued."""
    keys = (spec_key(spec),)
    return next((source.name for source in sources(frame) if source.keys == keys), run_name(spec))


def pick_source(frame: Frame, available: list[ScoreSource]) -> ScoreSource | None:
    """Draw the run selector, first of all with a run that was waited for; return its source, None without any."""
    if not available:
        return None
    wanted = next((source for source in available if source.keys == st.session_state.get(WANTED_RUN)), None)
    if wanted is not None:
        del st.session_state[WANTED_RUN]
        choose({"run": wanted.name})
    titles = titles_of(available)
    help = "Stored and running measurements. 16 + 128 examples: 16 exactly, corrected by the gradients of 128."
    chosen = frame.selection.selectbox("Run", "run", titles, help=help)
    return next(source for source in available if source.name == chosen)


def titles_of(available: Sequence[ScoreSource]) -> dict[str, str]:
    """Return a plain title for each name; sources of the same title are told apart by their keys."""
    titles = [title_of(source) for source in available]
    return {
        source.name: f"{title} ({'+'.join(key[:6] for key in source.keys)})" if titles.count(title) > 1 else title
        for source, title in zip(available, titles, strict=True)
    }


def title_of(source: ScoreSource) -> str:
    if source.gradient is None:
        return run_title(source.spec)
    return f"{len(source.spec.examples.ids)} + {run_title(replace(source.gradient.spec, estimator='hybrid'))}"


def last_failure(frame: Frame, available: Collection[ScoreSource]) -> Job | None:
    """Return the job of head scores that this session started last, if it failed or was cancelled.

    Its run leaves the address, so that the page is back at a stored one and no link is blamed.
    """
    own = [(job, job.spec) for job in own_jobs() if concerns(job.spec, frame)]
    if not own or own[-1][0].state not in ("failed", "cancelled"):
        return None
    (job, spec), (asked,) = own[-1], (asked_for("run") or ("",))[-1:]
    if asked.startswith(run_name(spec)) and asked not in [source.name for source in available]:
        choose({"run": None})
    return job


def pick_view(frame: Frame, estimator: str) -> str:
    views = {name: VIEW_NAMES[name] for name in views_of(frame.task.name, estimator)}
    if len(views) > 1:
        return frame.selection.segmented("View", "view", views, help=GLOSSARY["view"])
    frame.selection.choice("view", views)
    st.caption(
        "This text is itself a control: other tasks are compared with it."
        if frame.task.name in CONTROL_TEXTS
        else f"Estimator: {estimator}. Generic text is compared by exact runs."
    )
    return TASK_EFFECT


def pick_metric(frame: Frame, source: ScoreSource, view: str) -> View:
    """Draw the selector of the metric, or of the text to compare with, which has one metric only."""
    controls, names = controls_of(frame, source), partial(metric_name, frame.task)
    if view != TASK_EFFECT:
        if not controls:
            return View(source, "nll", view)
        text = frame.selection.selectbox(
            "Control text", "control", list(controls), names=task_name, help=GLOSSARY["view"]
        )
        return View(source, "nll", view, controls[text])
    offered = applicable_metrics(frame.task)
    if source.metric is not None:
        metric = source.metric
        st.caption(f"Metric: {names(metric)}, the one this {source.estimator} run is about.")
    elif len(offered) == 1:
        metric = frame.selection.choice("metric", offered)
        st.caption(f"Metric: {names(metric)}. The others compare options; {frame.task.title} has none.")
    else:
        metric = frame.selection.segmented("Metric", "metric", offered, names=names, help=metrics_help(offered))
    return View(source, metric, view, next(iter(controls.values()), None))
