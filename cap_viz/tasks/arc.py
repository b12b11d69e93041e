"""ARC (Clark et al. 2018, arXiv 1803.05457): real grade-school science questions with 3 to 5 options.

Calibration uses the train split, evaluation the test split. Prompt and options as in lm-evaluation-harness'
`arc_easy.yaml`. Texts are CC BY-SA 4.0 and never stored by this project.
"""

from __future__ import annotations

from pydantic import Field

from cap_viz.tasks.base import Example, Task
from cap_viz.tasks.rows import QuestionRow
from cap_viz.tasks.sources import PublicData, SplitFile, public_splits, rows_are_local
from cap_viz.validation import Record, Text

REVISION = "210d026faf9955653af8916fad021475a3f00453"


def public_data(name: str, subset: str) -> PublicData:
    return PublicData(
        folder=name,
        repository="allenai/ai2_arc",
        revision=REVISION,
        calibration=SplitFile("train.jsonl", f"{subset}/train-00000-of-00001.parquet"),
        evaluation=SplitFile("test.jsonl", f"{subset}/test-00000-of-00001.parquet"),
    )


class Choices(Record):
    """Options of a question, and their labels in the same order."""

    text: list[Text]
    label: list[Text]


class ArcRow(QuestionRow):
    """A question of ARC; `answerKey` is the label of the right option."""

    id: Text = Field()
    choices: Choices
    answerKey: Text

    def example(self) -> Example:
        labels, texts = self.choices.label, self.choices.text
        if len(labels) != len(texts):
            raise ValueError(f"choices has {len(labels)} labels for {len(texts)} texts")
        if labels.count(self.answerKey) != 1:
            raise ValueError(f"answerKey {self.answerKey!r} should be one of the labels {', '.join(labels)}")
        return self.with_choices(texts, labels.index(self.answerKey))


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
        load=lambda: public_splits(data, ArcRow.to_example),
        is_local=lambda: rows_are_local(data),
    )


ARC_EASY = arc_task("arc_easy", "ARC-Easy", "ARC-Easy", "Grade-school science exam questions from AI2.")
ARC_CHALLENGE = arc_task(
    "arc_challenge", "ARC-Challenge", "ARC-Challenge", "Science exam questions that simple methods got wrong."
)
