"""ARC (Clark et al. 2018, arXiv 1803.05457): real grade-school science questions with 3 to 5 options.

Calibration uses the train split, evaluation the test split. Prompt and options as in lm-evaluation-harness'
`arc_easy.yaml`. Texts are CC BY-SA 4.0 and never stored by this project.
"""

from __future__ import annotations

from cap_viz.tasks.base import Example, Task
from cap_viz.tasks.rows import SourceRow, choice_example
from cap_viz.tasks.sources import PublicData, SplitFile, public_splits, rows_are_local

REVISION = "210d026faf9955653af8916fad021475a3f00453"


def public_data(name: str, subset: str) -> PublicData:
    return PublicData(
        folder=name,
        repository="allenai/ai2_arc",
        revision=REVISION,
        calibration=SplitFile("train.jsonl", f"{subset}/train-00000-of-00001.parquet"),
        evaluation=SplitFile("test.jsonl", f"{subset}/test-00000-of-00001.parquet"),
    )


def to_example(row: SourceRow) -> Example:
    choices = row.record("choices")
    labels, texts, answer = choices.texts("label"), choices.texts("text"), row.text("answerKey")
    if len(labels) != len(texts):
        raise row.mistake(f"choices has {len(labels)} labels for {len(texts)} texts")
    if labels.count(answer) != 1:
        raise row.mistake(f"answerKey {answer!r} should be one of the labels {', '.join(labels)}")
    return choice_example(row, texts, labels.index(answer), id=row.text("id"))


def arc_task(name: str, subset: str, title: str, summary: str) -> Task:
    data = public_data(name, subset)
    return Task(
        name=name,
        title=title,
        summary=f"{summary} From the hub or the folder named by CAP_VIZ_DATA.",
        version=1,
        source=f"allenai/ai2_arc, {subset}",
        licence="CC BY-SA 4.0",
        prompt_format="Question: {question}\\nAnswer: {option}",
        load=lambda: public_splits(data, to_example),
        is_local=lambda: rows_are_local(data),
    )


ARC_EASY = arc_task("arc_easy", "ARC-Easy", "ARC-Easy", "Grade-school science exam questions from AI2.")
ARC_CHALLENGE = arc_task(
    "arc_challenge", "ARC-Challenge", "ARC-Challenge", "Science exam questions that simple methods got wrong."
)
