"""mini_science: grade-school science with four options, written for this project.

Four subjects (life, physical, earth and space, matter and practice). Gold positions are balanced in both splits;
no two questions share more than 60 % of their words. Asked like ARC in lm-evaluation-harness.
"""

from __future__ import annotations

from pathlib import Path

from cap_viz.settings import ASSETS
from cap_viz.tasks.base import Example, Splits, Task, example_id
from cap_viz.tasks.sources import read_json_lines

FOLDER = ASSETS / "mini_science"


def read_split(path: Path) -> tuple[Example, ...]:
    return tuple(
        Example(
            id=example_id(row["question"]),
            question=row["question"],
            prompt=f"Question: {row['question']}\nAnswer:",
            options=tuple(f" {option}" for option in row["options"]),
            gold=row["gold"],
        )
        for row in read_json_lines(path)
    )


def load() -> Splits:
    return Splits(
        calibration=read_split(FOLDER / "calibration.jsonl"),
        evaluation=read_split(FOLDER / "evaluation.jsonl"),
    )


TASK = Task(
    name="mini_science",
    title="Mini science",
    summary="Grade-school science questions with four options, written for CAP Viz; works offline.",
    version=1,
    source="written for CAP Viz",
    licence="Apache-2.0",
    prompt_format="Question: {question}\\nAnswer: {option}",
    load=load,
    is_local=lambda: True,
)
