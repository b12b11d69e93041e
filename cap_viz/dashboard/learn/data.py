"""Numbers of the lesson about the chosen model and task, all from stored runs; none is made up."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from cap_viz.attribution.path_scores import HeadPath, strongest_heads
from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.dashboard.circuit.data import Circuit, circuit_of, stored_for
from cap_viz.dashboard.components.head_map import Head, head_name
from cap_viz.dashboard.components.panels import p_words
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.overview.data import default_scores, dense_evaluation, usual_group
from cap_viz.dashboard.stored import paired_in, read_zeros, report_of, scores_of, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC
from cap_viz.evaluation.verdict import grade_of
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.pruning import ZeroCounts, criterion_title
from cap_viz.runs.kinds.joint import load_joint
from cap_viz.runs.run_queries import control_runs, dense_sizes, runs_of
from cap_viz.runs.score_sources import shown_name
from cap_viz.runs.spec import EvalSpec, JointSpec, PathSpec, ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import HeadEstimate, HeadStatistics, PairedComparison, mean_with_ci
from cap_viz.stats.specificity import top_overlap
from cap_viz.tasks import load_task
from cap_viz.tasks.readable import tasks_for

TOP, TOGETHER, IN_CIRCUIT = 10, 4, 8
HALF_PRUNED = 0.5


class NotStored(CapVizError):
    """A run the lesson needs is missing; the message says which. `page` measures it, in the state of `params`."""

    def __init__(self, what: str, page: str = "", **params: str) -> None:
        super().__init__(what)
        self.page, self.params = page, params


@dataclass(frozen=True)
class Evidence:
    """Stored runs of the chosen model and task, read on demand. Raises `NotStored` if one is missing."""

    view: Frame

    @property
    def score_run(self) -> StoredRun[ScoreSpec]:
        run = default_scores(self.view, self.view.task)
        if run is None or run.spec.ablation != "zero":
            raise NotStored(f"the effects of all heads on {self.view.task.title}", "Heads")
        return run

    @property
    def scores(self) -> HeadScores:
        return scores_of(self.view.store, self.score_run)

    @property
    def heads(self) -> HeadStatistics:
        return statistics_of(self.view.store, self.score_run, "nll")

    @property
    def top_head(self) -> Head:
        return self.heads.estimate.top_head

    @property
    def top_heads(self) -> list[Head]:
        return self.heads.estimate.top_heads(TOGETHER)

    def beyond_chance(self, *signs: int) -> int:
        """Count heads with an effect beyond chance that hurt (1) or help (−1) when removed."""
        found = self.heads.estimate
        return int((found.survives & np.isin(np.sign(found.mean), signs)).sum())

    def check_options(self) -> None:
        """Raise `NotStored` for running text, which has no options to choose from and is itself a control."""
        if self.view.task.kind == "text":
            raise NotStored("a task with options to choose from (this one is running text)")

    def logliks(self) -> list[Float[np.ndarray, "example option"]]:
        """Return the log-likelihood of every option, intact and without the top head."""
        self.check_options()
        return [self.scores.dense, self.scores.ablated[self.top_head]]

    def changed(self) -> Bool[np.ndarray, " example"]:
        """Say for every question whether the model chooses another option without the top head."""
        before, after = (EvalReport(self.scores.questions, one).chosen for one in self.logliks())
        return before != after

    def halves(self) -> tuple[HeadEstimate, HeadEstimate]:
        """Estimate the effects on the first and on the second half of the examples."""
        effects = self.heads.effects
        half = effects.shape[2] // 2
        if half < 2:
            raise NotStored("head effects on at least four examples", "Heads")
        return mean_with_ci(effects[:, :, :half]), mean_with_ci(effects[:, :, half:])

    def control(self) -> tuple[str, HeadEstimate]:
        """Return the title of a control text, and the effects of all heads on it."""
        self.check_options()
        for name, run in control_runs(self.view.runs, self.score_run.spec).items():
            if name != self.view.task.name:
                return load_task(name).title, statistics_of(self.view.store, run, "nll").estimate
        raise NotStored("the effects of all heads on generic text", "Heads", view="generic text")

    def dense(self) -> StoredRun[EvalSpec]:
        self.check_options()
        run = dense_evaluation(self.view, self.view.task)
        if run is None:
            raise NotStored(f"the accuracy of the dense model on {self.view.task.title}", "Prune")
        return run

    def pruned(self, criterion: str) -> StoredRun[EvalSpec]:
        """Return the stored accuracy at 50 % sparsity, on the dense run's questions and built like the others."""
        run = usual_group(self.view, self.dense()).get((criterion, HALF_PRUNED))
        if run is None:
            by = f"half of the weights removed by {criterion_title(criterion)}"
            what = f"the accuracy on {self.view.task.title} with {by}"
            raise NotStored(what, "Prune", criterion=criterion, sparsity="50")
        return run

    def accuracy(self, criterion: str) -> float:
        return 100 * report_of(self.view.store, self.pruned(criterion)).acc

    def zeros(self) -> ZeroCounts:
        """Return the zeros of CAP at 50 % sparsity."""
        return read_zeros(self.view.store, self.pruned("cap"))

    def removed(self, part: str) -> float:
        """Return the percentage of the weights of a part that CAP removes at 50 % sparsity."""
        zeros = self.zeros()
        own = [place for place, matrix in enumerate(zeros.matrices) if matrix.part == part]
        return 100 * float(zeros.zeros[0, own].sum() / zeros.sizes[own].sum())

    def cap_minus_wanda(self) -> PairedComparison:
        return paired_in(self.view.store, self.pruned("cap"), self.pruned("wanda"), ACC)

    def clear_difference(self) -> float:
        """Return CAP minus Wanda in points; 0 unless it is clear."""
        pair = self.cap_minus_wanda()
        return 100 * pair.difference if grade_of(pair) == "clear" else 0.0

    def joint(self) -> tuple[HeadEstimate, HeadEstimate] | None:
        """Estimate the effects of the top heads, one by one and all at once; None if they were not measured."""
        heads, spec = tuple(sorted(self.top_heads)), self.score_run.spec
        for run in runs_of(self.view.runs, JointSpec):
            same = (run.spec.model, run.spec.examples.task) == (spec.model, spec.examples.task)
            if same and (run.spec.heads, run.spec.ablation) == (heads, spec.ablation):
                # The first set is empty, the second the whole one.
                effects = load_joint(self.view.store, run).effects("nll")
                return mean_with_ci(effects[2 : 2 + len(heads)]), mean_with_ci(effects[1])
        return None

    def circuit(self) -> Circuit:
        """Return the paths of the heads with the largest effects, measured on other questions."""
        heads = strongest_heads(self.heads.estimate, min(IN_CIRCUIT, self.heads.estimate.mean.size))
        run = stored_for(self.view, PathSpec, self.score_run.spec, heads)
        if run is None:
            raise NotStored(f"the paths of {len(heads)} heads on {self.view.task.title}", "Circuit")
        return circuit_of(self.view.store, run, None, heads, "nll")

    def direct_share(self) -> float:
        """Return the direct effect of the top head in percent of its total one."""
        found = self.circuit()
        return 100 * float(found.direct(self.top_head).mean() / found.total(self.top_head).mean())

    def largest_path(self) -> HeadPath:
        return next(path for path in self.circuit().named.values() if path.sender == self.top_head)


