"""Head-removal curves: heads removed in an order, from either end, and in random orders, dense or under a mask."""

from __future__ import annotations

import pandas as pd

from cap_viz.attribution.removal_curve import RemovalCurve, Removals
from cap_viz.runs.kinds.base import tables_of, task_of
from cap_viz.runs.kinds.joint import SetKind
from cap_viz.runs.kinds.scores import check_reference
from cap_viz.runs.run_labels import pruned_words
from cap_viz.runs.run_queries import as_run_of
from cap_viz.runs.spec import RemovalSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks.example_sets import ExampleSet


class Removal(SetKind[RemovalSpec]):
    """Sets of heads along an order, ablated on every example."""

    name = RemovalSpec.kind
    title, summary = "removal curves", "heads removed in an order, and at random"

    def check(self, spec: RemovalSpec) -> None:
        """Raise `UsageError` for a mask of another model, or reference examples that zero ablation does not use."""
        super().check(spec)
        check_reference(spec)

    def sets(self, spec: RemovalSpec, n_layers: int, n_heads: int) -> tuple[HeadSet, ...]:
        removals = removals_of(spec)
        removals.check(n_layers, n_heads)
        return removals.sets

    def describe(self, spec: RemovalSpec) -> str:
        steps = f"up to {spec.counts[-1]} of {len(spec.heads)} heads removed in an order"
        return f"{steps}, {spec.draws} random orders, {spec.ablation} ablation{pruned_words(spec.mask)}"

    def numbers(self, store: Store, run: StoredRun[RemovalSpec]) -> pd.DataFrame:
        """One row per metric, curve and number of heads."""
        return load_removal(store, run).to_pandas()


def removal_spec(
    ranked: ScoreSpec, removals: Removals, examples: ExampleSet, ranked_on: ExampleSet | None = None
) -> RemovalSpec:
    """Make the spec that removes heads in an order found by these head scores, under their ablation and mask.

    `ranked_on` are the examples of the order where more than those of the scores took part.
    """
    ranked_on = ranked_on or ranked.examples
    return RemovalSpec(
        model=ranked.model,
        examples=examples,
        heads=removals.heads,
        counts=removals.counts,
        by_size=None if removals.by_size == removals.heads else removals.by_size,
        ablation=ranked.ablation,
        reference=None if ranked.ablation == "zero" else ranked_on,
        draws=removals.draws,
        seed=removals.seed,
        ranked_on=ranked_on,
        mask=ranked.mask,
    )


def removals_of(spec: RemovalSpec) -> Removals:
    return Removals(spec.heads, spec.by_size or spec.heads, spec.counts, spec.draws, spec.seed)


def load_removal(store: Store, run: StoredRun) -> RemovalCurve:
    """Load the log-likelihoods along an order. Raises `UsageError` for a run of another kind."""
    spec = as_run_of(run, RemovalSpec).spec
    ranked, measured, shared = spec.ranked_on, spec.examples, None
    if ranked is not None:
        same = (ranked.task, ranked.version) == (measured.task, measured.version)
        shared = len(set(ranked.ids) & set(measured.ids)) if same else 0
    removals = removals_of(spec)
    return RemovalCurve.from_tables(
        tables_of(store, run, "options", "joint"),
        heads=removals.heads,
        by_size=removals.by_size,
        counts=removals.counts,
        draws=removals.draws,
        seed=removals.seed,
        shared=shared,
        tasks=(task_of(run),),
    )
