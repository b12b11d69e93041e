"""Head scores: exact (total and direct effects of heads, effects of whole blocks), and first-order effects of heads."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.attribution.effect_changes import EffectChanges, effect_changes
from cap_viz.attribution.joint_scores import set_name
from cap_viz.attribution.results import (
    BlockScores,
    DirectScores,
    GradientEffects,
    HeadScores,
    check_frozen_norm,
)
from cap_viz.errors import UsageError, choose
from cap_viz.progress import Progress
from cap_viz.runs.batched_runs import BatchedRun, BatchStep, MaskedRun, batch_steps
from cap_viz.runs.kinds.base import Computation, Computed, GetScores, RunKind, tables_of, task_of
from cap_viz.runs.masks import GetEffect, mask_steps
from cap_viz.runs.run_labels import pruned_words
from cap_viz.runs.run_queries import as_run_of
from cap_viz.runs.spec import AblationSpec, MaskSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import examples_of

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.attribution.exact import Replacements
    from cap_viz.attribution.pruned_weights import MaskLike
    from cap_viz.models.catalogue import ModelRef
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask

STORED_ESTIMATORS = ("exact", "gradient")
Ablating = TypeVar("Ablating", bound=AblationSpec)
# What a job says it does, and how a run's description begins, by the parts that are ablated.
NOTES = {None: "scoring heads", "blocks": "scoring whole layers", "writes": "direct effects of heads"}
PARTS_WORDS = {None: "", "blocks": "blocks, ", "writes": "direct effects, "}


class AblationKind(RunKind[Ablating]):
    """What kinds share that replace outputs of heads: batches, computed under the mask that the spec may name."""

    def steps(self, spec: Ablating, by: Computation) -> Generator[Progress, None, Computed]:
        mask = yield from wanted_mask(spec.mask, by)
        run = self.batched(by.model, spec, by.checkpoints.plan(), mask)
        del mask  # So that the run frees it once it has the pruned weights.
        facts = yield from batch_steps(run, by.checkpoints, by.backend)
        return Computed(run.tables(), run.batches, facts)

    def holds_weights(self, spec: Ablating) -> bool:
        return spec.mask is not None


class Scores(AblationKind[ScoreSpec]):
    """Head scores, batch by batch."""

    name = ScoreSpec.kind
    title, summary = "scores", "effects of heads"

    def check(self, spec: ScoreSpec) -> None:
        """Raise `UsageError` for an estimator that is not stored, or a spec that contradicts itself."""
        if spec.estimator == "hybrid":
            raise UsageError(
                "Hybrid scores are not stored: run exact and gradient, and combine them (`hybrid_scores`)."
            )
        choose("estimator", spec.estimator, STORED_ESTIMATORS)
        if (spec.estimator == "exact") != (spec.metric is None):
            raise UsageError(
                "Exact scores hold every metric, so their spec names none; a gradient run is about one metric and "
                "names it."
            )
        if spec.parts is not None and (spec.parts not in NOTES or spec.estimator != "exact"):
            raise UsageError(
                f"Parts {spec.parts!r} by the {spec.estimator} estimator: a spec names no parts for heads, and with "
                'the exact estimator "blocks" for whole attention layers and MLPs or "writes" for direct effects.'
            )
        check_frozen_norm(bool(spec.frozen_norm), spec.parts)
        check_reference(spec)
        if spec.removed is not None and (spec.ablation != "zero" or not spec.removed):
            raise UsageError(
                "Heads are removed before a scoring by zero ablation only; use that ablation, and name at least one "
                "head."
            )
        check_mask(spec.mask, spec.model)

    def batched(
        self, model: ReasoningModel, spec: ScoreSpec, plan: BatchPlan | None = None, mask: Mask | None = None
    ) -> BatchedRun:
        made = ScoreRun if spec.estimator == "exact" else GradientRun
        return made(model, spec, plan, mask)

    def holds_weights(self, spec: ScoreSpec) -> bool:
        return super().holds_weights(spec) or spec.removed is not None

    def describe(self, spec: ScoreSpec) -> str:
        about = "" if spec.metric is None else f" of {spec.metric}"
        norm = "frozen norm, " if spec.frozen_norm else ""
        without = "" if spec.removed is None else f", without {set_name(spec.removed)}"
        how = f"{norm}{spec.estimator}{about}, {spec.ablation} ablation"
        return f"{PARTS_WORDS[spec.parts]}{how}{pruned_words(spec.mask)}{without}"

    def numbers(self, store: Store, run: StoredRun[ScoreSpec]) -> pd.DataFrame:
        """One row per metric, layer and head (or block)."""
        return load_any(store, run).to_pandas()


def check_reference(spec: AblationSpec) -> None:
    """Raise `UsageError` for reference examples that zero ablation does not use."""
    if spec.ablation == "zero" and spec.reference is not None:
        raise UsageError("Zero ablation takes no values from other examples; leave out the reference examples.")


def ablation_options(spec: AblationSpec) -> dict[str, Any]:
    """Return the ablation keyword arguments of a spec, for `make_*_plan`."""
    reference = None if spec.reference is None else examples_of(spec.reference)
    seed = (spec.reference or spec.examples).seed or 0
    return {"ablation": spec.ablation, "reference": reference, "seed": seed}


def without_removed(model: ReasoningModel, spec: ScoreSpec, mask: MaskLike | None) -> MaskLike | None:
    """Add the heads that are out to the mask."""
    from cap_viz.attribution.joint_ablation import check_sets
    from cap_viz.attribution.pruned_weights import without_heads

    check_sets([spec.removed or ()], model.shape)
    return without_heads(model, spec.removed or (), mask)


def wanted_mask(spec: MaskSpec | None, by: Computation) -> Generator[Progress, None, Mask | None]:
    """Build the mask of a run; None for the dense model."""
    return None if spec is None else (yield from mask_steps(spec, by.model, effects_by(by.store, by.run)))


def check_mask(mask: MaskSpec | None, model: ModelRef) -> None:
    """Raise `UsageError` for a mask that is built on head scores of another model than the one measured."""
    scores = None if mask is None else mask.scores
    if scores is not None and scores.model != model:
        raise UsageError(
            f"The mask is built on head scores of {scores.model.id} with fingerprint {scores.model.fingerprint}, the "
            f"run is of {model.id} with {model.fingerprint}; use a mask of this model."
        )


class AblationRun(MaskedRun):
    """Scores by ablation; the replacements of outputs are prepared once, with the first batch."""

    @cached_property
    def replaced(self) -> Replacements:
        from cap_viz.attribution.exact import replacements

        return replacements(self.model, self.plan, self.weights)

    def partial(self) -> Any:
        return self.arrays.result()


class ScoreRun(AblationRun):
    """Exact scores of heads, or of whole attention layers and MLPs."""

    def __init__(self, model: ReasoningModel, spec: ScoreSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        from cap_viz.attribution.exact import ScoreArrays, make_score_plan

        super().__init__(model, spec, without_removed(model, spec, mask))
        what = {"parts": spec.parts or "heads", "frozen_norm": bool(spec.frozen_norm)}
        options = {**ablation_options(spec), **what, "batches": plan}
        self.plan = make_score_plan(model, examples_of(spec.examples), **options)
        self.arrays = ScoreArrays(self.plan, model.shape.n_layers, model.shape.n_heads)
        self.note = NOTES[spec.parts]

    def size(self, batch: int) -> float:
        return self.plan.batch_work(batch, self.model.shape.n_layers)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        from cap_viz.attribution.exact import score_steps

        options = {"weights": self.weights, "only": wanted, "replaced": self.replaced}
        return self.steps_of(score_steps(self.model, self.plan, **options))


class GradientRun(AblationRun):
    """First-order effects of all heads, from one forward and one backward per batch."""

    note = "gradients of all heads"

    def __init__(self, model: ReasoningModel, spec: ScoreSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        from cap_viz.attribution.gradient import GradientArrays, make_gradient_plan

        super().__init__(model, spec, without_removed(model, spec, mask))
        self.metric = spec.metric or "nll"
        options = {**ablation_options(spec), "metric": self.metric, "batches": plan}
        self.plan = make_gradient_plan(model, examples_of(spec.examples), **options)
        self.arrays = GradientArrays(self.plan, self.metric, model.shape.n_layers, model.shape.n_heads)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        from cap_viz.attribution.gradient import gradient_steps

        options = {"weights": self.weights, "only": wanted, "replaced": self.replaced}
        for block in gradient_steps(self.model, self.plan, metric=self.metric, units=True, **options):
            self.arrays.add(block)
            yield BatchStep(block.batch, block.work, last=True)


def load_scores(store: Store, run: StoredRun) -> HeadScores:
    """Load exact head scores; for those of a gradient run, which has no ablated log-likelihoods, see `load_gradient`.

    Raises `UsageError` for a run of other parts: see `load_blocks` and `load_direct`.
    """
    check_parts(run, None, "the effects of heads")
    return HeadScores.from_tables(tables_of(store, run, "options", "ablated"), tasks=(task_of(run),))


def load_blocks(store: Store, run: StoredRun) -> BlockScores:
    """Load exact scores of whole attention layers and MLPs. Raises `UsageError` for a run of heads."""
    check_parts(run, "blocks", "the effects of whole attention layers and MLPs")
    return BlockScores.from_tables(tables_of(store, run, "options", "blocks"), tasks=(task_of(run),))


def load_direct(store: Store, run: StoredRun) -> DirectScores:
    """Load the direct effects of heads. Raises `UsageError` for a run of other effects."""
    check_parts(run, "writes", "the direct effects of heads")
    return DirectScores.from_tables(tables_of(store, run, "options", "ablated"), tasks=(task_of(run),))


def check_parts(run: StoredRun, parts: str | None, wanted: str) -> None:
    held = as_run_of(run, ScoreSpec).spec.parts
    if held != parts:
        raise UsageError(f"Run {run.key} does not hold {wanted}: its parts are {held or 'heads'}.")


LOADERS = {None: load_scores, "blocks": load_blocks, "writes": load_direct}


def load_gradient(store: Store, run: StoredRun) -> GradientEffects:
    """Load the first-order effects of a gradient run."""
    metric = as_run_of(run, ScoreSpec).spec.metric or "nll"
    names = ("options", "effects", *(("units",) if "units" in run.digests else ()))
    return GradientEffects.from_tables(tables_of(store, run, *names), metric=metric, tasks=(task_of(run),))


def load_effects(store: Store, run: StoredRun) -> HeadScores | GradientEffects:
    """Load the total effects of heads, exact or by gradient. Raises `UsageError` for a run of other parts."""
    return (load_gradient if as_run_of(run, ScoreSpec).spec.estimator == "gradient" else load_scores)(store, run)


def load_any(store: Store, run: StoredRun) -> HeadScores | BlockScores | GradientEffects:
    """Load the effects of a run, whatever its estimator and parts."""
    spec = as_run_of(run, ScoreSpec).spec
    return load_gradient(store, run) if spec.estimator == "gradient" else LOADERS[spec.parts](store, run)


def load_changes(store: Store, before: StoredRun, after: StoredRun) -> EffectChanges:
    """Pair the effects of two runs, question by question.

    Raises `UsageError` for runs under different ablations or with values from different examples, and as
    `effect_changes` does.
    """
    first, second = (as_run_of(run, ScoreSpec).spec for run in (before, after))
    if first.ablation != second.ablation:
        raise UsageError(
            f"The effects are under different ablations: {first.ablation} and {second.ablation}; score both under one."
        )
    if first.values_from != second.values_from:
        raise UsageError(
            f"The values of {first.ablation} ablation come from different examples; give both runs one reference."
        )
    return effect_changes(load_any(store, before), load_any(store, after))


def load_mean_effect(store: Store, run: StoredRun[ScoreSpec], metric: str) -> Float[np.ndarray, "layer head"]:
    """Load the head scores of an exact or gradient run. Raises `UsageError` for a metric a gradient run lacks."""
    return load_effects(store, run).mean_effect(metric)


def effects_by(store: Store, run: GetScores) -> GetEffect:
    """Make a function that gets head scores as a stored run and reads their mean effects."""

    def effect(spec: ScoreSpec, metric: str) -> Generator[Progress, None, Float[np.ndarray, "layer head"]]:
        scores = yield from run(spec)
        return load_mean_effect(store, scores, metric)

    return effect
