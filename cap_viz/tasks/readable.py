"""Tasks and control texts that a model can read. Needs no torch and no loaded model."""

from __future__ import annotations

from cap_viz.errors import UsageError
from cap_viz.models.catalogue import CATALOGUE
from cap_viz.tasks import all_tasks

# Texts without reasoning, the better control first; the last is for the toy model.
CONTROL_TEXTS = ("generic_text", "mini_text", "toy_text")


def own_tasks_of(model_id: str) -> tuple[str, ...]:
    """Return the tasks a model is restricted to by its vocabulary; empty for a model that reads any text."""
    entry = CATALOGUE.get(model_id)
    return () if entry is None else entry.tasks


def tasks_for(model_id: str) -> list[str]:
    """Return the names of the tasks a model can read: all, except that the toy model reads only its own."""
    return list(own_tasks_of(model_id) or all_tasks())


def controls_for(model_id: str) -> list[str]:
    """Return the names of the control texts that a model can read, the better control first."""
    own = own_tasks_of(model_id)
    return [name for name in CONTROL_TEXTS if (name in own if own else name != "toy_text")]


def check_readable(model_id: str, task: str) -> None:
    """Raise `UsageError` when a model cannot read a task's words."""
    own = own_tasks_of(model_id)
    if own and task not in own:
        raise UsageError(f"{model_id} reads only {', '.join(own)}; task {task} is not among them.")
