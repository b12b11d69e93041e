"""The tasks on offer. Adding one means writing its file and listing it here."""

from __future__ import annotations

from cap_viz.errors import UsageError
from cap_viz.tasks.arc import ARC_EASY
from cap_viz.tasks.base import Example, Splits, Task, chance_level
from cap_viz.tasks.mini_science import TASK as MINI_SCIENCE

TASKS: dict[str, Task] = {task.name: task for task in (MINI_SCIENCE, ARC_EASY)}


def load_task(name: str) -> Task:
    """The task of that name; its data is read when examples are first asked for."""
    if name not in TASKS:
        raise UsageError(f"Unknown task {name!r}; choose one of {', '.join(TASKS)}.")
    return TASKS[name]


__all__ = ["TASKS", "Example", "Splits", "Task", "chance_level", "load_task"]
