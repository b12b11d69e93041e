"""Solution loss: mean loss per token of a model, dense or pruned, on the worked solutions of a task.

For tasks with one given continuation per example and no options (GSM8K). Each continuation is read after its prompt;
its loss is the mean over its tokens, in nats. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import TOKEN_LOSS, level_of
from cap_viz.stats import Interval
from cap_viz.tasks import load_task


@dataclass(frozen=True)
class SolutionLoss:
    """Mean over examples of the loss per token, in nats, with its 95 % interval (NaN for a single example)."""

    value: float
    ci: Interval
    n: int
    n_tokens: int


def check_has_solutions(task: str) -> None:
    if load_task(task).kind != "text":
        raise UsageError(f"Task {task} has options to choose from and no worked solutions; measure its accuracy.")


def solution_loss_of(report: EvalReport) -> SolutionLoss:
    level = level_of(report, TOKEN_LOSS)
    return SolutionLoss(level.value, level.ci, n=len(report), n_tokens=int(report.questions.tokens[:, 0].sum()))
