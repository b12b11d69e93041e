"""Which examples a run is about: drawn for calibration, the first ones for evaluation, or named; and their texts."""

from __future__ import annotations

from cap_viz.errors import UsageError
from cap_viz.models import TOY_MODEL
from cap_viz.spec import ExampleSet, ModelRef
from cap_viz.tasks import Example, load_task

# All but a few of the calibration passages of generic_text.
N_TEXT_PASSAGES = 160


def calibration_set(task: str, n: int, seed: int = 0) -> ExampleSet:
    """`n` calibration examples of a task, drawn with `seed`."""
    chosen = load_task(task)
    ids = tuple(example.id for example in chosen.calibration(n, seed))
    return ExampleSet(task=task, version=chosen.version, ids=ids, split="calibration", seed=seed)


def companion_text(model: ModelRef) -> ExampleSet:
    """Passages of running text for criteria that measure some beside a task."""
    return calibration_set(companion_task(model), N_TEXT_PASSAGES)


def companion_task(model: ModelRef) -> str:
    """WikiText-2; the toy reasoner knows the words of its own text only."""
    return "toy_text" if model.id == TOY_MODEL else "generic_text"


def check_companion_is_local(model: ModelRef) -> None:
    """Raise `UsageError` where the text would have to be fetched, for pages that must not wait for it."""
    name = companion_task(model)
    if not load_task(name).is_local():
        raise UsageError(
            f"CAP fine reads {name} (WikiText-2) beside the task's examples, and it is not on this machine: fetch it "
            f"by `python -m cap_viz score --task {name} --n 8`, or name a folder with wikitext2 by CAP_VIZ_DATA."
        )


def evaluation_set(task: str, n: int | None = None) -> ExampleSet:
    """The first `n` evaluation examples of a task."""
    chosen = load_task(task)
    ids = tuple(example.id for example in chosen.evaluation(n))
    return ExampleSet(task=task, version=chosen.version, ids=ids, split="evaluation")


def named_set(task: str, ids: tuple[str, ...]) -> ExampleSet:
    """Exactly the named examples, from any split."""
    chosen = load_task(task)
    chosen.by_ids(ids)
    return ExampleSet(task=task, version=chosen.version, ids=ids, split="ids")


def examples_of(wanted: ExampleSet) -> tuple[Example, ...]:
    """The examples a spec names. Raises `UsageError` when the task has changed since."""
    check_version(wanted)
    return load_task(wanted.task).by_ids(wanted.ids)


def check_version(wanted: ExampleSet) -> None:
    task = load_task(wanted.task)
    if task.version != wanted.version:
        raise UsageError(
            f"The run needs version {wanted.version} of task {wanted.task}, this program has version {task.version}."
        )
