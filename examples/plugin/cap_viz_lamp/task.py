"""Weekdays: which day is it so many days after a given one? Generated, the same on every machine."""

from __future__ import annotations

import random

from cap_viz.tasks.base import Example, Splits, Task

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
N_CALIBRATION, N_EVALUATION = 100, 300


def load() -> Splits:
    draws = random.Random(0)
    pairs = [(start, ahead) for start in range(7) for ahead in range(2, 100)]
    chosen = draws.sample(pairs, N_CALIBRATION + N_EVALUATION)
    examples = tuple(example(start, ahead, draws) for start, ahead in chosen)
    return Splits(examples[:N_CALIBRATION], examples[N_CALIBRATION:], origin="generated")


def example(start: int, ahead: int, draws: random.Random) -> Example:
    right = (start + ahead) % 7
    options = [right, *draws.sample([day for day in range(7) if day != right], 3)]
    draws.shuffle(options)
    question = f"Today is {DAYS[start]}. Which day of the week is it in {ahead} days?"
    return Example(
        id=f"{DAYS[start].lower()}-{ahead}",
        question=question,
        prompt=f"Question: {question}\nAnswer:",
        options=tuple(f" {DAYS[day]}" for day in options),
        gold=options.index(right),
    )


WEEKDAYS = Task(
    name="weekdays",
    title="Weekdays",
    summary="Which day of the week is it so many days from now? Generated questions with four options.",
    version=1,
    source="cap-viz-lamp, generated",
    licence="Apache-2.0",
    prompt_format="Question: {question}\\nAnswer: {option}",
    load=load,
)
