"""Example sets of runs: drawn for calibration, the first ones for evaluation, or named by id; and their texts."""

from __future__ import annotations

import json
from dataclasses import dataclass

from cap_viz.errors import UsageError
from cap_viz.models.catalogue import TOY_MODEL, ModelRef
from cap_viz.settings import ASSETS
from cap_viz.tasks import Example, Task, load_task
from cap_viz.tasks.wordings import reworded

# Nearly all calibration passages of generic_text.
N_TEXT_PASSAGES = 160
COMPANION_IDS = ASSETS / "companion_text.json"


@dataclass(frozen=True)
class ExampleSet:
    """Reference to examples: task, version and example ids in order. `seed` records the draw.

    `prompt` is another wording of the task's prompt, with {question} where the question goes; None for the task's own.
    """

    task: str
    version: int
    ids: tuple[str, ...]
    split: str
    seed: int | None = None
    prompt: str | None = None


def task_of(task: Task | str) -> Task:
    """Return the task itself, or the one of that name."""
    return load_task(task) if isinstance(task, str) else task


def calibration_set(task: Task | str, n: int, seed: int = 0, prompt: str | None = None) -> ExampleSet:
    """Draw `n` calibration examples of a task with `seed`; `prompt` asks them in other words (`wordings.reworded`)."""
    chosen = task_of(task)
    ids = ids_of(chosen.calibration(n, seed), prompt)
    return ExampleSet(task=chosen.name, version=chosen.version, ids=ids, split="calibration", seed=seed, prompt=prompt)


def ids_of(examples: tuple[Example, ...], prompt: str | None = None) -> tuple[str, ...]:
    """Return the ids of examples. Raises `UsageError` for a prompt that cannot ask them."""
    return tuple(example.id for example in asked_by(prompt, examples))


def asked_by(prompt: str | None, examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """Return the examples as they are, or `reworded` by a prompt."""
    return examples if prompt is None else reworded(examples, prompt)


def companion_text(model: ModelRef) -> ExampleSet:
    """Return the running text for criteria that measure on text besides a task.

    The ids of the WikiText-2 passages are stored in a file, so that masks built on them are found even on machines
    without the text.
    """
    task = companion_task(model)
    if task != "generic_text":
        return calibration_set(task, N_TEXT_PASSAGES)
    named = json.loads(COMPANION_IDS.read_text("utf-8"))
    return ExampleSet(task=task, version=named["version"], ids=tuple(named["ids"]), split="calibration", seed=0)


def companion_task(model: ModelRef) -> str:
    """Return generic_text (WikiText-2), or toy_text for the toy model, which knows only the toy tasks' words."""
    return "toy_text" if model.id == TOY_MODEL else "generic_text"


def evaluation_set(task: Task | str, n: int | None = None) -> ExampleSet:
    """Return the first `n` evaluation examples of a task (all when `n` is None)."""
    chosen = task_of(task)
    ids = ids_of(chosen.evaluation(n))
    return ExampleSet(task=chosen.name, version=chosen.version, ids=ids, split="evaluation")


def named_set(task: Task | str, ids: tuple[str, ...], prompt: str | None = None) -> ExampleSet:
    """Return exactly the named examples, from any split; `prompt` is as in `calibration_set`."""
    chosen = task_of(task)
    ids = ids_of(chosen.by_ids(ids), prompt)
    return ExampleSet(task=chosen.name, version=chosen.version, ids=ids, split="ids", prompt=prompt)


def examples_of(wanted: ExampleSet) -> tuple[Example, ...]:
    """Return the examples of a set, asked by its prompt.

    Raises `UsageError` when the task's version has changed since, or when the prompt cannot ask them.
    """
    return asked_by(wanted.prompt, versioned_task(wanted).by_ids(wanted.ids))


def versioned_task(wanted: ExampleSet) -> Task:
    """Return the task of a set. Raises `UsageError` when the task's version has changed since."""
    task = load_task(wanted.task)
    if task.version != wanted.version:
        raise UsageError(
            f"The run needs version {wanted.version} of task {wanted.task}, this program has version {task.version}."
        )
    return task
