"""StrategyQA (Geva et al. 2021, arXiv 2101.02235): yes/no questions with implicit reasoning steps.

Calibration uses the train split, evaluation the dev split (the test split has no public answers). Scored as the
likelihood of " yes" against " no"; the floor to beat is the majority answer, not one half.

The authors have no repository on the hub. Of the copies there, njf/StrategyQA has the authors' split (train.jsonl and
dev.jsonl) and their ids; others split the questions anew (ChilleD/StrategyQA), hold a loading script (wics/strategy-qa)
or have one file (tasksource/strategy-qa). Its commit could not be verified when this was written, so no revision is
pinned: the branch keeps meaning the commit of the first download, and every run records that commit.
"""

from __future__ import annotations

from pydantic import Field

from cap_viz.tasks.base import Task
from cap_viz.tasks.rows import YesNoRow
from cap_viz.tasks.sources import PublicData, SplitFile, public_splits, rows_are_local
from cap_viz.tasks.writing import YES_NO
from cap_viz.validation import Text

DATA = PublicData(
    folder="strategyqa",
    repository="njf/StrategyQA",
    revision="main",
    calibration=SplitFile("train.jsonl", "train.jsonl"),
    evaluation=SplitFile("dev.jsonl", "dev.jsonl"),
)


class StrategyRow(YesNoRow):
    """A question of StrategyQA."""

    id: Text = Field(alias="qid")


TASK = Task(
    name="strategyqa",
    title="StrategyQA",
    summary="Yes/no questions that need several unstated facts; from the hub or the folder named by CAP_VIZ_DATA.",
    version=1,
    source="eladsegal/strategyqa, by way of njf/StrategyQA on the hub",
    licence="MIT",
    prompt_format="Question: {question}\\nAnswer: yes | no",
    kind="yes_no",
    load=lambda: public_splits(DATA, StrategyRow.to_example),
    is_local=lambda: rows_are_local(DATA),
    writing=YES_NO,
)
