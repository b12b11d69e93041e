"""Paths between heads: from every head of a set to later heads, to MLPs and to the answer, dense or under a mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from cap_viz.attribution.joint_scores import set_name
from cap_viz.attribution.path_scores import PathScores, check_circuit
from cap_viz.runs.batched_runs import BatchedRun, BatchStep, MaskedRun
from cap_viz.runs.kinds.base import tables_of, task_of
from cap_viz.runs.kinds.scores import AblationKind, ablation_options, check_mask, check_reference
from cap_viz.runs.run_labels import pruned_words
from cap_viz.runs.run_queries import as_run_of
from cap_viz.runs.spec import PathSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import examples_of

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.attribution.paths import ZValues
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask


class Paths(AblationKind[PathSpec]):
    """Paths between heads, batch by batch, after the mask is built where there is one."""

    name = PathSpec.kind
    title, summary = "paths", "effects of heads through single receivers"

    def check(self, spec: PathSpec) -> None:
        """Raise `UsageError` for unknown parts, heads listed twice, receivers before all senders, or another mask."""
        check_circuit(spec.heads, spec.receivers, spec.parts)
        check_mask(spec.mask, spec.model)
        check_reference(spec)

    def batched(
        self, model: ReasoningModel, spec: PathSpec, plan: BatchPlan | None = None, mask: Mask | None = None
    ) -> BatchedRun:
        return PathRun(model, spec, plan, mask)

    def describe(self, spec: PathSpec) -> str:
        parts = "" if spec.parts == ("all",) else f", {', '.join(spec.parts)}"
        into = "" if spec.receivers is None else f" into {set_name(spec.receivers)}"
        return f"paths from {set_name(spec.heads)}{into}{parts}, {spec.ablation} ablation{pruned_words(spec.mask)}"

    def numbers(self, store: Store, run: StoredRun[PathSpec]) -> pd.DataFrame:
        """One row per metric and path."""
        return load_paths(store, run).to_pandas()


class PathRun(MaskedRun):
    """Paths of the dense model or under a mask."""

    note = "paths between heads"

    def __init__(self, model: ReasoningModel, spec: PathSpec, plan: BatchPlan | None, mask: Mask | None) -> None:
        from cap_viz.attribution.paths import PathArrays, make_path_plan, paths_between

        super().__init__(model, spec, mask)
        paths = paths_between(model, spec.heads, spec.receivers, spec.parts)
        options = {**ablation_options(spec), "batches": plan}
        self.plan = make_path_plan(model, examples_of(spec.examples), paths, **options)
        self.arrays = PathArrays(self.plan)

    @cached_property
    def values(self) -> ZValues:
        """Values that replace z, prepared once, with the first batch."""
        from cap_viz.attribution.paths import replaced_z

        return replaced_z(self.model, self.plan, self.weights)

    def size(self, batch: int) -> float:
        return self.plan.batch_work(batch, self.model.shape.n_layers)

    def replan(self, batches: BatchPlan) -> None:
        sample = replace(self.plan.sample, batches=batches)
        self.plan = self.arrays.plan = replace(self.plan, sample=sample)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        from cap_viz.attribution.paths import path_steps

        return self.steps_of(path_steps(self.model, self.plan, weights=self.weights, only=wanted, values=self.values))

    def partial(self) -> PathScores:
        return self.arrays.result()


def load_paths(store: Store, run: StoredRun) -> PathScores:
    """Load the log-likelihoods under every path. Raises `UsageError` for a run of another kind."""
    tables = tables_of(store, as_run_of(run, PathSpec), "options", "paths", "ablated")
    return PathScores.from_tables(tables, tasks=(task_of(run),))
