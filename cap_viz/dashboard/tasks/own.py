"""The user's own tasks on the Tasks page: upload JSON lines, preview how they are parsed, add or remove tasks.

An upload is data: it is checked row by row and never executed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from cap_viz.dashboard.components.panels import escaped, problem
from cap_viz.dashboard.serving import REFUSAL, is_shared
from cap_viz.errors import CapVizError
from cap_viz.tasks import TASKS, Task
from cap_viz.tasks.description import KINDS, described, rows_of
from cap_viz.tasks.own import add_task, own_tasks, remove_task

UPLOAD, NAME, KIND, ADDED, REFUSED = "own_upload", "own_name", "own_kind", "own_added", "own_refused"
SHOWN_ROWS = 3


def own_tasks_popover() -> None:
    """Draw the popover to upload, add and remove the user's own tasks."""
    with st.popover("Your tasks", icon=":material/add:"), st.container(width=460):
        if is_shared():
            st.caption(REFUSAL.format(what="uploading tasks"))
            return
        if refused := st.session_state.pop(REFUSED, ""):
            problem(refused)
        st.caption(
            "Upload JSON lines, one question a line: `question`, `options` and `gold` (choice); `question` and "
            "`answer` (yes/no, or a text to score); `question` and `solution` (written answers)."
        )
        file = st.file_uploader("JSON lines", type=["jsonl"], key=UPLOAD, label_visibility="collapsed")
        if file is not None:
            uploaded(file)
        listed()


def added_note(task: str) -> None:
    """Confirm the added task while it is selected, outside the popover, which closes when the page is redrawn."""
    name, sentence = st.session_state.get(ADDED, ("", ""))
    if name == task:
        st.success(escaped(sentence), icon=":material/check:")


def uploaded(file: UploadedFile) -> None:
    """Preview the parsed file, and draw the button that adds it."""
    with put_aside(file.name, file.getvalue()) as path:
        try:
            found, first = described(path), rows_of(path)[:SHOWN_ROWS]
        except CapVizError as error:
            problem(plain(error, path))
            return
    st.dataframe([row.fields for row in first], hide_index=True)
    name_key, kind_key = f"{NAME}_{file.file_id}", f"{KIND}_{file.file_id}"
    left, right = st.columns(2)
    left.text_input("Name", found.name, key=name_key, max_chars=40)
    kind = right.selectbox("Kind", list(KINDS), list(KINDS).index(found.kind), key=kind_key)
    st.caption(f"{kind} rows hold {KINDS[kind].fields}. Three tenths of the rows are for calibration.")
    st.button(
        "Add this task",
        type="primary",
        key="own_add",
        width="stretch",
        on_click=take,
        args=(file.name, file.getvalue(), name_key, kind_key),
    )


def take(file_name: str, content: bytes, name_key: str, kind_key: str) -> None:
    """Add the upload and select it, as a callback: the sidebar's selection may only change before the page is drawn."""
    name, kind = st.session_state[name_key], st.session_state[kind_key]
    with put_aside(file_name, content) as path:
        try:
            task = add_task(path, tuple(TASKS), name=name, kind=kind)
        except CapVizError as error:
            st.session_state[REFUSED] = plain(error, path)
            return
    st.session_state[ADDED] = (task.name, added_words(task))
    st.session_state["task"] = task.name


@contextmanager
def put_aside(file_name: str, content: bytes) -> Iterator[Path]:
    """Yield the path of the upload under its own name, in a temporary folder."""
    with TemporaryDirectory() as folder:
        path = Path(folder, Path(file_name).name)
        path.write_bytes(content)
        yield path


def added_words(task: Task) -> str:
    splits = task.splits
    return (
        f"Added {task.name}: {len(splits.calibration)} calibration and {len(splits.evaluation)} evaluation examples. "
        "Score its heads on the Heads page."
    )


def plain(error: CapVizError, path: Path) -> str:
    """Return the error message with the file's own name instead of its temporary path."""
    return str(error).replace(str(path), path.name)


def listed() -> None:
    for task in own_tasks().values():
        left, right = st.columns([3, 2], vertical_alignment="center")
        left.caption(f"`{task.name}` · {task.kind} · version {task.version}")
        right.button("Remove task", key=f"own_remove_{task.name}", on_click=forget, args=(task.name,), width="stretch")


def forget(name: str) -> None:
    """Remove a task; if it was selected, the sidebar falls back to the first one."""
    try:
        remove_task(name)
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)
        return
    if st.session_state.get("task") == name:
        st.session_state["task"] = next(iter(TASKS))
