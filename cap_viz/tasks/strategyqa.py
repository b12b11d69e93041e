"""StrategyQA (Geva et al. 2021, arXiv 2101.02235): yes/no questions whose steps are left implicit.

Calibration uses the train split, evaluation the dev split (the test split has no public answers). Scored as the
likelihood of " yes" against " no"; the floor to beat is the majority answer, not one half.
"""

from __future__ import annotations

from typing import Any

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example, Splits, Task
from cap_viz.tasks.sources import HubFiles, public_rows, rows_are_local

HUB = HubFiles(repository="njf/StrategyQA", revision="main", files={"train": "train.jsonl", "dev": "dev.jsonl"})
YES_NO = (" yes", " no")


def to_example(row: dict[str, Any]) -> Example:
    try:
        return Example(
            id=row["qid"],
            question=row["question"],
            prompt=f"Question: {row['question']}\nAnswer:",
            options=YES_NO,
            gold=0 if row["answer"] is True else {False: 1}[row["answer"]],
        )
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"Row {row.get('qid', '?')!r} of strategyqa lacks a proper {error}; expected the fields qid, question "
            "and answer (true or false)."
        ) from error


def load() -> Splits:
    def split(source: str) -> tuple[Example, ...]:
        return tuple(to_example(row) for row in public_rows("strategyqa", source, HUB))

    return Splits(calibration=split("train"), evaluation=split("dev"))


TASK = Task(
    name="strategyqa",
    title="StrategyQA",
    summary="Yes/no questions that need several unstated facts; from the hub or the folder named by CAP_VIZ_DATA.",
    version=1,
    source="eladsegal/strategyqa, by way of njf/StrategyQA on the hub",
    licence="MIT",
    prompt_format="Question: {question}\\nAnswer: yes | no",
    kind="yes_no",
    load=load,
    is_local=lambda: rows_are_local("strategyqa", HUB),
)
