"""Registry of tasks: the ones that come with CAP Viz, and the ones added on this machine (`tasks/own.py`)."""

from __future__ import annotations

from cap_viz.errors import choose
from cap_viz.tasks import (
    generic_text,
    gsm8k,
    mini_math,
    mini_science,
    mini_strategy,
    mini_text,
    strategyqa,
    toy_choice,
    toy_math,
    toy_strategy,
    toy_text,
)
from cap_viz.tasks.arc import ARC_CHALLENGE, ARC_EASY
from cap_viz.tasks.base import Example, Splits, Task, chance_level, check_has_options, check_metric, majority_share
from cap_viz.tasks.description import NAME
from cap_viz.tasks.own import own_folder, own_task, own_tasks

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
        toy_math.TASK,
        toy_strategy.TASK,
        toy_choice.TASK,
        toy_text.TASK,
    )
}


def load_task(name: str) -> Task:
    """Return the task of that name; its data is read on first use. Raises `UsageError` for an unknown name."""
    if name in TASKS:
        return TASKS[name]
    if (own_folder() / name).is_dir() and NAME.fullmatch(name):
        return own_task(name)
    return choose("task", name, all_tasks())


def all_tasks() -> dict[str, Task]:
    """Return every task by name, tasks added on this machine last."""
    return {**TASKS, **own_tasks()}


__all__ = [
    "TASKS",
    "Example",
    "Splits",
    "Task",
    "all_tasks",
    "chance_level",
    "check_has_options",
    "check_metric",
    "load_task",
    "majority_share",
]
