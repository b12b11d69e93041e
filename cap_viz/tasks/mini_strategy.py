"""mini_strategy: yes/no questions that need two facts, written for this project.

Half of the answers are yes in both splits; questions that share a fact are in the same split.
"""

from __future__ import annotations

from cap_viz.tasks.base import Task
from cap_viz.tasks.rows import YesNoRow
from cap_viz.tasks.sources import written_splits
from cap_viz.tasks.writing import YES_NO

TASK = Task(
    name="mini_strategy",
    title="Mini strategy",
    summary="Yes/no questions that need two facts, written for CAP Viz; works offline.",
    version=1,
    source="written for CAP Viz",
    licence="Apache-2.0",
    prompt_format="Question: {question}\\nAnswer: yes | no",
    kind="yes_no",
    load=lambda: written_splits("mini_strategy", YesNoRow.to_example),
    writing=YES_NO,
)
