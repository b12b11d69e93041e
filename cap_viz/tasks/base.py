"""Base types of tasks: examples, calibration and evaluation splits, and the task itself."""

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

    `solution` is a worked answer as it would follow the prompt, where the source has one. `task` is set when a task
    loads the example; None for an example made by hand.
    """

    id: str
    question: str
    prompt: str
    options: tuple[str, ...]
    gold: int
    solution: str | None = None
    task: TaskVersion | None = field(default=None, repr=False, compare=False)

    @property
    def asks(self) -> bool:
        """Whether the prompt asks the question; running text asks none."""
        running_text = self.question == self.prompt and len(self.options) == 1 and self.solution is None
        return bool(self.question) and self.question in self.prompt and not running_text


def tasks_of(examples: Iterable[Example]) -> tuple[TaskVersion, ...]:
    """Return the tasks of the examples, each once; empty for examples made by hand."""
    return tuple(dict.fromkeys(example.task for example in examples if example.task is not None))


@dataclass(frozen=True)
class Splits:
    """The examples of a task, in source order. Calibration and evaluation never share an example.

    `origin` names the copy of a public data set they were read from; it is recorded with a run but not part of its key.
    """

    calibration: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    origin: str | None = None

    def of(self, task: TaskVersion) -> Splits:
        """Return the same examples, labelled with their task."""
        calibration, evaluation = (
            tuple(replace(example, task=task) for example in split) for split in (self.calibration, self.evaluation)
        )
        return replace(self, calibration=calibration, evaluation=evaluation)


def example_id(question: str) -> str:
    """Return an id made from the question, for sources without ids."""
    return hashlib.sha1(question.encode("utf-8")).hexdigest()[:12]


# choice: options differ between questions. yes_no: the same two options throughout, so that always giving the more
# frequent one is the floor to beat. text: one given continuation, scored by its token loss; no accuracy.
Kind = Literal["choice", "yes_no", "text"]


@dataclass(frozen=True)
class Task:
    """A set of examples with their prompt format and their calibration and evaluation splits.

    `load` reads the splits; it runs once, when examples are first needed. `is_local` tells, without any download,
    whether `load` needs no network. `version` is part of every run key and changes whenever texts, ids or the prompt
    format change. `running_text` returns the whole evaluation text where perplexity can be measured on it. `writing`
    describes how answers are written out and parsed; None where only log-likelihoods are compared. `origin` is package
    and version, if another package adds the task.
    """

    name: str
    title: str
    summary: str
    version: int
    source: str
    licence: str
    prompt_format: str
    load: Callable[[], Splits] = field(repr=False, compare=False)
    is_local: Callable[[], bool] = field(default=lambda: True, repr=False, compare=False)
    kind: Kind = "choice"
    folder: str = ""
    running_text: Callable[[], str] | None = field(default=None, repr=False, compare=False)
    writing: Writing | None = field(default=None, repr=False, compare=False)
    origin: str = field(default="", repr=False, compare=False)

    @property
    def data_folder(self) -> str:
        """Return the folder name under `CAP_VIZ_DATA` that holds a local copy."""
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
        """Draw `n` examples without replacement from the whole calibration split; nested for growing `n`."""
        pool = self.splits.calibration
        check_count(self.name, "calibration", n, len(pool))
        order = list(range(len(pool)))
        random.Random(seed).shuffle(order)
        return tuple(pool[i] for i in order[:n])

    def evaluation(self, n: int | None = None) -> tuple[Example, ...]:
        """Return the first `n` evaluation examples in source order (all when `n` is None)."""
        pool = self.splits.evaluation
        if n is None:
            return pool
        check_count(self.name, "evaluation", n, len(pool))
        return pool[:n]

    def by_ids(self, ids: Sequence[str]) -> tuple[Example, ...]:
        """Return exactly the named examples, in the order given, from any split."""
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
    """Return the accuracy of guessing: the mean of 1/K, or the share of the majority answer for yes/no questions."""
    import numpy as np

    from cap_viz.stats import guessing_floor

    n_options = np.array([len(example.options) for example in examples])
    return float(guessing_floor(n_options, majority_share(task, [example.gold for example in examples])).mean())


def majority_share(task: Task, gold: Sequence[int]) -> float:
    """Return the share of the most frequent answer for yes/no questions, where always giving it is a guess; else 0."""
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
    """Raise `UsageError` for an empty split, repeated ids, or an example without a valid gold option."""
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
