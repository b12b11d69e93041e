"""Overview data per task: dense accuracy, head scores and pruned accuracies, all from stored runs."""

from __future__ import annotations

from dataclasses import dataclass

from cap_viz.attribution.effect_metrics import nll
from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.dashboard.components.panels import listed, percent, percent_interval
from cap_viz.dashboard.frame import Frame, measured_size
from cap_viz.dashboard.heads.new_run import seconds_each, timed_run
from cap_viz.dashboard.stored import HeadStatistics, paired_in, report_of, scores_of, statistics_of
from cap_viz.defaults import MAIN_CRITERIA, SPARSITIES
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, against_guessing, level_of, paired_p
from cap_viz.figures.accuracy import AccuracyPoint
from cap_viz.figures.theme import signed
from cap_viz.pruning import criterion_title
from cap_viz.runs.comparison import Cell, counts_weights
from cap_viz.runs.mask_provenance import groups_of
from cap_viz.runs.prefix_reuse import computing_seconds
from cap_viz.runs.run_queries import dense_run, runs_of, score_runs
from cap_viz.runs.spec import EvalSpec, MaskSpec, ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import ChanceTest, HeadEstimate, PairedComparison, mean_with_ci
from cap_viz.stats.paired import ALPHA
from cap_viz.tasks import Task, all_tasks

MOST_CRITERIA, MOST_SPARSITIES = 6, 4
# Tied criteria named in a sentence; the others are counted.
NAMED_TIES = 2


@dataclass(frozen=True)
class PrunedAccuracy:
    """One stored pruned evaluation against dense on the same questions (`against_dense`: pruned minus dense)."""

    mask: MaskSpec
    report: EvalReport
    against_dense: PairedComparison


@dataclass(frozen=True)
class BestCriterion:
    """Most accurate of the criteria stored at one sparsity, most accurate first among those tied with it.

    `against_dense`: pruned minus dense; `above_chance`: whether its accuracy is clearly above guessing.
    """

    sparsity: float
    criterion: str
    accuracy: float
    above_chance: bool
    tied: tuple[str, ...]
    n_criteria: int
    against_dense: PairedComparison


@dataclass(frozen=True)
class TaskSummary:
    """Stored results of one task; parts are None or empty where nothing is stored.

    `problems` holds a sentence per unreadable run. `loss` replaces accuracy for a task without options: the dense loss
    per token on the examples of the head scores. `pruned` holds what a small figure shows, `best` the best of all
    criteria at each of its sparsities, lowest first; it is empty unless the dense model is clearly above chance.
    """

    task: Task
    dense_run: StoredRun | None
    dense: ChanceTest | None
    loss: HeadEstimate | None
    score_run: StoredRun[ScoreSpec] | None
    heads: HeadStatistics | None
    pruned: tuple[PrunedAccuracy, ...]
    best: tuple[BestCriterion, ...]
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


def summaries(view: Frame, metric: str) -> list[TaskSummary]:
    """Summarise the tasks with stored results, and always the chosen task; clearly above chance first."""
    found = [summarise(view, task, metric) for task in all_tasks().values()]
    shown = [summary for summary in found if not summary.is_empty or summary.task == view.task]
    return sorted(shown, key=lambda summary: summary.place)


def summarise(view: Frame, task: Task, metric: str) -> TaskSummary:
    problems: list[str] = []
    dense = dense_evaluation(view, task)
    report = None if dense is None else readable(view, dense, problems)
    score_run = default_scores(view, task) or gradient_scores(view, task, metric)
    heads, loss = None, None
    if score_run is not None:
        try:
            heads = statistics_of(view.store, score_run, metric)
            if task.kind == "text" and score_run.spec.estimator == "exact":
                loss = dense_loss(scores_of(view.store, score_run))
        except CapVizError as error:
            problems.append(str(error))
    test = None if report is None else against_guessing(task, report)
    pruned: tuple[PrunedAccuracy, ...] = ()
    best: list[BestCriterion | None] = []
    if dense is not None and test is not None:
        group = usual_group(view, dense)
        pruned = pruned_of(view, group, dense, problems)
        if test.clearly_above:
            sparsities = sorted({item.mask.sparsity for item in pruned})
            best = [best_of(view, task, group, dense, sparsity, problems) for sparsity in sparsities]
    return TaskSummary(
        task=task,
        dense_run=dense,
        dense=test,
        loss=loss,
        score_run=score_run,
        heads=heads,
        pruned=pruned,
        best=tuple(one for one in best if one is not None),
        problems=tuple(problems),
    )


def dense_loss(scores: HeadScores) -> HeadEstimate:
    """Return the dense model's mean loss per token in nats, with its interval over the examples."""
    return mean_with_ci(nll(scores.dense, scores.questions.gold, scores.questions.tokens))


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


def default_scores(view: Frame, task: Task) -> StoredRun[ScoreSpec] | None:
    found = score_runs(view.runs, view.model, task.name)
    zero = [run for run in found if run.spec.ablation == "zero"]
    return next(iter(zero or found), None)


def gradient_scores(view: Frame, task: Task, metric: str) -> StoredRun[ScoreSpec] | None:
    """Return the largest gradient run by a metric, for a task without exact head scores."""
    found = score_runs(view.runs, view.model, task.name, estimator="gradient")
    return next((run for run in found if run.spec.metric == metric), None)


