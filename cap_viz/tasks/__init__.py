"""The tasks on offer. Adding one means writing its file and listing it here."""

from __future__ import annotations

from cap_viz.errors import UsageError
from cap_viz.tasks import generic_text, gsm8k, mini_math, mini_science, mini_strategy, mini_text, strategyqa
from cap_viz.tasks.arc import ARC_CHALLENGE, ARC_EASY
from cap_viz.tasks.base import Example, Splits, Task, chance_level, check_has_options, check_metric

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        mini_science.TASK,
        mini_math.TASK,
        mini_strategy.TASK,
        mini_text.TASK,
        ARC_EASY,
        ARC_CHALLENGE,
        strategyqa.TASK,
        gsm8k.TASK,
        generic_text.TASK,
    )
}


def load_task(name: str) -> Task:
    """The task of that name; its data is read when examples are first asked for."""
    if name not in TASKS:
        raise UsageError(f"Unknown task {name!r}; choose one of {', '.join(TASKS)}.")
    return TASKS[name]


__all__ = ["TASKS", "Example", "Splits", "Task", "chance_level", "check_has_options", "check_metric", "load_task"]
