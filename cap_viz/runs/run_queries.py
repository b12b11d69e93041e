"""Queries for the stored runs a page shows. Needs no torch and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import ModelRef, resolve
from cap_viz.runs.spec import EvalSpec, MaskSpec, ProfileSpec, RoleSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.readable import CONTROL_TEXTS


def model_ref(store: Store, model_id: str) -> ModelRef:
    """Resolve a model id: to the weights on this machine, else to those of the newest stored run.

    Raises `CapVizError`, which says how to get the model, when there are neither.
    """
    try:
        return resolve(model_id).ref
    except CapVizError:
        for run in store.runs():
            if run.spec.model.id == model_id:
                return run.spec.model
        raise


def score_runs(runs: Sequence[StoredRun], model: ModelRef, task: str, *, estimator: str = "exact") -> list[StoredRun]:
    """Find the head scores of a model on a task by one estimator, most examples first.

    Among runs of equally many examples, zero ablation comes first, then the lowest seed.
    """
    found = [
        run
        for run in runs
        if isinstance(run.spec, ScoreSpec)
        and run.spec.model == model
        and run.spec.examples.task == task
        and run.spec.estimator == estimator
        and run.spec.parts is None
    ]
    return sorted(found, key=unusual)


def unusual(run: StoredRun) -> tuple[int, bool, int]:
    spec = run.spec
    return -len(spec.examples.ids), isinstance(spec, ScoreSpec) and spec.ablation != "zero", spec.examples.seed or 0


def block_run(store: Store, spec: ScoreSpec) -> StoredRun | None:
    """Find the run of whole attention layers and MLPs with the examples and the ablation of these head scores."""
    return store.get(block_spec(spec))


def block_spec(spec: ScoreSpec) -> ScoreSpec:
    """Make the exact spec of whole attention layers and MLPs that matches head scores by any estimator."""
    return replace(spec, estimator="exact", metric=None, parts="blocks")


def control_runs(runs: Sequence[StoredRun], spec: ScoreSpec) -> dict[str, StoredRun]:
    """Find the head scores on control texts with the same settings as `spec`, by text; per text the largest run."""
    found: dict[str, StoredRun] = {}
    for text in CONTROL_TEXTS:
        like = [
            run
            for run in score_runs(runs, spec.model, text)
            if isinstance(run.spec, ScoreSpec) and alike(run.spec, spec)
        ]
        if like:
            found[text] = like[0]
    return found


def alike(first: ScoreSpec, second: ScoreSpec) -> bool:
    """Whether two specs differ in their examples only."""
    return replace(first, examples=second.examples) == second


def role_spec(spec: ScoreSpec) -> RoleSpec:
    """Make the spec of attention measures on the examples of these head scores."""
    return RoleSpec(model=spec.model, examples=spec.examples)


def eval_runs(runs: Sequence[StoredRun], model: ModelRef, task: str, n: int | None = None) -> list[StoredRun]:
    """Find the choice evaluations of a model on a task, dense and pruned; with `n`, only on the first n items."""
    return [
        run
        for run in runs
        if isinstance(run.spec, EvalSpec)
        and run.spec.model == model
        and run.spec.examples.task == task
        and run.spec.examples.split == "evaluation"
        and run.spec.protocol is None
        and n in (None, len(run.spec.examples.ids))
    ]


def dense_runs(runs: Sequence[StoredRun], model: ModelRef, task: str) -> list[StoredRun]:
    return [run for run in eval_runs(runs, model, task) if isinstance(run.spec, EvalSpec) and run.spec.mask is None]


def dense_sizes(runs: Sequence[StoredRun], model: ModelRef, task: str) -> set[int]:
    """Collect the numbers of items for which dense accuracy is stored."""
    return {len(run.spec.examples.ids) for run in dense_runs(runs, model, task)}


def dense_run(runs: Sequence[StoredRun], model: ModelRef, task: str, n: int) -> StoredRun | None:
    """Find the largest dense run of at most n items; if every run has more, the largest of all."""
    dense = dense_runs(runs, model, task)
    within = [run for run in dense if len(run.spec.examples.ids) <= n]
    return max(within or dense, key=lambda run: len(run.spec.examples.ids), default=None)


def profile_spec(mask: MaskSpec, scores: ScoreSpec) -> ProfileSpec:
    """Make the spec of a mask's profile: the same recipe with sparsity 0, the convention for profiles."""
    return ProfileSpec(model=scores.model, examples=scores.examples, mask=replace(mask, sparsity=0.0))
