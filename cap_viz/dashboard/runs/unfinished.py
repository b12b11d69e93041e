"""Runs that stopped before they were done, on the Runs page: why, with buttons to resume and to discard them."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from cap_viz.dashboard.components.job_card import active_jobs
from cap_viz.dashboard.components.panels import escaped, problem
from cap_viz.dashboard.components.submission import OWN_JOBS, own_jobs, submit_run
from cap_viz.dashboard.names import model_name, task_name
from cap_viz.dashboard.runs.table import plain
from cap_viz.dashboard.serving import is_shared
from cap_viz.errors import CapVizError
from cap_viz.runs.jobs import Job, PrunedWeights
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import RunSpec, spec_key
from cap_viz.runs.store import Store
from cap_viz.runs.unfinished import Ending, discard, ending_of, stopped

REFUSED = "runs_refused"
COLOURS = {"failed": "red", "cancelled": "gray", "interrupted": "orange"}
REASONS = {
    "cancelled": "Finished parts are kept.",
    "interrupted": "CAP Viz was closed while it ran. Finished parts are kept.",
}


def unfinished_section(store: Store) -> None:
    """List runs that can be resumed, and jobs of this session that failed with nothing to resume."""
    if sentence := st.session_state.pop(REFUSED, ""):
        problem(sentence)
    active = {job.key for job in active_jobs(lambda spec: True)}
    specs = [spec for spec in stopped(store) if spec_key(spec) not in active]
    failed = failed_at_once({spec_key(spec) for spec in specs})
    n = len(specs) + len(failed)
    if not n:
        return
    with st.expander("1 unfinished run" if n == 1 else f"{n} unfinished runs", expanded=n == 1, key="runs_unfinished"):
        for spec in specs:
            row(store, spec, title_of(spec), ending_of(store, spec), resumable=True)
        for spec, job in failed.items():
            row(store, spec, job.title, Ending("failed", job.error), resumable=False)
        if n > 1 and not is_shared():
            st.button("Discard all", key="runs_discard_all", on_click=drop, args=(store, [*specs, *failed]))


def failed_at_once(resumable: set[str]) -> dict[RunSpec, Job]:
    """Return the failed jobs of this session that left nothing to resume and were not started again."""
    return {
        job.spec: job
        for job in own_jobs()
        if job.state == "failed"
        and not isinstance(job.spec, PrunedWeights)
        and job.key not in resumable
        and shared_queue().find(job.spec) is job
    }


def row(store: Store, spec: RunSpec, title: str, ending: Ending, *, resumable: bool) -> None:
    key, reason = spec_key(spec), ending.reason or REASONS[ending.state]
    badge = f":{COLOURS[ending.state]}-badge[{ending.state}]"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"{badge} {escaped(title)}, {escaped(model_name(spec.model.id))}  \n:small[{escaped(reason)}]",
            width="stretch",
        )
        if resumable:
            st.button("Resume", key=f"runs_resume_{key}", on_click=resume, args=(spec,))
        if not is_shared():
            st.button("Discard", key=f"runs_discard_{key}", on_click=drop, args=(store, [spec]))


def title_of(spec: RunSpec) -> str:
    return f"{task_name(spec.examples.task)}, {plain(spec)}, n = {len(spec.examples.ids)}"


def resume(spec: RunSpec) -> None:
    try:
        submit_run(spec, title_of(spec))
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)


def drop(store: Store, specs: Sequence[RunSpec]) -> None:
    """Discard the parts of these runs and the failed jobs of this session about them."""
    for spec in specs:
        discard(store, spec)
    dropped = {spec_key(spec) for spec in specs}
    st.session_state[OWN_JOBS] = {job.number for job in own_jobs() if job.active or job.key not in dropped}
