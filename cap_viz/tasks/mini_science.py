"""mini_science: grade-school science with four options, written for this project.

Four subjects (life, physical, earth and space, matter and practice). Gold positions are balanced in both splits;
no two questions share more than 60 % of their words. The prompt is that of ARC in lm-evaluation-harness.
"""

from __future__ import annotations

from cap_viz.tasks.base import Task
from cap_viz.tasks.rows import ChoiceRow
from cap_viz.tasks.sources import written_splits

TASK = Task(
    name="mini_science",
    title="Mini science",
    summary="Grade-school science questions with four options, written for CAP Viz; works offline.",
    version=1,
    source="written for CAP Viz",
    licence="Apache-2.0",
    prompt_format="Question: {question}\\nAnswer: {option}",
    load=lambda: written_splits("mini_science", ChoiceRow.to_example),
)
