"""Numbers for the lesson about the chosen model and task, all from stored runs."""

from __future__ import annotations

from dataclasses import dataclass

from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.examples import answers
from cap_viz.dashboard.overview.data import default_scores, dense_evaluation, usual_group
from cap_viz.dashboard.stored import HeadStatistics, paired_in, report_of, scores_of, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC
from cap_viz.runs.kinds.profile import load_zeros
from cap_viz.runs.run_queries import control_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import PairedComparison
from cap_viz.stats.specificity import TopOverlap, top_overlap

TOP = 10
HALF_PRUNED = 0.5


class NotStored(CapVizError):
    """A run the lesson needs is missing; the message says which."""


@dataclass(frozen=True)
class Lesson:
    """Numbers of the lesson, read from stored runs on demand. Raises `NotStored` if a run is missing."""

    view: Frame

    @property
    def score_run(self) -> StoredRun[ScoreSpec]:
        run = default_scores(self.view, self.view.task)
        if run is None or run.spec.ablation != "zero":
            raise NotStored(f"the effects of all heads on {self.view.task.name}")
        return run

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

    def changed_answers(self) -> tuple[int, int]:
        """Return the number of questions answered differently without the top head, and the number of questions."""
        if self.view.task.kind == "text":
            raise NotStored("a task with options to choose from (this one is running text)")
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
        found = control_runs(self.view.runs, self.score_run.spec)
        others = {name: one for name, one in found.items() if name != self.view.task.name}
        if not others:
            raise NotStored("the effects of all heads on generic text")
        name, control = next(iter(others.items()))
        other = statistics_of(self.view.store, control, "nll").estimate.mean
        return name, top_overlap(self.heads.estimate.mean, other, TOP)

    def pruned(self, criterion: str) -> StoredRun:
        """Return the stored accuracy at 50 % sparsity, on the dense run's questions and built like the others."""
        task = self.view.task
        dense = dense_evaluation(self.view, task)
        if dense is None:
            raise NotStored(f"the accuracy of the dense model on {task.name}")
        run = usual_group(self.view, dense).get((criterion, HALF_PRUNED))
        if run is None:
            raise NotStored(f"the accuracy of {task.name} with half of the weights removed by {criterion}")
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
