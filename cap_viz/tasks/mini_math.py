"""mini_math: arithmetic word problems with four numeric options, written for this project.

One to three steps on whole numbers. Every gold answer equals its `expression` (checked by a test); gold positions and
the gold's rank by size among the options are balanced.
"""

from __future__ import annotations

import re
from dataclasses import replace

from cap_viz.tasks.base import Example, Task
from cap_viz.tasks.rows import ChoiceRow
from cap_viz.tasks.sources import written_splits
from cap_viz.tasks.writing import NUMBER
from cap_viz.validation import Text


class SumRow(ChoiceRow):
    """A word problem; its worked solution is the `expression` and its value, such as " 21 / 7 * 40 = 120"."""

    expression: Text

    def example(self) -> Example:
        example = super().example()
        steps = re.sub(r"\s*(//|[-+*/%])\s*", r" \1 ", self.expression)
        result = example.options[example.gold].strip()
        return replace(example, solution=f" {steps} = {result}\n#### {result}")


TASK = Task(
    name="mini_math",
    title="Mini math",
    summary="Arithmetic word problems with four numeric options, written for CAP Viz; works offline.",
    version=1,
    source="written for CAP Viz",
    licence="Apache-2.0",
    prompt_format="Question: {question}\\nAnswer: {option}",
    load=lambda: written_splits("mini_math", SumRow.to_example),
    writing=NUMBER,
)
