"""Effects of heads split by position: by span to first order or exactly, and by step of a worked solution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from cap_viz.attribution.joint_scores import set_name
from cap_viz.attribution.position_effects import PositionEffects, check_split
from cap_viz.runs.batched_runs import BatchedRun, BatchStep
from cap_viz.runs.kinds.base import tables_of, task_of
from cap_viz.runs.kinds.scores import AblationKind, AblationRun, ablation_options, check_mask, check_reference
from cap_viz.runs.run_labels import pruned_words
from cap_viz.runs.run_queries import as_run_of
from cap_viz.runs.spec import PositionSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import examples_of
from cap_viz.tasks.spans import prompt_spans, with_solution

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.attribution.exact import Replacements
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask


class Positions(AblationKind[PositionSpec]):
    """Effects of heads by span or by step, batch by batch."""

    name = PositionSpec.kind
    title, summary = "positions", "effects of heads by span of the prompt or step of the solution"

    def check(self, spec: PositionSpec) -> None:
        """Raise `UsageError` for heads listed twice, a metric where effects are exact, or examples without parts."""
        check_split(spec.by, spec.heads, spec.metric)
        for example in examples_of(spec.examples):
            with_solution(example) if spec.by == "step" else prompt_spans(example)
        check_reference(spec)
        check_mask(spec.mask, spec.model)

    def batched(
        self, model: ReasoningModel, spec: PositionSpec, plan: BatchPlan | None = None, mask: Mask | None = None
    ) -> BatchedRun:
        return PositionRun(model, spec, plan, mask)

    def describe(self, spec: PositionSpec) -> str:
        heads = "all heads" if spec.heads is None else set_name(spec.heads)
        estimator = "exact" if spec.metric is None else f"gradient of {spec.metric}"
        return f"{heads} by {spec.by}, {estimator}, {spec.ablation} ablation{pruned_words(spec.mask)}"

    def numbers(self, store: Store, run: StoredRun[PositionSpec]) -> pd.DataFrame:
        """One row per metric, head and span or step."""
        return load_positions(store, run).to_pandas()


class PositionRun(AblationRun):
    """Effects of heads by position, of the dense model or under a mask."""

    note = "heads position by position"

    def __init__(self, model: ReasoningModel, spec: PositionSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        from cap_viz.attribution.positions import PositionArrays, make_position_plan

        super().__init__(model, spec, mask)
        options = {**ablation_options(spec), "metric": spec.metric, "batches": plan}
        self.plan = make_position_plan(model, examples_of(spec.examples), spec.by, spec.heads, **options)
        self.arrays = PositionArrays(self.plan)

    @cached_property
    def replaced(self) -> Replacements:
        from cap_viz.attribution.exact import replacements

        return replacements(self.model, self.plan.sample, self.weights)

    def size(self, batch: int) -> float:
        return self.plan.batch_work(batch, self.model.shape.n_layers)

    def replan(self, batches: BatchPlan) -> None:
        sample = replace(self.plan.sample, batches=batches)
        self.plan = self.arrays.plan = replace(self.plan, sample=sample)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        from cap_viz.attribution.positions import position_steps

        options = {"weights": self.weights, "only": wanted, "replaced": self.replaced}
        return self.steps_of(position_steps(self.model, self.plan, **options))


def load_positions(store: Store, run: StoredRun) -> PositionEffects:
    """Load the effects of heads by span or by step. Raises `UsageError` for a run of another kind."""
    estimator = "exact" if as_run_of(run, PositionSpec).spec.metric is None else "gradient"
    tables = tables_of(store, run, "options", "parts", "effects")
    return PositionEffects.from_tables(tables, estimator=estimator, tasks=(task_of(run),))
