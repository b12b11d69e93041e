"""The body of the Runs page: queue, unfinished runs, table, picked runs, import and damaged runs."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from cap_viz.dashboard.components.job_card import active_jobs, jobs_view, ticking
from cap_viz.dashboard.components.panels import empty, escaped, is_refused_here, note, problem
from cap_viz.dashboard.components.submission import discard_jobs, is_discarded, own_jobs, refusal, submit_all
from cap_viz.dashboard.components.upload import as_file
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import job_title, model_name
from cap_viz.dashboard.runs.picked import SAID, overlay, picked_section
from cap_viz.dashboard.runs.table import draw_table, filtered, picked_list
from cap_viz.dashboard.selection import choose
from cap_viz.dashboard.serving import is_shared
from cap_viz.errors import CapVizError
from cap_viz.runs.archive import import_run
from cap_viz.runs.jobs import PrunedWeights
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import RunSpec, spec_key
from cap_viz.runs.store import Store
from cap_viz.runs.unfinished import Ending, discard, ending_of, stopped

UPLOAD, IMPORTED, RESUME = "runs_upload", "runs_imported", "runs_resume"
COLOURS = {"failed": "red", "cancelled": "gray", "interrupted": "orange"}
REASONS = {
    "cancelled": "Finished parts are kept.",
    "interrupted": "CAP Viz was closed while it ran. Finished parts are kept.",
}


def body(view: Frame) -> None:
    if active_jobs(lambda spec: True):
        ticking(queue, live=True)
    unfinished_section(view.store)
    if sentence := st.session_state.get(SAID, {}).get(""):
        note(sentence)
    if not view.runs:
        empty(
            "Nothing is stored yet",
            "Start a run on the Heads page, or import one below: a file written by `python -m cap_viz runs export`.",
        )
        import_section(view.store)
    else:
        stored(view)
    damaged_section(view.store)


def queue() -> None:
    if jobs := active_jobs(lambda spec: True):
        st.markdown("#### Running and waiting")
        jobs_view(jobs, key="runs")


def stored(view: Frame) -> None:
    """Draw the table with the picked run beside it; two picked runs are compared below."""
    by_key = {run.key: run for run in view.runs}
    picked = view.selection.choices("runs", list(by_key))
    runs = filtered(view)
    left, right = st.columns([2, 1], gap="small")
    with left:
        if runs:
            draw_table(view.store, runs, picked)
            st.caption(f"{len(runs):,} of {len(view.runs):,} runs.")
        else:
            st.caption("No stored run passes these filters.")
    with right:
        picked_list(view, runs, picked)
        picked_section(view, [by_key[key] for key in picked])
        import_section(view.store)
    if len(picked) == 2:
        overlay(view.store, by_key[picked[0]], by_key[picked[1]])


def import_section(store: Store) -> None:
    if is_refused_here("importing runs"):
        return
    st.markdown("#### Import a run", help="A zip file written by `runs export` or by “Run as zip” on this page.")
    st.file_uploader(
        "A run as zip", "zip", key=UPLOAD, on_change=take_upload, args=(store,), label_visibility="collapsed"
    )
    if IMPORTED in st.session_state:
        is_sound, sentence = st.session_state[IMPORTED]
        note(sentence) if is_sound else problem(sentence)


def take_upload(store: Store) -> None:
    """Check the uploaded file and move it into the local store; in a callback, so that the table lists it at once."""
    upload = st.session_state.get(UPLOAD)
    if upload is None:
        st.session_state.pop(IMPORTED, None)
        return
    try:
        with as_file(upload.name, upload.getvalue()) as file:
            run = import_run(store, file)
    except CapVizError as error:
        st.session_state[IMPORTED] = False, str(error)
        return
    st.session_state[IMPORTED] = True, f"Imported {run.title}."
    choose({"runs": [run.key]})


def unfinished_section(store: Store) -> None:
    """List runs that can be resumed, and jobs of this session that failed with nothing to resume."""
    refusal(RESUME)
    active = {job.key for job in active_jobs(lambda spec: True)}
    endings = {spec: ending_of(store, spec) for spec in stopped(store) if spec_key(spec) not in active}
    failed = failed_at_once({spec_key(spec) for spec in endings})
    n = len(endings) + len(failed)
    if not n:
        return
    with st.expander("1 unfinished run" if n == 1 else f"{n} unfinished runs", expanded=n == 1, key="runs_unfinished"):
        for spec, ending in {**endings, **failed}.items():
            row(store, spec, ending, resumable=spec in endings)
        if n > 1 and not is_shared():
            st.button("Discard all", key="runs_discard_all", on_click=drop, args=(store, [*endings, *failed]))


def failed_at_once(resumable: set[str]) -> dict[RunSpec, Ending]:
    """Return the failures of this session's jobs that left nothing to resume and were not started again."""
    return {
        job.spec: Ending("failed", job.error)
        for job in own_jobs()
        if job.state == "failed"
        and not isinstance(job.spec, PrunedWeights)
        and not is_discarded(job)
        and job.key not in resumable
        and shared_queue().find(job.spec) is job
    }


def row(store: Store, spec: RunSpec, ending: Ending, *, resumable: bool) -> None:
    key, reason = spec_key(spec), ending.reason or REASONS[ending.state]
    title = job_title(spec)
    about = escaped(f"{title}, {model_name(spec.model.id)}")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        badge = f":{COLOURS[ending.state]}-badge[{ending.state}]"
        st.markdown(f"{badge} {about}  \n:small[{escaped(reason)}]", width="stretch")
        if resumable:
            st.button("Resume", key=f"{RESUME}_{key}", on_click=submit_all, args=({spec: title}, RESUME))
        if not is_shared():
            st.button("Discard", key=f"runs_discard_{key}", on_click=drop, args=(store, [spec]))


def drop(store: Store, specs: Sequence[RunSpec]) -> None:
    """Discard the parts of these runs and the failed jobs of this session about them."""
    for spec in specs:
        discard(store, spec)
    dropped = {spec_key(spec) for spec in specs}
    discard_jobs([job for job in own_jobs() if not job.active and job.key in dropped])


def damaged_section(store: Store) -> None:
    aside, in_place = store.in_quarantine(), store.damaged_in_place()
    if not aside and not in_place:
        return
    st.markdown("#### Damaged")
    st.caption(f"Damaged runs are not read. Runs that were set aside are kept in {escaped(str(store.quarantine))}.")
    st.markdown("\n".join(f"- {escaped(sentence)}" for sentence in (*aside, *map(str, in_place.values()))))
    if any(store.status(folder)[0] == "live" for folder in in_place) and not is_refused_here("setting runs aside"):
        st.button("Set aside", key="runs_set_aside", on_click=set_aside, args=(store,))


def set_aside(store: Store) -> None:
    """Set damaged runs aside; a callback, so that the page drawn next no longer lists them."""
    try:
        sentence = f"{len(store.set_aside_damaged())} damaged runs were set aside; they can be computed again."
    except CapVizError as error:
        sentence = str(error)
    st.session_state[SAID] = {"": sentence}
