"""Is a model better than guessing on its task? Needs no torch."""

from __future__ import annotations

import numpy as np

from cap_viz.results import EvalReport
from cap_viz.stats import ChanceTest, above_chance
from cap_viz.tasks import Task


def against_guessing(task: Task, report: EvalReport) -> ChanceTest:
    """Accuracy against 1/K, or against always giving the commoner answer for yes/no questions."""
    majority = 0.0
    if task.kind == "yes_no":
        majority = float(np.bincount(report.questions.gold).max() / len(report))
    return above_chance(report.correct, report.questions.n_options, majority=majority)
