"""Queries for the stored runs a page shows. Needs no torch and no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeGuard, TypeVar

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelRef, resolve
from cap_viz.runs.spec import (
    EvalSpec,
    MaskSpec,
    PairSpec,
    PathSpec,
    PositionSpec,
    ProfileSpec,
    RoleSpec,
    RunSpec,
    ScoreSpec,
)
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import ExampleSet
from cap_viz.tasks.readable import CONTROL_TEXTS

Spec = TypeVar("Spec", bound=RunSpec)


def is_run_of(run: StoredRun, kind: type[Spec]) -> TypeGuard[StoredRun[Spec]]:
    """Whether the spec of a run is of this class; where it is, the run has that type."""
    return isinstance(run.spec, kind)


def runs_of(runs: Iterable[StoredRun], kind: type[Spec]) -> list[StoredRun[Spec]]:
    """Find the runs with specs of one class, in the order given."""
    return [run for run in runs if is_run_of(run, kind)]


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


def as_run_of(run: StoredRun, kind: type[Spec]) -> StoredRun[Spec]:
    """Return the run itself. Raises `UsageError` where its spec is not of this class."""
    if not is_run_of(run, kind):
        raise UsageError(f"Run {run.key} is of kind {run.kind}; this needs one of kind {kind.kind}.")
    return run


def is_head_scores(run: StoredRun, estimator: str = "exact") -> TypeGuard[StoredRun[ScoreSpec]]:
    """Whether a run holds total effects of the whole dense model's heads (not blocks, not direct) by an estimator."""
    return is_run_of(run, ScoreSpec) and run.spec.estimator == estimator and of_whole_model(run.spec)


def of_whole_model(spec: ScoreSpec) -> bool:
    """Whether scores are of total effects of heads, with nothing pruned or taken out of the model."""
    return (spec.parts, spec.mask, spec.removed) == (None, None, None)


def score_runs(
    runs: Iterable[StoredRun], model: ModelRef, task: str, *, estimator: str = "exact", any_prompt: bool = False
) -> list[StoredRun[ScoreSpec]]:
    """Find the head scores of a model on a task by one estimator: of calibration examples first, then by most examples.

    Among runs of equally many examples, zero ablation comes first, then the lowest seed. Heads ranked on evaluation
    questions must not be judged on them again, so that runs on these come last. With `any_prompt` also those on
    questions asked in other words than the task's own, last of all.
    """
    found = [
        run
        for run in runs
        if run.spec.examples.task == task and is_head_scores(run, estimator) and run.spec.model == model
        if any_prompt or run.spec.examples.prompt is None
    ]
    return sorted(found, key=unusual)


def unusual(run: StoredRun[ScoreSpec]) -> tuple[bool, bool, int, bool, int]:
    examples = run.spec.examples
    elsewhere = examples.split != "calibration"
    return examples.prompt is not None, elsewhere, -len(examples.ids), run.spec.ablation != "zero", examples.seed or 0


def masked_pair(
    runs: Iterable[StoredRun], model: ModelRef, task: str, mask: MaskSpec
) -> tuple[StoredRun[ScoreSpec], StoredRun[ScoreSpec]] | None:
    """Find the exact zero-ablation scores of heads, dense and under a mask, on the same evaluation questions.

    Of several such pairs the one with most questions.
    """
    scores = {run.spec: run for run in runs_of(runs, ScoreSpec) if run.spec.examples.split == "evaluation"}
    pairs = [
        (scores[dense], run)
        for spec, run in scores.items()
        if spec == ScoreSpec(model, spec.examples, mask=mask) and spec.examples.task == task
        if (dense := replace(spec, mask=None)) in scores
    ]
    return max(pairs, key=lambda pair: len(pair[0].spec.examples.ids), default=None)


def block_run(store: Store, spec: ScoreSpec) -> StoredRun[ScoreSpec] | None:
    """Find the run of whole attention layers and MLPs with the examples and the ablation of these head scores."""
    return store.get(block_spec(spec))


def block_spec(spec: ScoreSpec) -> ScoreSpec:
    """Make the exact spec of whole attention layers and MLPs that matches head scores by any estimator."""
    return replace(spec, estimator="exact", metric=None, parts="blocks")


def direct_spec(spec: ScoreSpec, *, frozen_norm: bool = False) -> ScoreSpec:
    """Make the spec of the direct effects that match head scores by any estimator; see `direct_effects`."""
    return replace(spec, estimator="exact", metric=None, parts="writes", frozen_norm=frozen_norm or None)


