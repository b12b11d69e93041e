"""Which stored runs answer a page's question. Needs no torch and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import ModelRef, resolve
from cap_viz.runs.spec import EvalSpec, MaskSpec, ProfileSpec, RoleSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.readable import CONTROL_TEXTS


def model_ref(store: Store, model_id: str) -> ModelRef:
    """The weights meant by a model id: those on this machine, else those of the newest stored run.

    Raises `CapVizError` (how to get the model) when there are neither.
    """
    try:
        return resolve(model_id).ref
    except CapVizError:
        for run in store.runs():
            if run.spec.model.id == model_id:
                return run.spec.model
        raise


def score_runs(runs: Sequence[StoredRun], model: ModelRef, task: str, *, estimator: str = "exact") -> list[StoredRun]:
    """Head scores of these weights on a task by one estimator, most examples first.

    Among as many examples the usual comes first: zero ablation, then the first draw.
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
    """The run of whole attention layers and MLPs on the examples and with the ablation of these head scores."""
    return store.get(block_spec(spec))


def block_spec(spec: ScoreSpec) -> ScoreSpec:
    """The spec that ablates whole attention layers and MLPs where `spec` ablates heads, by whatever estimator."""
    return replace(spec, estimator="exact", metric=None, parts="blocks")


def control_runs(runs: Sequence[StoredRun], spec: ScoreSpec) -> dict[str, StoredRun]:
    """Head scores on generic text measured as `spec` measures its task, by the text's name; most examples each."""
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
    """Whether two runs differ in their examples only."""
    return replace(first, examples=second.examples) == second


def role_spec(spec: ScoreSpec) -> RoleSpec:
    """What heads attend to on the very examples of these head scores."""
    return RoleSpec(model=spec.model, examples=spec.examples)


def eval_runs(runs: Sequence[StoredRun], model: ModelRef, task: str, n: int | None = None) -> list[StoredRun]:
    """Accuracies by log-likelihood of these weights on a task, dense and pruned; with `n` only on the first n items."""
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
    """The numbers of items on which the dense accuracy is stored."""
    return {len(run.spec.examples.ids) for run in dense_runs(runs, model, task)}


def dense_run(runs: Sequence[StoredRun], model: ModelRef, task: str, n: int) -> StoredRun | None:
    """The dense accuracy on at most n items, the most of them stored; where all are on more, on the largest number."""
    dense = dense_runs(runs, model, task)
    within = [run for run in dense if len(run.spec.examples.ids) <= n]
    return max(within or dense, key=lambda run: len(run.spec.examples.ids), default=None)


def profile_spec(mask: MaskSpec, scores: ScoreSpec) -> ProfileSpec:
    """The profile that belongs to a mask: the same description at sparsity 0."""
    return ProfileSpec(model=scores.model, examples=scores.examples, mask=replace(mask, sparsity=0.0))
