"""Tasks added on this machine: kept under the local cache folder, one folder each, and found by name like all others.

A folder holds `task.yaml` with its rows under names of their content, or `task.py`. Python files are run when the task
is used, so they are only taken from the command line; what is uploaded in the dashboard is data and never run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from cap_viz.errors import CapVizError, UsageError
from cap_viz.files import write_bytes
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
    for name in sorted({file.parent.name for file in own_folder().glob("[!.]*/task.*")}):
        try:
            found[name] = own_task(name)
        except CapVizError as error:
            log.warning("%s", error)
    return found


def own_task(name: str) -> Task:
    """One of them. Raises `UsageError` when it is not there or cannot be read."""
    folder = own_folder() / name
    for file in (folder / "task.yaml", folder / "task.py"):
        if file.is_file():
            return read_task(file, changes(folder))
    raise UsageError(f"There is no task {name!r} among those added on this machine.")


def changes(folder: Path) -> tuple[int, ...]:
    """When each file of a task was last changed."""
    found: list[int] = []
    for path in sorted(folder.glob("[!.]*")):
        with suppress(FileNotFoundError):  # Rows of an earlier task, removed just now.
            found.append(path.stat().st_mtime_ns)
    return tuple(found)


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
    own_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(own_folder() / f".{task.name}.lock"):
        keep(own_folder() / task.name, contents)
    log.info("Added task %s: %d + %d examples", task.name, len(check.calibration), len(check.evaluation))
    return own_task(task.name)


def kept_files(found: Description) -> dict[str, bytes]:
    """The rows, and last the description that names them."""
    rows = {role: read_limited(path) for role, path in found.files.items()}
    names = {role: f"{role}-{hashlib.sha256(content).hexdigest()[:12]}.jsonl" for role, content in rows.items()}
    return {**{names[role]: content for role, content in rows.items()}, "task.yaml": as_yaml(found, names).encode()}


def keep(folder: Path, contents: dict[str, bytes]) -> None:
    """Write a task's files. Until the last of them, the description, is there in one rename, the earlier task is.

    Nothing of the earlier task is overwritten, and its rows stay until the next replacement: whoever has read its
    description, and reads rows only when they are needed, gets those it is about.
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
    """Forget a task. Its runs stay, but its questions are no longer known. Raises `UsageError` for a foreign name."""
    folder = own_folder() / name
    if not NAME.fullmatch(name) or not folder.is_dir():
        raise UsageError(f"There is no task {name!r} among those added on this machine.")
    shutil.rmtree(folder)
