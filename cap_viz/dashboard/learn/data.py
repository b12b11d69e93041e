"""Numbers for the lesson about the chosen model and task, all from stored runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.example import answers
from cap_viz.dashboard.heads.source import shown_name
from cap_viz.dashboard.overview.data import default_scores, dense_evaluation, usual_group
from cap_viz.dashboard.stored import HeadStatistics, paired_in, report_of, scores_of, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.pruning import criterion_title
from cap_viz.runs.kinds.profile import load_zeros
from cap_viz.runs.run_queries import control_runs, dense_sizes
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import PairedComparison
from cap_viz.stats.specificity import TopOverlap, top_overlap
from cap_viz.tasks import load_task
from cap_viz.tasks.readable import tasks_for

TOP = 10
HALF_PRUNED = 0.5


class NotStored(CapVizError):
    """A run the lesson needs is missing; the message says which. `page` measures it, in the state of `params`."""

    def __init__(self, what: str, page: str = "", **params: str) -> None:
        super().__init__(what)
        self.page, self.params = page, params


@dataclass(frozen=True)
class Lesson:
    """Numbers of the lesson, read from stored runs on demand. Raises `NotStored` if a run is missing."""

    view: Frame

    @property
    def score_run(self) -> StoredRun[ScoreSpec]:
        run = default_scores(self.view, self.view.task)
        if run is None or run.spec.ablation != "zero":
            raise NotStored(f"the effects of all heads on {self.view.task.name}", "Heads")
        return run

    @property
    def run_name(self) -> str:
        """Name of the head scores on the Heads page."""
        return shown_name(self.view.runs, self.score_run)

    @property
    def scores(self) -> HeadScores:
        return scores_of(self.view.store, self.score_run)

    @property
    def heads(self) -> HeadStatistics:
        return statistics_of(self.view.store, self.score_run, "nll")

    @property
    def top_head(self) -> tuple[int, int]:
        return self.heads.estimate.top_head

    @property
    def clearly_needed(self) -> int:
        """Number of heads that hurt when ablated and survive the false-discovery control."""
        return int((self.heads.estimate.survives & (self.heads.estimate.mean > 0)).sum())

    @property
    def clearly_in_the_way(self) -> int:
        """Number of heads that help when ablated and survive the false-discovery control."""
        return int((self.heads.estimate.survives & (self.heads.estimate.mean < 0)).sum())

    def check_options(self) -> None:
        """Raise `NotStored` for running text, which has no options to choose from and is itself a control."""
        if self.view.task.kind == "text":
            raise NotStored("a task with options to choose from (this one is running text)")

    def changed_answers(self) -> tuple[int, int]:
        """Return the number of questions answered differently without the top head, and the number of questions."""
        self.check_options()
        before, after = answers(self.scores, *self.top_head)
        return int((before != after).sum()), len(before)

    def halves(self) -> TopOverlap:
        """Return the overlap of the top heads between the first and the second half of the examples."""
        effects = self.heads.effects
        half = effects.shape[2] // 2
        if half < 2:
            raise NotStored("a run of at least four examples")
        return top_overlap(effects[:, :, :half].mean(axis=-1), effects[:, :, half:].mean(axis=-1), TOP)

    def control(self) -> tuple[str, TopOverlap]:
        """Return the name of a control text, and the overlap of its top heads with those of this task."""
        self.check_options()
        found = control_runs(self.view.runs, self.score_run.spec)
        others = {name: one for name, one in found.items() if name != self.view.task.name}
        if not others:
            raise NotStored("the effects of all heads on generic text", "Heads", view="generic text")
        name, control = next(iter(others.items()))
        other = statistics_of(self.view.store, control, "nll").estimate.mean
        return name, top_overlap(self.heads.estimate.mean, other, TOP)

    def with_answer(self, answer: Callable[[Lesson], object]) -> Lesson | None:
        """Find the nearest lesson for which runs are stored: other evaluation sizes, other tasks, the usual model."""
        return next((lesson for lesson in map(Lesson, views_beside(self.view)) if has_answer(lesson, answer)), None)

    def pruned(self, criterion: str) -> StoredRun:
        """Return the stored accuracy at 50 % sparsity, on the dense run's questions and built like the others."""
        self.check_options()
        task = self.view.task
        dense = dense_evaluation(self.view, task)
        if dense is None:
            raise NotStored(f"the accuracy of the dense model on {task.name}", "Prune")
        run = usual_group(self.view, dense).get((criterion, HALF_PRUNED))
        if run is None:
            what = f"the accuracy of {task.name} with half of the weights removed by {criterion_title(criterion)}"
            raise NotStored(what, "Prune", criterion=criterion, sparsity="50")
        return run

    def removed_shares(self) -> tuple[float, float]:
        """Return the shares of the attention and of the MLP weights that CAP removes at 50 % sparsity."""
        zeros = load_zeros(self.view.store, self.pruned("cap"))
        shares = []
        for part in ("attention", "mlp"):
            own = [place for place, matrix in enumerate(zeros.matrices) if matrix.part == part]
            shares.append(float(zeros.zeros[0, own].sum() / zeros.sizes[own].sum()))
        return shares[0], shares[1]

    def cap_against_wanda(self) -> tuple[EvalReport, EvalReport, PairedComparison]:
        cap, wanda = self.pruned("cap"), self.pruned("wanda")
        return (
            report_of(self.view.store, cap),
            report_of(self.view.store, wanda),
            paired_in(self.view.store, cap, wanda, ACC),
        )


def has_answer(lesson: Lesson, answer: Callable[[Lesson], object]) -> bool:
    try:
        answer(lesson)
    except CapVizError:
        return False
    return True


def views_beside(view: Frame) -> Iterator[Frame]:
    """Yield the view with other evaluation sizes, then with other tasks, then with the usual model's tasks."""
    usual = [run.spec.model for run in view.runs if run.spec.model.id == DEFAULT_MODEL and run.spec.model != view.model]
    for model in (view.model, *usual[:1]):
        names = tasks_for(model.id)
        for name in sorted(names, key=lambda name: name != view.task.name):
            for size in sorted(dense_sizes(view.runs, model, name), reverse=True) or [view.n]:
                yield replace(view, model=model, task=load_task(name), n=size)