def path_spec(
    spec: ScoreSpec,
    heads: Sequence[tuple[int, int]],
    *,
    receivers: Sequence[tuple[int, int]] | None = None,
    parts: Sequence[str] = ("all",),
    examples: ExampleSet | None = None,
    mask: MaskSpec | None = None,
) -> PathSpec:
    """Make the spec of paths between heads under the ablation of these head scores, on their examples or on others."""
    return PathSpec(
        model=spec.model,
        examples=examples or spec.examples,
        heads=tuple(sorted(heads)),
        receivers=None if receivers is None else tuple(sorted(receivers)),
        parts=tuple(parts),
        ablation=spec.ablation,
        reference=spec.reference if examples in (None, spec.examples) else spec.values_from,
        mask=mask,
    )


def pair_spec(spec: ScoreSpec, heads: Sequence[tuple[int, int]], *, examples: ExampleSet | None = None) -> PairSpec:
    """Make the spec of the pairs of heads under the ablation of these head scores, on their examples or on others."""
    paths = path_spec(spec, heads, examples=examples)
    return PairSpec(paths.model, paths.examples, paths.heads, paths.ablation, paths.reference)


def position_spec(spec: ScoreSpec, examples: ExampleSet, metric: str) -> PositionSpec:
    """Make the spec of first-order effects by span of all heads, under the ablation of these head scores."""
    paths = path_spec(spec, (), examples=examples)
    return PositionSpec(spec.model, examples, "span", metric=metric, ablation=paths.ablation, reference=paths.reference)


def control_runs(runs: Sequence[StoredRun], spec: ScoreSpec) -> dict[str, StoredRun[ScoreSpec]]:
    """Find the head scores on control texts with the same settings as `spec`, by text; per text the largest run."""
    found: dict[str, StoredRun[ScoreSpec]] = {}
    for text in CONTROL_TEXTS:
        for run in score_runs(runs, spec.model, text):
            if alike(run.spec, spec):
                found.setdefault(text, run)
    return found


def alike(first: Spec, second: Spec) -> bool:
    """Whether two specs differ in their examples only."""
    return replace(first, examples=second.examples) == second


def role_spec(spec: ScoreSpec) -> RoleSpec:
    """Make the spec of attention measures on the examples of these head scores."""
    return RoleSpec(model=spec.model, examples=spec.examples)


def eval_runs(runs: Iterable[StoredRun], model: ModelRef, task: str, n: int | None = None) -> list[StoredRun[EvalSpec]]:
    """Find the choice evaluations of a model on a task, dense and pruned; with `n`, only on the first n items."""
    return [
        run
        for run in runs_of(runs, EvalSpec)
        if run.spec.examples.task == task
        and run.spec.model == model
        and run.spec.examples.split == "evaluation"
        and run.spec.protocol is None
        and n in (None, len(run.spec.examples.ids))
    ]


def dense_runs(runs: Iterable[StoredRun], model: ModelRef, task: str) -> list[StoredRun[EvalSpec]]:
    return [run for run in eval_runs(runs, model, task) if run.spec.mask is None]


def dense_sizes(runs: Sequence[StoredRun], model: ModelRef, task: str) -> set[int]:
    """Collect the numbers of items for which dense accuracy is stored."""
    return {len(run.spec.examples.ids) for run in dense_runs(runs, model, task)}


def measured_size(runs: Sequence[StoredRun], model: ModelRef, task: str) -> int | None:
    """Return the size on which the most is stored: criteria at sparsities, with dense accuracy; of equals the largest.

    The largest stored size may hold one criterion only, or masks built on head scores that pages do not choose first.
    """
    measured: dict[int, set[tuple[str, float]]] = {size: set() for size in dense_sizes(runs, model, task)}
    for run in eval_runs(runs, model, task):
        if run.spec.mask is not None and (size := len(run.spec.examples.ids)) in measured:
            measured[size].add((run.spec.mask.criterion, run.spec.mask.sparsity))
    return max(measured, key=lambda size: (len(measured[size]), size), default=None)


def dense_run(runs: Sequence[StoredRun], model: ModelRef, task: str, n: int) -> StoredRun[EvalSpec] | None:
    """Find the largest dense run of at most n items; if every run has more, the largest of all."""
    dense = dense_runs(runs, model, task)
    within = [run for run in dense if len(run.spec.examples.ids) <= n]
    return max(within or dense, key=lambda run: len(run.spec.examples.ids), default=None)


def missing_tasks(spec: EvalSpec | ProfileSpec | MaskSpec) -> tuple[Task, ...]:
    """Find the tasks and texts that a run or a mask reads and that are not on this machine.

    A profile reads those of its mask alone.
    """
    mask = spec if isinstance(spec, MaskSpec) else spec.mask
    questions = spec.examples if isinstance(spec, EvalSpec) else None
    read = (questions, *(() if mask is None else (mask.calibration, mask.text)))
    tasks = [load_task(name) for name in dict.fromkeys(one.task for one in read if one is not None)]
    return tuple(task for task in tasks if not task.is_local())
