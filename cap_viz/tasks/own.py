"""Tasks added on this machine: kept under the local cache folder, one folder each, and found by name like all others.

A folder holds `task.yaml` with its rows, or `task.py`. Python files are run when the task is used, so they are only
taken from the command line; what is uploaded in the dashboard is data and never run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from cap_viz.errors import CapVizError, UsageError
from cap_viz.files import replace_folder, write_bytes
from cap_viz.settings import local_folder
from cap_viz.tasks.base import Task
from cap_viz.tasks.description import NAME, Description, as_yaml, described, read_limited, task_of

log = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".yaml", ".yml", ".py")


def own_folder() -> Path:
    return local_folder() / "tasks"


def own_tasks() -> dict[str, Task]:
    """The tasks added on this machine, by name. One that can no longer be read is logged and left out."""
    found: dict[str, Task] = {}
    for folder in sorted(own_folder().glob("[!.]*/")):
        try:
            found[folder.name] = own_task(folder.name)
        except CapVizError as error:
            log.warning("%s", error)
    return found


def own_task(name: str) -> Task:
    """One of them. Raises `UsageError` when it is not there or cannot be read."""
    folder = own_folder() / name
    for file in (folder / "task.yaml", folder / "task.py"):
        if file.is_file():
            return read_task(file, tuple(path.stat().st_mtime_ns for path in sorted(folder.iterdir())))
    raise UsageError(f"There is no task {name!r} among those added on this machine.")


@lru_cache(maxsize=64)
def read_task(file: Path, changed: tuple[int, ...]) -> Task:
    """The task of a file, kept with its rows until a file of its folder has `changed`."""
    return python_task(file) if file.suffix == ".py" else task_of(described(file))


def python_task(file: Path) -> Task:
    """The `TASK` a Python file defines, with the file's content as its version."""
    content = read_limited(file)
    spec = importlib.util.spec_from_file_location(f"cap_viz_own_{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # Whatever the file does wrong, it is the file's mistake.
        raise UsageError(f"{file} cannot be run ({type(error).__name__}: {error}).") from error
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        raise UsageError(f"{file} should define TASK, a cap_viz.tasks.Task.")
    if not NAME.fullmatch(task.name):
        raise UsageError(f"{file}: the task's name {task.name!r} should be lower-case letters, digits and underscores.")
    return replace(task, version=int(hashlib.sha256(content).hexdigest()[:7], 16))


def add_task(file: Path, taken: Sequence[str], *, name: str | None = None, kind: str | None = None) -> Task:
    """Check a .jsonl, .yaml or .py file and keep a copy of it, in place of an earlier task of the same name.

    `taken` are names it may not have; `name` and `kind` replace what is read from JSON lines alone. Raises `UsageError`
    with file and line; nothing is kept then.
    """
    if file.suffix not in SUFFIXES:
        raise UsageError(f"{file} should end in one of {', '.join(SUFFIXES)}.")
    if file.suffix == ".py":
        task = python_task(file)
        contents = {"task.py": read_limited(file)}
    else:
        found = described(file)
        found = replace(found, name=name or found.name, kind=kind or found.kind)
        task, contents = task_of(found), kept_files(found)
    if not NAME.fullmatch(task.name):
        raise UsageError(
            f"The name {task.name!r} should be lower-case letters, digits and underscores, a letter first."
        )
    if task.name in taken:
        raise UsageError(f"{task.name} is the name of a task that comes with CAP Viz; choose another.")
    check = task.splits  # Every row is read before anything is kept.
    building = own_folder() / f".{task.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    for name_in_folder, content in contents.items():
        write_bytes(building / name_in_folder, content)
    replace_folder(building, own_folder() / task.name)
    log.info("Added task %s: %d + %d examples", task.name, len(check.calibration), len(check.evaluation))
    return own_task(task.name)


def kept_files(found: Description) -> dict[str, bytes]:
    data = {f"{role}.jsonl": read_limited(path) for role, path in found.files.items()}
    return {"task.yaml": as_yaml(found).encode(), **data}


def remove_task(name: str) -> None:
    """Forget a task. Its runs stay, but its questions are no longer known. Raises `UsageError` for a foreign name."""
    folder = own_folder() / name
    if not NAME.fullmatch(name) or not folder.is_dir():
        raise UsageError(f"There is no task {name!r} among those added on this machine.")
    shutil.rmtree(folder)
