"""ARC (Clark et al. 2018, arXiv 1803.05457): real grade-school science questions with 3 to 5 options.

Calibration uses the train split, evaluation the test split. Prompt and options as in lm-evaluation-harness'
`arc_easy.yaml`. Texts are CC BY-SA 4.0 and never stored by this project.
"""

from __future__ import annotations

from typing import Any

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example, Splits, Task
from cap_viz.tasks.sources import HubFiles, public_rows, rows_are_local

REVISION = "210d026faf9955653af8916fad021475a3f00453"


def hub_files(subset: str) -> HubFiles:
    return HubFiles(
        repository="allenai/ai2_arc",
        revision=REVISION,
        files={split: f"{subset}/{split}-00000-of-00001.parquet" for split in ("train", "test")},
    )


def to_example(name: str, row: dict[str, Any]) -> Example:
    try:
        labels, texts = list(row["choices"]["label"]), list(row["choices"]["text"])
        return Example(
            id=row["id"],
            question=row["question"],
            prompt=f"Question: {row['question']}\nAnswer:",
            options=tuple(f" {text}" for text in texts),
            gold=labels.index(row["answerKey"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"Row {row.get('id', '?')!r} of {name} lacks a proper {error}; expected the fields id, question, "
            "choices {text, label} and answerKey."
        ) from error


def load(name: str, subset: str) -> Splits:
    def split(source: str) -> tuple[Example, ...]:
        return tuple(to_example(name, row) for row in public_rows(name, source, hub_files(subset)))

    return Splits(calibration=split("train"), evaluation=split("test"))


def arc_task(name: str, subset: str, title: str, summary: str) -> Task:
    return Task(
        name=name,
        title=title,
        summary=f"{summary} From the hub or the folder named by CAP_VIZ_DATA.",
        version=1,
        source=f"allenai/ai2_arc, {subset}",
        licence="CC BY-SA 4.0",
        prompt_format="Question: {question}\\nAnswer: {option}",
        load=lambda: load(name, subset),
        is_local=lambda: rows_are_local(name, hub_files(subset)),
    )


ARC_EASY = arc_task("arc_easy", "ARC-Easy", "ARC-Easy", "Grade-school science exam questions from AI2.")
ARC_CHALLENGE = arc_task(
    "arc_challenge", "ARC-Challenge", "ARC-Challenge", "Science exam questions that simple methods got wrong."
)
