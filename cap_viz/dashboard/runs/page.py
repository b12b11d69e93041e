"""The body of the Runs page: queue, unfinished runs, history, picked runs, import and damaged runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import streamlit as st

from cap_viz.dashboard.components.job_card import active_jobs, job_view, ticking
from cap_viz.dashboard.components.panels import empty, escaped, note, problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.runs.detail import SAID, detail
from cap_viz.dashboard.runs.overlay import overlay
from cap_viz.dashboard.runs.table import Shown, history
from cap_viz.dashboard.runs.unfinished import unfinished_section
from cap_viz.dashboard.serving import REFUSAL, is_shared
from cap_viz.dashboard.state import link_here
from cap_viz.errors import CapVizError
from cap_viz.runs.archive import import_run
from cap_viz.runs.store import Store

KEYS = ("model", "task", "find", "kind", "where", "origin", "runs")
UPLOAD, IMPORTED = "runs_upload", "runs_imported"


def body(view: Frame) -> None:
    queue_section()
    unfinished_section(view.store)
    if sentence := st.session_state.get(SAID, {}).get(""):
        note(sentence)
    if not view.runs:
        empty(
            "Nothing is stored yet",
            "Start a run on the Heads page, or bring one in below that `python -m cap_viz runs export` has written.",
        )
    else:
        shown = history(view)
        picked_section(view, shown)
    import_section(view.store)
    damaged_section(view.store)


def queue_section() -> None:
    if active_jobs(lambda spec: True):
        ticking(queue, live=True)


def queue() -> None:
    if jobs := active_jobs(lambda spec: True):
        st.markdown("#### Running and waiting")
    for job in jobs:
        job_view(job, key="runs")


def picked_section(view: Frame, shown: Shown) -> None:
    if not shown.picked:
        st.caption(
            f"{len(shown.runs)} of {len(view.runs)} runs shown. Pick one to see how it was made, or two to compare."
        )
        return
    if len(shown.picked) == 1:
        detail(view, shown.picked[0])
    else:
        overlay(view.store, shown.picked[0], shown.picked[1])
    with st.popover("Share", icon=":material/ios_share:"), st.container(width=360):
        st.caption("Link to this view")
        st.code(link_here(KEYS), language=None, wrap_lines=True)


def import_section(store: Store) -> None:
    if is_shared():
        st.caption(REFUSAL.format(what="bringing in runs"))
        return
    st.markdown("#### Bring in a run", help="A zip file written by `runs export` or by the download above.")
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
    """Check the uploaded file and move it into the local store; in a callback, so that the history lists it at once."""
    upload = st.session_state.get(UPLOAD)
    if upload is None:
        st.session_state.pop(IMPORTED, None)
        return
    with tempfile.TemporaryDirectory() as folder:
        # Use a name of our own: the browser's may hold anything.
        file = Path(folder, "upload.zip")
        file.write_bytes(upload.getvalue())
        try:
            run = import_run(store, file)
            st.session_state[IMPORTED] = True, f"Imported {run.title}."
            st.session_state["runs"] = [run.key]
        except CapVizError as error:
            st.session_state[IMPORTED] = False, str(error).replace(str(file), upload.name)


def damaged_section(store: Store) -> None:
    aside, in_place = store.in_quarantine(), store.damaged_in_place()
    if not aside and not in_place:
        return
    st.markdown("#### Damaged")
    st.caption(
        "What does not pass its check is not read. Runs that were set aside are kept in "
        f"{escaped(str(store.quarantine))}."
    )
    st.markdown("\n".join(f"- {escaped(sentence)}" for sentence in (*aside, *map(str, in_place.values()))))
    if any(store.status(folder)[0] == "live" for folder in in_place):
        if is_shared():
            st.caption(REFUSAL.format(what="setting runs aside"))
        else:
            st.button("Set aside", key="runs_set_aside", on_click=set_aside, args=(store,))


def set_aside(store: Store) -> None:
    """Set damaged runs aside; a callback, so that the page drawn next no longer lists them."""
    try:
        sentence = f"{len(store.set_aside_damaged())} damaged runs were set aside; they can be computed again."
    except CapVizError as error:
        sentence = str(error)
    st.session_state[SAID] = {"": sentence}
