"""Joint ablation of a set of heads: the sets to measure, and the statistics of their effects (`stats/joint.py`)."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pandas as pd

from cap_viz.attribution.joint_scores import JointScores, set_name
from cap_viz.progress import Progress
from cap_viz.runs.kinds.base import Computation, Computed, RunKind, tables_of, task_of
from cap_viz.runs.kinds.scores import ablation_options
from cap_viz.runs.run_queries import as_run_of
from cap_viz.runs.spec import JointSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import JointEffect, joint_effect, random_sets
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks.example_sets import examples_of

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel


class Joint(RunKind[JointSpec]):
    """A set of heads, each of its heads alone, and random sets, ablated on every example."""

    name = JointSpec.kind
    title, summary = "heads together", "effects of several heads removed at once"

    def steps(self, spec: JointSpec, by: Computation) -> Generator[Progress, None, Computed]:
        scores = yield from set_steps(spec, by.model)
        return Computed(scores.to_tables())

    def describe(self, spec: JointSpec) -> str:
        return f"{set_name(spec.heads)} together, {spec.ablation} ablation"

    def numbers(self, store: Store, run: StoredRun[JointSpec]) -> pd.DataFrame:
        """One row per metric and set of heads: the set, its single heads, random sets."""
        table = load_joint(store, run).to_pandas()
        last_head = 1 + len(run.spec.heads)
        what = ["set" if at == 1 else "head" if at <= last_head else "random" for at in table["set"]]
        table.insert(1, "what", what)
        return table.drop(columns=["set", "size", "p_value"])


def sets_of(spec: JointSpec, n_layers: int, n_heads: int) -> tuple[HeadSet, ...]:
    """List the sets to ablate: none (dense), the set, each of its heads alone, then random sets of other heads.

    Raises `UsageError` where the model has too few other heads.
    """
    random = random_sets(n_layers, n_heads, len(spec.heads), draws=spec.draws, seed=spec.seed, without=spec.heads)
    return ((), spec.heads, *((head,) for head in spec.heads), *random)


def set_steps(spec: JointSpec, model: ReasoningModel) -> Generator[Progress, None, JointScores]:
    """Ablate every set on every example; progress after each set of a batch."""
    from cap_viz.attribution.joint_ablation import check_sets, joint_score_steps, make_joint_plan

    check_sets([spec.heads], model.shape)
    sets = sets_of(spec, model.shape.n_layers, model.shape.n_heads)
    plan = make_joint_plan(model, examples_of(spec.examples), **ablation_options(spec))
    return (yield from joint_score_steps(model, plan, sets))


def load_joint(store: Store, run: StoredRun) -> JointScores:
    """Load the log-likelihoods under joint ablation of sets of heads."""
    shape = run.provenance["shape"]
    sets = sets_of(as_run_of(run, JointSpec).spec, shape["n_layers"], shape["n_heads"])
    return JointScores.from_tables(tables_of(store, run, "options", "joint"), sets=sets, tasks=(task_of(run),))


def judged(spec: JointSpec, scores: JointScores, metric: str) -> JointEffect:
    """Compare the set with the sum of its heads and with random sets, in the metric's unit."""
    effects, first_random = scores.effects(metric), 2 + len(spec.heads)
    return joint_effect(effects[1], effects[2:first_random], effects[first_random:])