def dense_seconds(view: Frame, task: Task, n: int) -> float | None:
    """Estimate the seconds to ask the dense model n questions from its best timed run: of the task, then the largest.

    None if no run of the model was timed.
    """
    timed = [
        (run, seconds)
        for run in runs_of(view.runs, EvalSpec)
        if run.spec.model == view.model
        and run.spec.mask is None
        and run.spec.protocol is None
        and not run.provenance.get("resumed_batches")
        and (seconds := computing_seconds(run)) is not None
    ]
    if not timed:
        return None
    run, seconds = max(timed, key=lambda one: (one[0].spec.examples.task == task.name, len(one[0].spec.examples.ids)))
    return n * seconds / len(run.spec.examples.ids)


def score_seconds(view: Frame, task: Task, n: int) -> float | None:
    """Estimate the seconds to score all heads exactly on n examples; None if no run of the model was timed."""
    timed = timed_run(view, task.name)
    return None if timed is None else n * seconds_each(timed)


def pruned_of(
    view: Frame, group: dict[Cell, StoredRun[EvalSpec]], dense: StoredRun, problems: list[str]
) -> tuple[PrunedAccuracy, ...]:
    """Return the main evaluations of a group against the dense run."""
    found: list[PrunedAccuracy] = []
    for run in main_part(group).values():
        report = readable(view, run, problems)
        if report is not None and run.spec.mask is not None:
            found.append(PrunedAccuracy(run.spec.mask, report, paired_in(view.store, run, dense, ACC)))
    return tuple(found)


def best_of(
    view: Frame,
    task: Task,
    group: dict[Cell, StoredRun[EvalSpec]],
    dense: StoredRun,
    sparsity: float,
    problems: list[str],
) -> BestCriterion | None:
    """Compare all criteria of a group at one sparsity; None if none can be read.

    Whole heads are left out: at a sparsity of 20 % they hold a few percent of the weights.
    """
    reports: dict[str, EvalReport] = {}
    for (criterion, at), run in group.items():
        if at == sparsity and counts_weights(criterion):
            report = readable(view, run, problems)
            if report is not None:
                reports[criterion] = report
    if not reports:
        return None
    first, *others = sorted(reports, key=lambda name: reports[name].acc, reverse=True)
    return BestCriterion(
        sparsity=sparsity,
        criterion=first,
        accuracy=reports[first].acc,
        above_chance=against_guessing(task, reports[first]).clearly_above,
        tied=tuple(name for name in others if paired_p(reports[first], reports[name], ACC) >= ALPHA),
        n_criteria=len(reports),
        against_dense=paired_in(view.store, group[first, sparsity], dense, ACC),
    )


def usual_group(view: Frame, dense: StoredRun) -> dict[Cell, StoredRun[EvalSpec]]:
    """Return the largest group of pruned evaluations on the dense run's items with one mask provenance, scope both."""
    groups = groups_of(view.runs, dense)
    return next((group.runs for group in groups if group.basis.get("scope") == "both"), {})


def main_part(group: dict[Cell, StoredRun[EvalSpec]]) -> dict[Cell, StoredRun[EvalSpec]]:
    """Limit a group to what fits a small figure: the main criteria or sparsities if there are too many."""
    criteria, sparsities = ({cell[place] for cell in group} for place in (0, 1))
    return {
        (criterion, sparsity): run
        for (criterion, sparsity), run in group.items()
        if (len(criteria) <= MOST_CRITERIA or criterion in MAIN_CRITERIA)
        and (len(sparsities) <= MOST_SPARSITIES or sparsity in SPARSITIES)
    }


def accuracy_points(pruned: tuple[PrunedAccuracy, ...]) -> list[AccuracyPoint]:
    return [accuracy_point(item) for item in pruned]


def accuracy_point(item: PrunedAccuracy) -> AccuracyPoint:
    limits = level_of(item.report, ACC).ci
    # Short lines: a hover box wider than its side of the figure is cut.
    hover = (
        f"<b>{criterion_title(item.mask.criterion)}</b><br>"
        f"at {percent(item.mask.sparsity, 0)}: {percent(item.report.acc)}<br>"
        f"{percent_interval(limits)}<br>"
        f"{100 * item.against_dense.difference:+.1f} points to dense<br>"
        f"{dense_verdict(item.against_dense)}<br>"
        f"McNemar p = {item.against_dense.p_value:.2g}"
    )
    return AccuracyPoint(
        criterion=item.mask.criterion,
        title=criterion_title(item.mask.criterion),
        sparsity=item.mask.sparsity,
        accuracy=item.report.acc,
        low=limits.low,
        high=limits.high,
        differs=item.against_dense.is_clear,
        hover=hover,
    )


def dense_verdict(against_dense: PairedComparison) -> str:
    return "differs from dense" if against_dense.is_clear else "within noise of dense"


def best_sentence(best: BestCriterion) -> str:
    """Name the best criterion at a sparsity, the criteria tied with it, and its difference from dense."""
    place = f"**{percent(best.sparsity, 0)}**"
    if not best.above_chance:
        return f"{place} none of {best.n_criteria} criteria is clearly above chance"
    tied = [criterion_title(name) for name in best.tied[:NAMED_TIES]]
    if len(best.tied) > NAMED_TIES:
        tied.append(f"{len(best.tied) - NAMED_TIES} more")
    company = f", tied with {listed(tied)}" if tied else ""
    distance = signed(100 * best.against_dense.difference, 1)
    return (
        f"{place} {criterion_title(best.criterion)} {percent(best.accuracy)}, best of {best.n_criteria}{company}; "
        f"{dense_verdict(best.against_dense)} ({distance})"
    )
