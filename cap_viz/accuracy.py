"""Is a model better than guessing on its task? Needs no torch."""

from __future__ import annotations

from cap_viz.attribution.results import EvalReport
from cap_viz.stats import ChanceTest, above_chance
from cap_viz.tasks import Task, majority_share


def against_guessing(task: Task, report: EvalReport) -> ChanceTest:
    """Accuracy against 1/K, or against always giving the commoner answer for yes/no questions."""
    questions = report.questions
    return above_chance(report.correct, questions.n_options, majority=majority_share(task, questions.gold.tolist()))
