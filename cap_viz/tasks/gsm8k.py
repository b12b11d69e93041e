"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school word problems with worked solutions.

Here the gold solution's token loss is scored, as it stands in the data (calculator notes and final answer included).
Calibration uses the train split, evaluation the test split. The source gives no ids.
"""

from __future__ import annotations

from typing import Any

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example, Splits, Task, example_id
from cap_viz.tasks.sources import HubFiles, public_rows, rows_are_local

HUB = HubFiles(
    repository="openai/gsm8k",
    revision="740312add88f781978c0658806c59bc2815b9866",
    files={split: f"main/{split}-00000-of-00001.parquet" for split in ("train", "test")},
)


def to_example(row: dict[str, Any]) -> Example:
    try:
        return Example(
            id=example_id(row["question"]),
            question=row["question"],
            prompt=f"Question: {row['question']}\nAnswer:",
            options=(f" {row['answer']}",),
            gold=0,
        )
    except (KeyError, AttributeError) as error:
        raise UsageError(f"A row of gsm8k lacks {error}; expected the fields question and answer.") from error


def load() -> Splits:
    def split(source: str) -> tuple[Example, ...]:
        return tuple(to_example(row) for row in public_rows("gsm8k", source, HUB))

    return Splits(calibration=split("train"), evaluation=split("test"))


TASK = Task(
    name="gsm8k",
    title="GSM8K",
    summary="Word problems with worked solutions; the loss on the gold solution. From the hub or CAP_VIZ_DATA.",
    version=1,
    source="openai/gsm8k",
    licence="MIT",
    prompt_format="Question: {question}\\nAnswer: {solution}",
    kind="text",
    load=load,
    is_local=lambda: rows_are_local("gsm8k", HUB),
)
