"""What a task is: where its questions come from, how they are asked, which may be used for what."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from cap_viz.errors import UsageError
from cap_viz.tasks.writing import Writing


@dataclass(frozen=True)
class TaskVersion:
    """The name and version of a task."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class Example:
    """One question. The model scores `prompt + options[k]` for every k; `gold` indexes the right option.

    `solution` is a worked answer as it would follow the prompt, where the source has one. `task` is set by the task
    that gives the example out; None for an example made by hand.
    """

    id: str
    question: str
    prompt: str
    options: tuple[str, ...]
    gold: int
    solution: str | None = None
    task: TaskVersion | None = field(default=None, repr=False, compare=False)


def tasks_of(examples: Iterable[Example]) -> tuple[TaskVersion, ...]:
    """The tasks the examples come from, each once; none for examples made by hand."""
    return tuple(dict.fromkeys(example.task for example in examples if example.task is not None))


@dataclass(frozen=True)
class Splits:
    """The examples of a task, in source order. Calibration and evaluation never share an example.

    `origin` says which copy of a public data set they are from; it is recorded with a run and is no part of its key.
    """

    calibration: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    origin: str | None = None

    def of(self, task: TaskVersion) -> Splits:
        """The same examples as those of a task."""
        calibration, evaluation = (
            tuple(replace(example, task=task) for example in split) for split in (self.calibration, self.evaluation)
        )
        return replace(self, calibration=calibration, evaluation=evaluation)


def example_id(question: str) -> str:
    """The identity of an example whose source gives it none."""
    return hashlib.sha1(question.encode("utf-8")).hexdigest()[:12]


# choice: options differ from question to question. yes_no: the same two options throughout, so that always giving
# the commoner one is the floor to beat. text: one given continuation, scored by its token loss; no accuracy.
Kind = Literal["choice", "yes_no", "text"]


@dataclass(frozen=True)
class Task:
    """A set of examples, how they are asked, and which may be used for what.

    `load` reads the splits; it runs once, when examples are first asked for. `is_local` tells, without any
    download, whether `load` needs no network. `version` is part of every run key and changes whenever texts, ids or
    the prompt format change. `running_text` gives the whole evaluation text where perplexity can be measured on it.
    `writing` says how answers are written out and read; None where only log-likelihoods are compared.
    """

    name: str
    title: str
    summary: str
    version: int
    source: str
    licence: str
    prompt_format: str
    load: Callable[[], Splits] = field(repr=False, compare=False)
    is_local: Callable[[], bool] = field(repr=False, compare=False)
    kind: Kind = "choice"
    folder: str = ""
    running_text: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    writing: Writing | None = field(default=None, repr=False, compare=False)

    @property
    def data_folder(self) -> str:
        """The folder under `CAP_VIZ_DATA` that holds a local copy."""
        return self.folder or self.name

    @property
    def as_version(self) -> TaskVersion:
        return TaskVersion(self.name, self.version)

    @cached_property
    def splits(self) -> Splits:
        splits = self.load()
        check_splits(self.name, splits, min_options=1 if self.kind == "text" else 2)
        return splits.of(self.as_version)

    def calibration(self, n: int, seed: int = 0) -> tuple[Example, ...]:
        """`n` examples drawn without replacement from the whole calibration split; nested for growing `n`."""
        pool = self.splits.calibration
        check_count(self.name, "calibration", n, len(pool))
        order = list(range(len(pool)))
        random.Random(seed).shuffle(order)
        return tuple(pool[i] for i in order[:n])

    def evaluation(self, n: int | None = None) -> tuple[Example, ...]:
        """The first `n` evaluation examples in source order (all when `n` is None)."""
        pool = self.splits.evaluation
        if n is None:
            return pool
        check_count(self.name, "evaluation", n, len(pool))
        return pool[:n]

    def by_ids(self, ids: Sequence[str]) -> tuple[Example, ...]:
        """Exactly the named examples, in the order given, from any split."""
        if not ids:
            raise UsageError(f"No example ids were given for task {self.name}; name at least one.")
        known = {example.id: example for example in (*self.splits.calibration, *self.splits.evaluation)}
        missing = [i for i in ids if i not in known]
        if missing:
            raise UsageError(
                f"Task {self.name} has no example {missing[0]!r} ({len(missing)} of {len(ids)} ids unknown); "
                "check the ids against the task's files."
            )
        repeated = first_repeat(ids)
        if repeated is not None:
            raise UsageError(f"Example id {repeated!r} is listed twice; list every id once.")
        return tuple(known[i] for i in ids)


def chance_level(task: Task, examples: Sequence[Example]) -> float:
    """Accuracy of guessing: the mean of 1/K, or the share of the commoner answer for yes/no questions."""
    import numpy as np

    from cap_viz.stats import guessing_floor

    n_options = np.array([len(example.options) for example in examples])
    return float(guessing_floor(n_options, majority_share(task, [example.gold for example in examples])).mean())


def majority_share(task: Task, gold: Sequence[int]) -> float:
    """The share of the commonest answer, where always giving it is a way to guess (yes/no questions); else 0."""
    return max(Counter(gold).values()) / len(gold) if task.kind == "yes_no" else 0.0


def check_has_options(task: Task) -> None:
    """Raise `UsageError` for a task without options: there is no accuracy to measure."""
    if task.kind == "text":
        raise UsageError(f"Task {task.name} has no options to choose from, so there is no accuracy; score its heads.")


def check_metric(task: Task, metric: str) -> None:
    """Raise `UsageError` when a metric compares options that the task does not have."""
    if task.kind == "text" and metric != "nll":
        raise UsageError(f"Metric {metric!r} compares options, which task {task.name} does not have; use nll.")


def check_count(task: str, split: str, n: int, available: int) -> None:
    if n < 1:
        raise UsageError(f"n = {n}: ask for at least one example.")
    if n > available:
        raise UsageError(f"n = {n} is more than the {available} {split} examples of {task}; ask for fewer.")


def check_splits(task: str, splits: Splits, *, min_options: int) -> None:
    """Raise when a split is empty, ids repeat, or an example has no proper gold option."""
    for split, examples in (("calibration", splits.calibration), ("evaluation", splits.evaluation)):
        if not examples:
            raise UsageError(f"The {split} split of {task} is empty; check its data files.")
    every = (*splits.calibration, *splits.evaluation)
    repeated = first_repeat([example.id for example in every])
    if repeated is not None:
        raise UsageError(f"Example id {repeated!r} occurs twice in task {task}; ids must be unique.")
    for example in every:
        if len(example.options) < min_options or not 0 <= example.gold < len(example.options):
            raise UsageError(
                f"Example {example.id!r} of {task} needs at least {min_options} options and a gold index among them."
            )


def first_repeat(values: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
