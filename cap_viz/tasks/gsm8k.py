"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems with worked solutions.

Heads are scored by the token loss of the gold solution, unchanged (calculator notes and final answer included).
Accuracy compares the final number that a model writes (`writing.NUMBER`).
Calibration uses the train split, evaluation the test split. The source gives no ids.
"""

from __future__ import annotations

from typing import ClassVar

from cap_viz.tasks.base import Example, Task
from cap_viz.tasks.rows import QuestionRow
from cap_viz.tasks.sources import PublicData, SplitFile, public_splits, rows_are_local
from cap_viz.tasks.writing import NUMBER
from cap_viz.validation import Text

DATA = PublicData(
    folder="gsm8k",
    repository="openai/gsm8k",
    revision="740312add88f781978c0658806c59bc2815b9866",
    calibration=SplitFile("train.jsonl", "main/train-00000-of-00001.parquet"),
    evaluation=SplitFile("test.jsonl", "main/test-00000-of-00001.parquet"),
)


class WordProblemRow(QuestionRow):
    """A word problem of GSM8K; `answer` is its worked solution."""

    # The source has no ids, and some copies have ones of their own.
    id: ClassVar[str] = ""  # pyright: ignore[reportIncompatibleVariableOverride]
    answer: Text

    def example(self) -> Example:
        solution = f" {self.answer}"
        if NUMBER.read_strictly(solution) is None:
            raise ValueError('the field answer does not end with "#### " and a number')
        return self.with_options((solution,), 0, solution)


TASK = Task(
    name="gsm8k",
    title="GSM8K",
    summary="Word problems with worked solutions; the loss on the gold solution. From the hub or CAP_VIZ_DATA.",
    version=1,
    source="openai/gsm8k",
    licence="MIT",
    prompt_format="Question: {question}\\nAnswer: {solution}",
    kind="text",
    load=lambda: public_splits(DATA, WordProblemRow.to_example),
    is_local=lambda: rows_are_local(DATA),
    writing=NUMBER,
)
