"""Tasks added on this machine: one folder each in the local cache folder, found by name like all other tasks.

A folder holds `task.yaml` with its rows in files named by role and content hash, or `task.py`. Python files are run
when the task is used, so they are accepted on the command line only; dashboard uploads are data and never run.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from cap_viz.errors import CapVizError, UsageError
from cap_viz.files import write_bytes
from cap_viz.settings import local_folder
from cap_viz.tasks.base import Task
from cap_viz.tasks.description import NAME, NAME_RULE, Description, as_yaml, described, read_limited, task_of

log = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".yaml", ".yml", ".py")


def own_folder() -> Path:
    return local_folder() / "tasks"


def own_tasks() -> dict[str, Task]:
    """Return the tasks added on this machine, by name. Unreadable tasks are logged and left out."""
    found: dict[str, Task] = {}
    for name in sorted({file.parent.name for file in own_folder().glob("[!.]*/task.*")}):
        try:
            found[name] = own_task(name)
        except CapVizError as error:
            log.warning("%s", error)
    return found


def own_task(name: str) -> Task:
    """Return one task added on this machine. Raises `UsageError` when it is missing or cannot be read."""
    folder = own_folder() / name
    for file in (folder / "task.yaml", folder / "task.py"):
        if file.is_file():
            return read_task(file, changes(folder))
    raise UsageError(f"There is no task {name!r} among those added on this machine.")


def changes(folder: Path) -> tuple[int, ...]:
    """Return the modification times (ns) of a task's files."""
    found: list[int] = []
    for path in sorted(folder.glob("[!.]*")):
        with suppress(FileNotFoundError):  # Rows of an earlier task, removed meanwhile.
            found.append(path.stat().st_mtime_ns)
    return tuple(found)


@lru_cache(maxsize=64)
def read_task(file: Path, changed: tuple[int, ...]) -> Task:
    """Read a task's file; cached with its rows until the folder's modification times `changed` differ."""
    return python_task(file) if file.suffix == ".py" else task_of(described(file))


def python_task(file: Path) -> Task:
    """Run a Python file and return its `TASK`, with a hash of the file as version."""
    content = read_limited(file)
    names: dict[str, Any] = {"__name__": f"cap_viz_own_{file.parent.name}_{file.stem}", "__file__": str(file)}
    try:
        exec(compile(content, file, "exec"), names)
    except Exception as error:  # The file may raise anything; every error is reported as the file's.
        raise UsageError(f"{file} cannot be run ({type(error).__name__}: {error}).") from error
    task = names.get("TASK")
    if not isinstance(task, Task):
        raise UsageError(f"{file} should define TASK, a cap_viz.tasks.Task.")
    return replace(task, version=int(hashlib.sha256(content).hexdigest()[:7], 16))


def add_task(file: Path, taken: Sequence[str], *, name: str | None = None, kind: str | None = None) -> Task:
    """Check a .jsonl, .yaml or .py file and store a copy, replacing an earlier task of the same name.

    The arguments and errors are those of `checked_task`; with an error nothing is stored.
    """
    task, contents = checked_task(file, taken, name=name, kind=kind)
    own_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(own_folder() / f".{task.name}.lock"):
        keep(own_folder() / task.name, contents)
    log.info("Added task %s: %d + %d examples", task.name, len(task.splits.calibration), len(task.splits.evaluation))
    return own_task(task.name)


def checked_task(
    file: Path, taken: Sequence[str], *, name: str | None = None, kind: str | None = None
) -> tuple[Task, dict[str, bytes]]:
    """Return the task of a file, with every row checked, and the files to store.

    `taken` lists forbidden names; `name` and `kind` override those read from the file, except from a .py file. Raises
    `UsageError` with file and line.
    """
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file} should end in one of {', '.join(SUFFIXES)}.")
    if file.suffix == ".py":
        task = python_task(file)
        contents = {"task.py": read_limited(file)}
    else:
        found = described(file)
        found = found.model_copy(update={"name": name or found.name, "kind": kind or found.kind})
        task, contents = task_of(found), kept_files(found)
    if not NAME.fullmatch(task.name):
        raise UsageError(f"The name {task.name!r} should be {NAME_RULE}.")
    if task.name in taken:
        raise UsageError(f"{task.name} is the name of a task that comes with CAP Viz; choose another.")
    _ = task.splits  # Reads and checks every row.
    return task, contents


def kept_files(found: Description) -> dict[str, bytes]:
    """Return the files to store: the rows, and last the description that names them."""
    rows = {role: read_limited(path) for role, path in found.files.items()}
    names = {role: f"{role}-{hashlib.sha256(content).hexdigest()[:12]}.jsonl" for role, content in rows.items()}
    return {**{names[role]: content for role, content in rows.items()}, "task.yaml": as_yaml(found, names).encode()}


def keep(folder: Path, contents: dict[str, bytes]) -> None:
    """Write a task's files, the description last: until it is renamed into place, the earlier task stays valid.

    The earlier task's rows are not overwritten and stay until the next replacement: a reader that has loaded its
    description, and reads rows only when they are needed, still gets the matching rows.
    """
    earlier = folder / "task.yaml"
    named = earlier.read_text(encoding="utf-8", errors="replace") if earlier.is_file() else ""
    outdated = [path for path in folder.glob("*.jsonl") if path.name not in named]
    for name, content in contents.items():
        write_bytes(folder / name, content)
    for path in (*folder.glob("task.*"), *outdated):
        if path.name not in contents:
            path.unlink(missing_ok=True)


def remove_task(name: str) -> None:
    """Delete a task; its runs stay, without their questions. Raises `UsageError` for a task not added here."""
    folder = own_folder() / name
    if not NAME.fullmatch(name) or not folder.is_dir():
        raise UsageError(f"There is no task {name!r} among those added on this machine.")
    shutil.rmtree(folder)
