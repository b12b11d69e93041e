"""Which tasks and control texts a model can read. Needs no torch and no model."""

from __future__ import annotations

from cap_viz.errors import UsageError
from cap_viz.models.catalogue import CATALOGUE
from cap_viz.tasks import all_tasks

# Texts that ask for no reasoning, the better control first; the last is the toy model's.
CONTROL_TEXTS = ("generic_text", "mini_text", "toy_text")


def own_tasks_of(model_id: str) -> tuple[str, ...]:
    """The tasks whose words alone a model knows; none for a model that reads any text."""
    entry = CATALOGUE.get(model_id)
    return () if entry is None else entry.tasks


def tasks_for(model_id: str) -> list[str]:
    """The names of the tasks a model can read: all of them, but for the toy model, which knows the words of its own."""
    return list(own_tasks_of(model_id) or all_tasks())


def controls_for(model_id: str) -> list[str]:
    """The texts without reasoning that a model can read, the better control first."""
    own = own_tasks_of(model_id)
    return [name for name in CONTROL_TEXTS if (name in own if own else name != "toy_text")]


def check_readable(model_id: str, task: str) -> None:
    """Raise `UsageError` when the words of a task are not those a model was made for."""
    own = own_tasks_of(model_id)
    if own and task not in own:
        raise UsageError(f"{model_id} reads only {', '.join(own)}; task {task} is not among them.")
