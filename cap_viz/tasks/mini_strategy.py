"""mini_strategy: yes/no questions that need two facts, written for this project.

Half of the answers are yes in both splits; questions that share a fact are in the same split.
"""

from __future__ import annotations

from pathlib import Path

from cap_viz.settings import ASSETS
from cap_viz.tasks.base import Example, Splits, Task, example_id
from cap_viz.tasks.sources import read_json_lines
from cap_viz.tasks.strategyqa import YES_NO

FOLDER = ASSETS / "mini_strategy"


def read_split(path: Path) -> tuple[Example, ...]:
    return tuple(
        Example(
            id=example_id(row["question"]),
            question=row["question"],
            prompt=f"Question: {row['question']}\nAnswer:",
            options=YES_NO,
            gold=0 if row["answer"] else 1,
        )
        for row in read_json_lines(path)
    )


TASK = Task(
    name="mini_strategy",
    title="Mini strategy",
    summary="Yes/no questions that need two facts, written for CAP Viz; works offline.",
    version=1,
    source="written for CAP Viz",
    licence="Apache-2.0",
    prompt_format="Question: {question}\\nAnswer: yes | no",
    kind="yes_no",
    load=lambda: Splits(read_split(FOLDER / "calibration.jsonl"), read_split(FOLDER / "evaluation.jsonl")),
    is_local=lambda: True,
)
