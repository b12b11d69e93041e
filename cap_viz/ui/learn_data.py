"""What the lesson needs to know about the chosen model and task, all of it from stored runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cap_viz.errors import CapVizError
from cap_viz.finding import control_runs, dense_run, eval_runs, score_runs
from cap_viz.results import EvalReport, HeadScores
from cap_viz.runs import read_zeros
from cap_viz.spec import EvalSpec, ScoreSpec
from cap_viz.stats import PairedComparison
from cap_viz.stats.specificity import TopOverlap, top_overlap
from cap_viz.store import StoredRun
from cap_viz.ui.frame import Frame
from cap_viz.ui.loading import HeadStatistics, head_statistics, paired_of, report_of, scores_of, statistics_of

TOP = 10
HALF_PRUNED = 0.5


class NotStored(CapVizError):
    """The lesson lacks a run; the sentence says which."""


@dataclass(frozen=True)
class Lesson:
    """Finds the numbers a step talks about when the step asks for them. Raises `NotStored` where a run is missing."""

    view: Frame

    @property
    def score_run(self) -> StoredRun:
        found = score_runs(self.view.runs, self.view.model, self.view.task.name)
        zero = [run for run in found if isinstance(run.spec, ScoreSpec) and run.spec.ablation == "zero"]
        if not zero:
            raise NotStored(f"the effects of all heads on {self.view.task.name}")
        return zero[0]

    @property
    def scores(self) -> HeadScores:
        return scores_of(self.view.store, self.score_run)

    @property
    def heads(self) -> HeadStatistics:
        return statistics_of(self.view.store, self.score_run, "nll")

    @property
    def top_head(self) -> tuple[int, int]:
        layer, head = np.unravel_index(int(self.heads.estimate.mean.argmax()), self.heads.estimate.mean.shape)
        return int(layer), int(head)

    @property
    def clearly_needed(self) -> int:
        """Heads whose removal clearly hurts, after the false-discovery control."""
        return int((self.heads.found.survives & (self.heads.estimate.mean > 0)).sum())

    def changed_answers(self) -> tuple[int, int]:
        """On how many questions the chosen option is another one without the top head, and of how many."""
        scores, (layer, head) = self.scores, self.top_head
        if self.view.task.kind == "text":
            raise NotStored("a task with options to choose from (this one is running text)")
        before = EvalReport(scores.questions, scores.dense).chosen
        after = EvalReport(scores.questions, scores.ablated[layer, head]).chosen
        return int((before != after).sum()), len(before)

    def halves(self) -> TopOverlap:
        """The largest heads by the first half of the examples and by the second."""
        effects = self.heads.effects
        half = effects.shape[2] // 2
        if half < 2:
            raise NotStored("a run of at least four examples")
        first, second = head_statistics(effects[:, :, :half]), head_statistics(effects[:, :, half:])
        return top_overlap(first.estimate.mean, second.estimate.mean, TOP)

    def control(self) -> tuple[str, TopOverlap]:
        """The largest heads on this task and on text that asks for no reasoning."""
        run = self.score_run
        assert isinstance(run.spec, ScoreSpec)
        found = control_runs(self.view.runs, run.spec)
        others = {name: one for name, one in found.items() if name != self.view.task.name}
        if not others:
            raise NotStored("the effects of all heads on generic text")
        name, control = next(iter(others.items()))
        other = statistics_of(self.view.store, control, "nll").estimate.mean
        return name, top_overlap(self.heads.estimate.mean, other, TOP)

    def pruned(self, criterion: str) -> StoredRun:
        """The stored accuracy at half of the weights, on the questions of the dense one."""
        dense = self.dense_run
        for run in eval_runs(self.view.runs, self.view.model, self.view.task.name):
            mask = run.spec.mask if isinstance(run.spec, EvalSpec) else None
            if mask is None or run.spec.examples != dense.spec.examples:
                continue
            if (mask.criterion, mask.sparsity, mask.scope) == (criterion, HALF_PRUNED, "both"):
                return run
        raise NotStored(f"the accuracy of {self.view.task.name} with half of the weights removed by {criterion}")

    @property
    def dense_run(self) -> StoredRun:
        found = dense_run(self.view.runs, self.view.model, self.view.task.name, self.view.at_most)
        if found is None:
            raise NotStored(f"the accuracy of the dense model on {self.view.task.name}")
        return found

    def removed_shares(self) -> tuple[float, float]:
        """The share of the attention weights and of the MLP weights that CAP removes when it removes half of all."""
        zeros = read_zeros(self.view.store, self.pruned("cap"))
        shares = []
        for part in ("attention", "mlp"):
            own = [place for place, matrix in enumerate(zeros.matrices) if matrix.part == part]
            size = sum(zeros.matrices[place].rows * zeros.matrices[place].columns for place in own)
            shares.append(float(zeros.zeros[0, own].sum() / size))
        return shares[0], shares[1]

    def cap_against_wanda(self) -> tuple[EvalReport, EvalReport, PairedComparison]:
        cap, wanda = self.pruned("cap"), self.pruned("wanda")
        return (
            report_of(self.view.store, cap),
            report_of(self.view.store, wanda),
            paired_of(self.view.store, cap, wanda),
        )
