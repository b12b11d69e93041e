"""The body of the Runs page: queue, unfinished runs, table, picked runs, import and damaged runs."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from cap_viz.dashboard.components.job_card import active_jobs, job_view, ticking
from cap_viz.dashboard.components.panels import empty, is_refused_here, note, problem
from cap_viz.dashboard.components.upload import as_file
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.runs.detail import delete_button, detail
from cap_viz.dashboard.runs.overlay import overlay
from cap_viz.dashboard.runs.table import draw_table, filtered, picked_list
from cap_viz.dashboard.runs.unfinished import SAID, damaged_section, unfinished_section
from cap_viz.dashboard.selection import choose
from cap_viz.errors import CapVizError
from cap_viz.runs.archive import import_run
from cap_viz.runs.store import Store, StoredRun

UPLOAD, IMPORTED = "runs_upload", "runs_imported"


def body(view: Frame) -> None:
    if active_jobs(lambda spec: True):
        ticking(queue, live=True)
    unfinished_section(view.store)
    if sentence := st.session_state.get(SAID, {}).get(""):
        note(sentence)
    if not view.runs:
        empty(
            "Nothing is stored yet",
            "Start a run on the Heads page, or bring one in below that `python -m cap_viz runs export` has written.",
        )
        import_section(view.store)
    else:
        stored(view)
    damaged_section(view.store)


def queue() -> None:
    if jobs := active_jobs(lambda spec: True):
        st.markdown("#### Running and waiting")
    for job in jobs:
        job_view(job, key="runs")


def stored(view: Frame) -> None:
    """Draw the table with the picked run beside it; two picked runs are compared below."""
    by_key = {run.key: run for run in view.runs}
    picked = view.selection.choices("runs", list(by_key), what="the run")
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


def picked_section(view: Frame, runs: Sequence[StoredRun]) -> None:
    if not runs:
        st.caption("Pick a run to see its result and how it was made, two to compare them.")
    elif len(runs) == 1:
        detail(view, runs[0])
    else:
        st.caption("They are compared below." if len(runs) == 2 else "Two picked runs are compared, not more.")
        delete_button(view.store, runs)


def import_section(store: Store) -> None:
    if is_refused_here("bringing in runs"):
        return
    st.markdown("#### Bring in a run", help="A zip file written by `runs export` or by “Run as zip” on this page.")
    st.file_uploader(
        "A run as zip",
        type="zip",
        key=UPLOAD,
        on_change=take_upload,
        args=(store,),
        label_visibility="collapsed",
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
