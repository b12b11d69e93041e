"""Generated questions: reproducible from task, split and index, with combinations that occur in one split only.

A question's `combination` holds the parts that its answer combines, such as person, place and the property asked about.
Its hash decides the split. So the toy model meets every word and every single step of an evaluation question in
training, but never all of them together.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cap_viz.tasks.base import Example, Splits

Split = Literal["training", "calibration", "evaluation"]
N_CALIBRATION = 512
N_EVALUATION = 1000


@dataclass(frozen=True)
class Drawn:
    """One generated question: the stated `facts`, the question `asked` about them, and its `difficulty`.

    `options` start with a space, as in every task; `solution` is the worked answer where there is one.
    """

    combination: str
    facts: str
    asked: str
    options: tuple[str, ...]
    gold: int
    difficulty: int
    solution: str | None = None

    @property
    def question(self) -> str:
        return f"{self.facts} {self.asked}"


Draw = Callable[[random.Random], Drawn]


def split_of(combination: str) -> Split:
    """Assign one combination in ten to evaluation, one to calibration, and the other eight to training."""
    tenth = int(hashlib.sha256(combination.encode("utf-8")).hexdigest(), 16) % 10
    return "evaluation" if tenth == 0 else "calibration" if tenth == 1 else "training"


def drawn(task: str, split: Split, draw: Draw, index: int) -> Drawn:
    """Draw question `index` of a split, the same on every machine."""
    rng = random.Random(f"{task} {split} {index}")
    while True:
        found = draw(rng)
        if split_of(found.combination) == split:
            return found


def example(task: str, split: Split, draw: Draw, index: int) -> Example:
    return as_example(f"{split}-{index}", drawn(task, split, draw, index))


def as_example(name: str, found: Drawn) -> Example:
    return Example(
        id=name,
        question=found.question,
        prompt=f"Question: {found.question}\nAnswer:",
        options=found.options,
        gold=found.gold,
        solution=found.solution,
    )


def drawn_splits(task: str, draw: Draw) -> Splits:
    return Splits(
        calibration=tuple(example(task, "calibration", draw, index) for index in range(N_CALIBRATION)),
        evaluation=tuple(example(task, "evaluation", draw, index) for index in range(N_EVALUATION)),
    )


def shuffled(rng: random.Random, right: str, wrong: list[str]) -> tuple[tuple[str, ...], int]:
    """Shuffle the options; return them and the right one's index."""
    options = [right, *wrong]
    rng.shuffle(options)
    return tuple(options), options.index(right)
