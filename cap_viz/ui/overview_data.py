"""What the Overview says about one task: dense accuracy, head scores, and pruned accuracies, all from stored runs."""

from __future__ import annotations

from dataclasses import dataclass

from cap_viz.accuracy import against_guessing
from cap_viz.errors import CapVizError
from cap_viz.finding import eval_runs, score_runs
from cap_viz.results import EvalReport
from cap_viz.spec import EvalSpec, MaskSpec, ScoreSpec
from cap_viz.stats import ChanceTest, PairedComparison, compare_paired, wilson
from cap_viz.store import StoredRun
from cap_viz.tasks import TASKS, Task
from cap_viz.ui.figures import AccuracyPoint, criterion_name
from cap_viz.ui.frame import Frame
from cap_viz.ui.loading import HeadStatistics, paired_of, report_of, statistics_of
from cap_viz.ui.panels import percent, signed

CLEAR = 0.05


@dataclass(frozen=True)
class Pruned:
    """One stored pruned evaluation against dense on the same questions (`against_dense`: pruned minus dense)."""

    mask: MaskSpec
    report: EvalReport
    against_dense: PairedComparison

    @property
    def differs(self) -> bool:
        return self.against_dense.p_value < CLEAR


@dataclass(frozen=True)
class TaskSummary:
    """Parts are None or empty where nothing is stored; `problems` holds a sentence per run that cannot be read."""

    task: Task
    dense_run: StoredRun | None
    dense: ChanceTest | None
    score_run: StoredRun | None
    heads: HeadStatistics | None
    pruned: tuple[Pruned, ...]
    problems: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        return self.dense is None and self.heads is None and not self.problems


def summaries(view: Frame, metric: str) -> list[TaskSummary]:
    """The tasks with stored results, and the chosen one whether it has some or not."""
    found = [summarise(view, task, metric) for task in TASKS.values() if task.kind != "text"]
    return [summary for summary in found if not summary.is_empty or summary.task == view.task]


def summarise(view: Frame, task: Task, metric: str) -> TaskSummary:
    problems: list[str] = []
    dense_run = dense_evaluation(view, task)
    report = None if dense_run is None else readable(view, dense_run, problems)
    score_run = default_scores(view, task)
    heads = None
    if score_run is not None:
        try:
            heads = statistics_of(view.store, score_run, metric)
        except CapVizError as error:
            problems.append(str(error))
    return TaskSummary(
        task=task,
        dense_run=dense_run,
        dense=None if report is None else against_guessing(task, report),
        score_run=score_run,
        heads=heads,
        pruned=() if report is None or dense_run is None else pruned_of(view, task, dense_run, problems),
        problems=tuple(problems),
    )


def readable(view: Frame, run: StoredRun, problems: list[str]) -> EvalReport | None:
    try:
        return report_of(view.store, run)
    except CapVizError as error:
        problems.append(str(error))
        return None


def dense_evaluation(view: Frame, task: Task) -> StoredRun | None:
    """The dense accuracy at the chosen size, else at the largest size stored."""
    dense = [
        run
        for run in eval_runs(view.runs, view.model, task.name)
        if isinstance(run.spec, EvalSpec) and run.spec.mask is None
    ]
    exact = [run for run in dense if len(run.spec.examples.ids) == view.n]
    return next(iter(exact), max(dense, key=lambda run: len(run.spec.examples.ids), default=None))


def default_scores(view: Frame, task: Task) -> StoredRun | None:
    found = score_runs(view.runs, view.model, task.name)
    zero = [run for run in found if isinstance(run.spec, ScoreSpec) and run.spec.ablation == "zero"]
    return next(iter(zero or found), None)


def pruned_of(view: Frame, task: Task, dense_run: StoredRun, problems: list[str]) -> tuple[Pruned, ...]:
    """Pruned evaluations on the very questions of the dense one, newest per criterion and sparsity."""
    found: dict[tuple[str, float], Pruned] = {}
    for run in eval_runs(view.runs, view.model, task.name):
        if not isinstance(run.spec, EvalSpec) or run.spec.mask is None or run.spec.examples != dense_run.spec.examples:
            continue
        mask = run.spec.mask
        if mask.scope != "both" or (mask.criterion, mask.sparsity) in found:
            continue
        report = readable(view, run, problems)
        if report is not None:
            against = paired_of(view.store, run, dense_run)
            found[mask.criterion, mask.sparsity] = Pruned(mask, report, against)
    return tuple(found[key] for key in sorted(found, key=lambda key: (key[1], key[0])))


def accuracy_points(pruned: tuple[Pruned, ...]) -> list[AccuracyPoint]:
    return [accuracy_point(item) for item in pruned]


def accuracy_point(item: Pruned) -> AccuracyPoint:
    correct = item.report.correct
    limits = wilson(int(correct.sum()), correct.size)
    verdict = "differs from dense" if item.differs else "within noise of dense"
    hover = (
        f"<b>{criterion_name(item.mask.criterion)} at {percent(item.mask.sparsity, 0)}</b><br>"
        f"{percent(item.report.acc)} [{percent(limits.low)}, {percent(limits.high)}]<br>"
        f"{100 * item.against_dense.difference:+.1f} points against dense: {verdict} "
        f"(McNemar p = {item.against_dense.p_value:.2g})"
    )
    return AccuracyPoint(
        item.mask.criterion, item.mask.sparsity, item.report.acc, limits.low, limits.high, item.differs, hover
    )


def best_sentences(pruned: tuple[Pruned, ...]) -> list[str]:
    """One sentence per sparsity: the best criterion, those it cannot be told from, and the distance to dense."""
    sparsities = sorted({item.mask.sparsity for item in pruned})
    return [best_sentence([item for item in pruned if item.mask.sparsity == sparsity]) for sparsity in sparsities]


def best_sentence(items: list[Pruned]) -> str:
    best = max(items, key=lambda item: item.report.acc)
    tied = [
        criterion_name(item.mask.criterion)
        for item in items
        if item is not best and compare_paired(best.report.correct, item.report.correct).p_value >= CLEAR
    ]
    company = f", tied with {' and '.join(tied)}" if tied else ""
    distance = signed(100 * best.against_dense.difference, 1)
    verdict = "differs from dense" if best.differs else "within noise of dense"
    name = criterion_name(best.mask.criterion)
    return f"**{percent(best.mask.sparsity, 0)}** {name} {percent(best.report.acc)}{company}; {verdict} ({distance})"
