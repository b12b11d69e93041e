"""Overview data: dense accuracy and head scores per task, and pruned accuracies of one; all from stored runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cap_viz.attribution.effect_metrics import nll
from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.stored import paired_in, report_of, scores_of, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, against_guessing
from cap_viz.evaluation.verdict import grade_of
from cap_viz.figures.theme import display_order
from cap_viz.runs.comparison import Cell, counts_weights
from cap_viz.runs.mask_provenance import groups_of
from cap_viz.runs.run_queries import dense_run, measured_size, score_runs
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.settings import SPARSITIES
from cap_viz.stats import ChanceTest, HeadEstimate, HeadStatistics, family_p, mean_with_ci
from cap_viz.tasks import Task, all_tasks

METRIC = "nll"
# Shown of the stored criteria; others only where none of these is stored.
CRITERIA = ("cap", "wanda", "cap_fine")


@dataclass(frozen=True)
class TaskSummary:
    """Stored results of one task; parts are None where nothing is stored.

    `problems` holds a sentence per unreadable run. `loss` replaces accuracy for a task without options: the dense loss
    per token on the examples of the head scores.
    """

    task: Task
    dense_run: StoredRun[EvalSpec] | None
    dense: ChanceTest | None
    loss: HeadEstimate | None
    score_run: StoredRun[ScoreSpec] | None
    heads: HeadStatistics | None
    problems: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return self.dense is None and self.heads is None and not self.problems

    @property
    def place(self) -> int:
        """Sort key on the page: clearly above chance, other accuracies, losses, no baseline."""
        if self.dense is not None:
            return 0 if self.dense.clearly_above else 1
        return 2 if self.loss is not None else 3


@dataclass(frozen=True)
class PrunedCell:
    """Accuracy of one criterion at one sparsity; `best`: clearly above every other criterion shown there."""

    accuracy: float
    above_chance: bool
    best: bool


@dataclass(frozen=True)
class PruningTable:
    """Pruned accuracies by criterion, with a cell per sparsity (None: not stored); `problems` as in `TaskSummary`."""

    sparsities: tuple[float, ...]
    rows: dict[str, tuple[PrunedCell | None, ...]]
    problems: tuple[str, ...]


def summaries(view: Frame) -> list[TaskSummary]:
    """Summarise the tasks with stored results, and always the chosen task; clearly above chance first."""
    found = [summarise(view, task) for task in all_tasks().values()]
    shown = [summary for summary in found if not summary.is_empty or summary.task == view.task]
    return sorted(shown, key=lambda summary: summary.place)


def summarise(view: Frame, task: Task) -> TaskSummary:
    problems: list[str] = []
    dense = dense_evaluation(view, task)
    report = None if dense is None else readable(view, dense, problems)
    score_run = default_scores(view, task, "exact") or default_scores(view, task, "gradient")
    heads, loss = None, None
    if score_run is not None:
        try:
            heads = statistics_of(view.store, score_run, METRIC)
            if task.kind == "text" and score_run.spec.estimator == "exact":
                scores = scores_of(view.store, score_run)
                loss = mean_with_ci(nll(scores.dense, scores.questions.gold, scores.questions.tokens))
        except CapVizError as error:
            problems.append(str(error))
    test = None if report is None else against_guessing(task, report)
    return TaskSummary(task, dense, test, loss, score_run, heads, tuple(problems))


def readable(view: Frame, run: StoredRun, problems: list[str]) -> EvalReport | None:
    try:
        return report_of(view.store, run)
    except CapVizError as error:
        problems.append(str(error))
        return None


def dense_evaluation(view: Frame, task: Task) -> StoredRun[EvalSpec] | None:
    """Return the dense run on the evaluation size: the chosen one, or for another task the best measured one."""
    n = view.n if task == view.task else measured_size(view.runs, view.model, task.name)
    return None if n is None else dense_run(view.runs, view.model, task.name, n)


def default_scores(view: Frame, task: Task, estimator: str = "exact") -> StoredRun[ScoreSpec] | None:
    """Return the largest head scores that hold the metric shown, by zero ablation if there are any."""
    found = score_runs(view.runs, view.model, task.name, estimator=estimator)
    held = [run for run in found if run.spec.metric in (None, METRIC)]
    return next((run for run in held if run.spec.ablation == "zero"), next(iter(held), None))


def usual_group(view: Frame, dense: StoredRun) -> dict[Cell, StoredRun[EvalSpec]]:
    """Return the largest group of pruned evaluations on the dense run's items with one mask provenance, scope both."""
    groups = groups_of(view.runs, dense)
    return next((group.runs for group in groups if group.basis.get("scope") == "both"), {})


def pruning_table(view: Frame, task: Task, dense: StoredRun) -> PruningTable | None:
    """Tabulate the pruned accuracies on the dense run's questions; None where none is stored.

    Whole heads are left out: at a sparsity of 20 % they hold a few percent of the weights.
    """
    group = {cell: run for cell, run in usual_group(view, dense).items() if counts_weights(cell[0])}
    stored = {criterion for criterion, _ in group}
    criteria = [name for name in CRITERIA if name in stored] or display_order(stored)[: len(CRITERIA)]
    if not criteria:
        return None
    measured = sorted({sparsity for criterion, sparsity in group if criterion in criteria})
    sparsities = [one for one in SPARSITIES if one in measured] or measured[: len(SPARSITIES)]
    problems: list[str] = []
    columns: list[dict[str, PrunedCell]] = []
    for sparsity in sparsities:
        runs = {name: group[name, sparsity] for name in criteria if (name, sparsity) in group}
        columns.append(pruned_column(view, task, runs, problems))
    rows = {name: tuple(column.get(name) for column in columns) for name in criteria}
    return PruningTable(tuple(sparsities), rows, tuple(problems))


def pruned_column(view: Frame, task: Task, runs: Mapping[str, StoredRun], problems: list[str]) -> dict[str, PrunedCell]:
    """Return the readable cells of one sparsity. At or below chance none of them is best."""
    found = {name: readable(view, run, problems) for name, run in runs.items()}
    reports = {name: report for name, report in found.items() if report is not None}
    first = max(reports, key=lambda name: reports[name].acc, default="")
    others = [paired_in(view.store, runs[first], runs[name], ACC) for name in reports if name != first]
    is_clear = {grade_of(one, p) for one, p in zip(others, family_p(others), strict=True)} == {"clear"}
    above = {name: against_guessing(task, report).clearly_above for name, report in reports.items()}
    return {
        name: PrunedCell(report.acc, above[name], best=is_clear and name == first and above[name])
        for name, report in reports.items()
    }
