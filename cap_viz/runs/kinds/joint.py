"""Joint ablation: a set of heads with its heads alone and random sets (`stats/joint.py`), and heads in pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from cap_viz.attribution.joint_scores import JointScores, set_name
from cap_viz.attribution.pair_scores import PairScores, sets_of_pairs
from cap_viz.errors import UsageError
from cap_viz.runs.batched_runs import BatchedRun, BatchStep
from cap_viz.runs.kinds.base import tables_of, task_of
from cap_viz.runs.kinds.scores import AblationKind, AblationRun, ablation_options, check_mask
from cap_viz.runs.run_labels import pruned_words
from cap_viz.runs.run_queries import as_run_of
from cap_viz.runs.spec import JointSpec, PairSpec, RemovalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import JointEffect, joint_effect, random_sets
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks.example_sets import examples_of

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask

SetSpec = TypeVar("SetSpec", JointSpec, PairSpec, RemovalSpec)


class SetRun(AblationRun):
    """Sets of heads, ablated one after the other on every example."""

    note = "heads removed together"

    def __init__(
        self,
        model: ReasoningModel,
        spec: JointSpec | PairSpec | RemovalSpec,
        sets: tuple[HeadSet, ...],
        plan: BatchPlan | None,
        mask: Mask | None,
    ) -> None:
        from cap_viz.attribution.exact import make_score_plan
        from cap_viz.attribution.joint_ablation import SetArrays

        super().__init__(model, spec, mask)
        self.sets = sets
        options = {**ablation_options(spec), "parts": "sets", "batches": plan}
        self.plan = make_score_plan(model, examples_of(spec.examples), **options)
        self.arrays = SetArrays(self.plan, self.sets)

    def size(self, batch: int) -> float:
        from cap_viz.attribution.joint_ablation import set_work

        return set_work(self.plan, batch, self.sets, self.model.shape.n_layers)

    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        from cap_viz.attribution.joint_ablation import set_steps

        options = {"weights": self.weights, "only": wanted, "replaced": self.replaced}
        return self.steps_of(set_steps(self.model, self.plan, self.sets, **options))


class SetKind(AblationKind[SetSpec]):
    """What kinds share that remove sets of heads, batch by batch."""

    @abstractmethod
    def sets(self, spec: SetSpec, n_layers: int, n_heads: int) -> tuple[HeadSet, ...]:
        """List the sets to remove, one of which is empty."""

    def check(self, spec: SetSpec) -> None:
        """Raise `UsageError` for a mask of another model."""
        check_mask(spec.mask, spec.model)

    def batched(
        self, model: ReasoningModel, spec: SetSpec, plan: BatchPlan | None = None, mask: Mask | None = None
    ) -> BatchedRun:
        from cap_viz.attribution.joint_ablation import check_sets

        check_sets([spec.heads], model.shape)
        return SetRun(model, spec, self.sets(spec, model.shape.n_layers, model.shape.n_heads), plan, mask)


class Joint(SetKind[JointSpec]):
    """A set of heads, each of its heads alone, and random sets, ablated on every example."""

    name = JointSpec.kind
    title, summary = "heads together", "effects of several heads removed at once"

    def sets(self, spec: JointSpec, n_layers: int, n_heads: int) -> tuple[HeadSet, ...]:
        return sets_of(spec, n_layers, n_heads)

    def describe(self, spec: JointSpec) -> str:
        return f"{set_name(spec.heads)} together, {spec.ablation} ablation{pruned_words(spec.mask)}"

    def numbers(self, store: Store, run: StoredRun[JointSpec]) -> pd.DataFrame:
        """One row per metric and set of heads: the set, its single heads, random sets."""
        table = load_joint(store, run).to_pandas()
        last_head = 1 + len(run.spec.heads)
        what = ["set" if at == 1 else "head" if at <= last_head else "random" for at in table["set"]]
        table.insert(1, "what", what)
        return table.drop(columns=["set", "size", "p_value"])


class Pairs(SetKind[PairSpec]):
    """Heads alone and in pairs, ablated on every example."""

    name = PairSpec.kind
    title, summary = "pairs of heads", "effects of heads removed two at a time"

    def check(self, spec: PairSpec) -> None:
        """Raise `UsageError` for fewer than two heads, one named twice, or a mask of another model."""
        super().check(spec)
        sets_of_pairs(spec.heads)
        if len(set(spec.heads)) < len(spec.heads):
            raise UsageError("The heads of pairs are listed twice; name every head once.")

    def sets(self, spec: PairSpec, n_layers: int, n_heads: int) -> tuple[HeadSet, ...]:
        return sets_of_pairs(spec.heads)

    def describe(self, spec: PairSpec) -> str:
        return f"pairs of {len(spec.heads)} heads, {spec.ablation} ablation{pruned_words(spec.mask)}"

    def numbers(self, store: Store, run: StoredRun[PairSpec]) -> pd.DataFrame:
        """One row per metric and pair."""
        return load_pairs(store, run).to_pandas()


def sets_of(spec: JointSpec, n_layers: int, n_heads: int) -> tuple[HeadSet, ...]:
    """List the sets to ablate: none (dense), the set, each of its heads alone, then random sets of other heads.

    Raises `UsageError` where the model has too few other heads.
    """
    random = random_sets(n_layers, n_heads, len(spec.heads), draws=spec.draws, seed=spec.seed, without=spec.heads)
    return ((), spec.heads, *((head,) for head in spec.heads), *random)


def load_joint(store: Store, run: StoredRun) -> JointScores:
    """Load the log-likelihoods under joint ablation of sets of heads."""
    shape = run.provenance["shape"]
    sets = sets_of(as_run_of(run, JointSpec).spec, shape["n_layers"], shape["n_heads"])
    return JointScores.from_tables(tables_of(store, run, "options", "joint"), sets=sets, tasks=(task_of(run),))


def load_pairs(store: Store, run: StoredRun) -> PairScores:
    """Load the log-likelihoods with heads removed alone and in pairs."""
    heads = as_run_of(run, PairSpec).spec.heads
    return PairScores.from_tables(tables_of(store, run, "options", "joint"), heads=heads, tasks=(task_of(run),))


def judged(spec: JointSpec, scores: JointScores, metric: str) -> JointEffect:
    """Compare the set with the sum of its heads and with random sets, in the metric's unit."""
    effects, first_random = scores.effects(metric), 2 + len(spec.heads)
    return joint_effect(effects[1], effects[2:first_random], effects[first_random:])
