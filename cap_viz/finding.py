"""Which stored runs answer a page's question. Needs no torch and no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cap_viz.errors import CapVizError
from cap_viz.models import resolve
from cap_viz.spec import EvalSpec, MaskSpec, ModelRef, ProfileSpec, ScoreSpec
from cap_viz.store import Store, StoredRun


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


def score_runs(runs: Sequence[StoredRun], model: ModelRef, task: str) -> list[StoredRun]:
    """Head scores of these weights on a task, most examples first."""
    found = [
        run
        for run in runs
        if isinstance(run.spec, ScoreSpec) and run.spec.model == model and run.spec.examples.task == task
    ]
    return sorted(found, key=lambda run: len(run.spec.examples.ids), reverse=True)


def eval_runs(runs: Sequence[StoredRun], model: ModelRef, task: str, n: int | None = None) -> list[StoredRun]:
    """Accuracies of these weights on a task, dense and pruned; with `n` only those on the first n items."""
    return [
        run
        for run in runs
        if isinstance(run.spec, EvalSpec)
        and run.spec.model == model
        and run.spec.examples.task == task
        and run.spec.examples.split == "evaluation"
        and n in (None, len(run.spec.examples.ids))
    ]


def profile_spec(mask: MaskSpec, scores: ScoreSpec) -> ProfileSpec:
    """The profile that belongs to a mask: the same description at sparsity 0."""
    return ProfileSpec(model=scores.model, examples=scores.examples, mask=replace(mask, sparsity=0.0))
