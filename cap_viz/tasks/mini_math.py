"""mini_math: arithmetic word problems with four numeric options, written for this project.

One to three steps on whole numbers. Every gold answer equals its `expression` (checked by a test); gold positions and
the gold's rank by size among the options are balanced.
"""

from __future__ import annotations

from cap_viz.tasks.base import Task
from cap_viz.tasks.mini_science import to_example
from cap_viz.tasks.sources import written_splits

TASK = Task(
    name="mini_math",
    title="Mini math",
    summary="Arithmetic word problems with four numeric options, written for CAP Viz; works offline.",
    version=1,
    source="written for CAP Viz",
    licence="Apache-2.0",
    prompt_format="Question: {question}\\nAnswer: {option}",
    load=lambda: written_splits("mini_math", to_example),
    is_local=lambda: True,
)
