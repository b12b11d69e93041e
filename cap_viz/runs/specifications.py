"""Specification curves from stored runs: which ways to score heads are there, and which are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from cap_viz.attribution.effect_metrics import DIFFERENTIABLE, applicable_metrics, metric_named
from cap_viz.attribution.results import ABLATIONS
from cap_viz.attribution.specification_curve import OWN_PROMPT, Specification, SpecificationCurve
from cap_viz.errors import CapVizError, choose
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.kinds.scores import STORED_ESTIMATORS, load_effects
from cap_viz.runs.run_queries import of_whole_model, runs_of
from cap_viz.runs.sample_plan import seconds_each, timed_run
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import HeadEstimate
from cap_viz.tasks import load_task
from cap_viz.tasks.base import Task
from cap_viz.tasks.example_sets import calibration_set
from cap_viz.tasks.wordings import on_one_line

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel


@dataclass(frozen=True)
class ScoringChoices:
    """The choices that specifications combine; a draw is (seed, n), a prompt None where it is the task's own."""

    metrics: tuple[str, ...]
    ablations: tuple[str, ...]
    draws: tuple[tuple[int, int], ...]
    estimators: tuple[str, ...]
    prompts: tuple[str | None, ...] = (None,)

    def runs(self, model: ModelRef, task: Task) -> dict[ScoreSpec, tuple[Specification, ...]]:
        """List the runs that hold all combinations, each with its specifications.

        A run of the exact estimator holds all metrics, one of gradients a single one; errors have no gradient.
        """
        found: dict[ScoreSpec, tuple[Specification, ...]] = {}
        ways = product(self.draws, self.estimators, self.ablations, self.prompts)
        for (seed, n), estimator, ablation, prompt in ways:
            examples = calibration_set(task, n, seed, prompt)
            asked = OWN_PROMPT if prompt is None else on_one_line(prompt)
            held = [self.metrics] if estimator == "exact" else [(one,) for one in self.metrics if one in DIFFERENTIABLE]
            for metrics in held:
                metric = None if estimator == "exact" else metrics[0]
                spec = ScoreSpec(model, examples, estimator, ablation, metric)
                found[spec] = tuple(Specification(one, ablation, seed, n, estimator, asked) for one in metrics)
        return found


def stored_choices(runs: Iterable[StoredRun], model: ModelRef, task: Task) -> ScoringChoices:
    """Return the choices that occur in the stored scores of a model's heads on drawn examples of a task."""
    specs = [run.spec for run in scores_of_draws(runs, model, task.name)]
    seen = {(spec.examples.seed or 0, len(spec.examples.ids)) for spec in specs}
    return ScoringChoices(
        metrics=applicable_metrics(task),
        ablations=tuple(one for one in ABLATIONS if any(spec.ablation == one for spec in specs)),
        draws=tuple(sorted(seen)),
        estimators=tuple(one for one in STORED_ESTIMATORS if any(spec.estimator == one for spec in specs)),
        prompts=tuple(sorted({spec.examples.prompt for spec in specs}, key=lambda prompt: prompt or "")) or (None,),
    )


def scores_of_draws(runs: Iterable[StoredRun], model: ModelRef, task: str) -> list[StoredRun[ScoreSpec]]:
    """Find the dense model's total effects of heads on drawn calibration examples, which also give replacements."""
    return [
        run
        for run in runs_of(runs, ScoreSpec)
        if (run.spec.model, run.spec.examples.task, run.spec.examples.split) == (model, task, "calibration")
        and of_whole_model(run.spec)
        and run.spec.reference is None
    ]


def check_choices(choices: ScoringChoices) -> None:
    """Raise `UsageError` for a metric, ablation or estimator that does not exist."""
    for metric in choices.metrics:
        metric_named(metric)
    for ablation in choices.ablations:
        choose("ablation", ablation, ABLATIONS)
    for estimator in choices.estimators:
        choose("estimator", estimator, STORED_ESTIMATORS)


def curve_of(store: Store, model: ModelRef, task: Task, choices: ScoringChoices) -> SpecificationCurve:
    """Read what is stored of all combinations. Raises `CapVizError` where fewer than two are."""
    estimates: dict[Specification, HeadEstimate] = {}
    missing: list[Specification] = []
    for spec, specifications in choices.runs(model, task).items():
        run = store.get(spec)
        if run is None:
            missing += specifications
            continue
        scores = load_effects(store, run)
        estimates |= {one: scores.estimated(one.metric) for one in specifications}
    return SpecificationCurve.of(estimates, missing=tuple(missing), tasks=(task.as_version,))


def missing_runs(store: Store, model: ModelRef, task: Task, choices: ScoringChoices) -> list[ScoreSpec]:
    """List the runs that would complete the curve."""
    return [spec for spec in choices.runs(model, task) if store.get(spec) is None]


def expected_seconds_of(runs: Sequence[StoredRun], missing: Sequence[ScoreSpec]) -> float | None:
    """Estimate the seconds of missing runs at the pace of stored ones; None where an estimator was never timed."""
    total = 0.0
    for spec in missing:
        timed = timed_run(runs, spec.model, spec.examples.task, estimator=spec.estimator)
        if timed is None:
            return None
        total += seconds_each(timed) * len(spec.examples.ids)
    return total


def specification_curve(model: ReasoningModel, task: Task | str) -> SpecificationCurve:
    """Compare all ways in which the heads of a model were scored on a task, as far as their runs are stored.

    Score by more of them, for example with `cap-viz specifications --compute`. Raises `CapVizError` where fewer than
    two are stored.
    """
    chosen = load_task(task) if isinstance(task, str) else task
    store = Store()
    choices = stored_choices(store.runs(), model.ref, chosen)
    if not choices.draws:
        raise CapVizError(f"No scores of the heads of {model.ref.id} on {chosen.name} are stored; score them first.")
    return curve_of(store, model.ref, chosen, choices)
