"""The user's own tasks on the Tasks page: upload JSON lines, see what is wrong before adding them, remove tasks.

An upload is data: it is checked row by row and never executed.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from cap_viz.dashboard.components.panels import escaped, is_refused_here, problem, problems_told
from cap_viz.dashboard.components.upload import as_file
from cap_viz.dashboard.selection import KEPT_WITH_TASK, asked_for, choose, go_button
from cap_viz.errors import CapVizError
from cap_viz.tasks import TASKS, Task
from cap_viz.tasks.description import KINDS, kind_of_rows, name_from, rows_of
from cap_viz.tasks.own import add_task, checked_task, own_tasks, remove_task

UPLOAD, NAME, ADDED, REFUSED = "own_upload", "own_name", "own_added", "own_refused"
SHOWN_ROWS = 3


def own_tasks_popover() -> None:
    """Draw the popover to upload, add and remove the user's own tasks."""
    with st.popover("Your tasks", icon=":material/add:"), st.container(width=460):
        if is_refused_here("uploading tasks"):
            return
        if refused := st.session_state.pop(REFUSED, ""):
            problem(refused)
        st.caption(
            "Upload JSON lines, one question a line: `question`, `options` and `gold` or `answer` (choice); `question` "
            "and `answer` (yes/no, or a text to score); `question` and `solution` (written answers)."
        )
        file = st.file_uploader("JSON lines", type=["jsonl"], key=UPLOAD, label_visibility="collapsed")
        if file is not None:
            uploaded(file)
        for task in own_tasks().values():
            left, right = st.columns([3, 2], vertical_alignment="center")
            left.caption(escaped(task.title), help=f"`{task.name}` · {task.kind} · version {task.version}")
            key = f"own_remove_{task.name}"
            right.button("Remove task", key=key, on_click=forget, args=(task.name,), width="stretch")


def unscored(task: Task, instead: str) -> None:
    """Say in one banner that the chosen task has no head scores, whether it was added just now, and what is next.

    `instead` is the task compared in its place; where there is none, only a task just added gets a banner.
    """
    name, added = st.session_state.get(ADDED, ("", ""))
    said = [added] if name == task.name else []
    if not said and not instead:
        return
    said.append(f"No head scores of {task.title} yet{f'; comparing {instead} instead' if instead else ''}.")
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f":material/info: {escaped(' '.join(said))}", width="content")
        go_button("Score its heads", "heads", key="tasks_score")


def uploaded(file: UploadedFile) -> None:
    """Preview the parsed file and offer to add it."""
    content = file.getvalue()
    with problems_told(), as_file(file.name, content) as path:
        kind, first = kind_of_rows(path), rows_of(path)[:SHOWN_ROWS]
        st.dataframe([{"line": row.place.rpartition(" ")[2], **row.fields} for row in first], hide_index=True)
        offer_task(file, content, kind)


def offer_task(file: UploadedFile, content: bytes, kind: str) -> None:
    """Draw the name of the task, what is wrong in its rows, and the button that adds it."""
    usual = name_from(Path(file.name).stem)
    name = st.text_input("Name", usual, key=f"{NAME}_{file.file_id}", max_chars=40) or usual
    wrong = mistake_in(file.name, content, name)
    if wrong:
        problem(wrong)
    st.caption(f"{kind} rows hold {KINDS[kind].fields}. Three tenths of the rows are for calibration.")
    st.button(
        "Add this task",
        type="primary",
        key="own_add",
        width="stretch",
        disabled=bool(wrong),
        on_click=take,
        args=(file.name, content, name),
    )


@lru_cache(maxsize=4)
def mistake_in(file_name: str, content: bytes, name: str) -> str:
    """Return what keeps an upload from becoming a task, with its line and field; "" if nothing does."""
    try:
        with as_file(file_name, content) as path:
            checked_task(path, tuple(TASKS), name=name)
    except CapVizError as error:
        return str(error)
    return ""


def take(file_name: str, content: bytes, name: str) -> None:
    """Add the upload and choose it, as a callback."""
    try:
        with as_file(file_name, content) as path:
            task = add_task(path, tuple(TASKS), name=name)
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)
        return
    splits = task.splits
    amounts = f"{len(splits.calibration)} calibration and {len(splits.evaluation)} evaluation examples"
    st.session_state[ADDED] = (task.name, f"Added {task.title}: {amounts}.")
    choose({"task": task.name}, keep=KEPT_WITH_TASK)


def forget(name: str) -> None:
    """Remove a task, as a callback; if it was chosen, the first task is."""
    try:
        remove_task(name)
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)
        return
    if asked_for("task") == (name,):
        choose({"task": None}, keep=KEPT_WITH_TASK)