def nearest(view: Frame, needed: Callable[[Evidence], object]) -> Evidence | None:
    """Find evidence that holds what is needed: other evaluation sizes first, other tasks, then the usual model's."""
    usual = [run.spec.model for run in view.runs if run.spec.model.id == DEFAULT_MODEL and run.spec.model != view.model]
    for model in (view.model, *usual[:1]):
        for name in sorted(tasks_for(model.id), key=lambda name: name != view.task.name):
            for size in sorted(dense_sizes(view.runs, model, name), reverse=True) or [view.n]:
                evidence = Evidence(replace(view, model=model, task=load_task(name), n=size))
                with suppress(CapVizError):
                    needed(evidence)
                    return evidence
    return None


# What a lesson may name in braces or take as the answer; docs/own_lesson.md explains each.
FACTS: dict[str, Callable[[Evidence], float | str | list[str]]] = {
    "task": lambda of: of.view.task.title,
    "run": lambda of: shown_name(of.view.runs, of.score_run),
    "heads": lambda of: of.heads.estimate.mean.size,
    "layers": lambda of: of.scores.n_layers,
    "examples": lambda of: of.heads.estimate.n,
    "top": lambda of: TOP,
    "hurting": lambda of: of.beyond_chance(1),
    "hurting_share": lambda of: 100 * of.beyond_chance(1) / of.heads.estimate.mean.size,
    "helping": lambda of: of.beyond_chance(-1),
    "beyond_chance": lambda of: of.beyond_chance(1, -1),
    "layer": lambda of: of.top_head[0],
    "head": lambda of: of.top_head[1],
    "effect": lambda of: float(of.heads.estimate.mean[of.top_head]),
    "depth": lambda of: 100 * of.top_head[0] / of.scores.n_layers,
    "together": lambda of: [head_name(*head) for head in of.top_heads],
    "changed": lambda of: int(of.changed().sum()),
    "changed_share": lambda of: 100 * float(of.changed().mean()),
    "half": lambda of: of.halves()[0].n,
    "shared_by_halves": lambda of: top_overlap(of.halves()[0].mean, of.halves()[1].mean, TOP).shared,
    "shared_by_chance": lambda of: TOP**2 / of.heads.estimate.mean.size,
    "control": lambda of: of.control()[0],
    "shared_with_control": lambda of: top_overlap(of.heads.estimate.mean, of.control()[1].mean, TOP).shared,
    "attention_removed": lambda of: of.removed("attention"),
    "mlp_removed": lambda of: of.removed("mlp"),
    "attention_minus_mlp": lambda of: of.removed("attention") - of.removed("mlp"),
    "asked": lambda of: len(report_of(of.view.store, of.dense())),
    "cap_accuracy": lambda of: of.accuracy("cap"),
    "wanda_accuracy": lambda of: of.accuracy("wanda"),
    "cap_minus_wanda": lambda of: 100 * of.cap_minus_wanda().difference,
    "clear_difference": lambda of: of.clear_difference(),
    "direct": lambda of: float(of.circuit().direct(of.top_head).mean()),
    "total": lambda of: float(of.circuit().total(of.top_head).mean()),
    "direct_share": lambda of: of.direct_share(),
    "largest_path": lambda of: str(of.largest_path()),
    "circuit_questions": lambda of: of.circuit().n,
    "p_value": lambda of: p_words(of.cap_minus_wanda().p_value),
}
