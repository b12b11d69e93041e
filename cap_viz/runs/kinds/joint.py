"""Some heads removed together: which sets are measured, and what the numbers say about them (`stats/joint.py`)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from cap_viz.attribution.results import JointScores
from cap_viz.progress import Progress
from cap_viz.runs.spec import JointSpec
from cap_viz.stats import JointEffect, joint_effect, random_sets
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks import Example

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel


def sets_of(spec: JointSpec, n_layers: int, n_heads: int) -> tuple[HeadSet, ...]:
    """The untouched model, the set, each of its heads alone, and random sets of other heads, in this order.

    Raises `UsageError` where the model has not enough other heads.
    """
    random = random_sets(n_layers, n_heads, len(spec.heads), draws=spec.draws, seed=spec.seed, without=spec.heads)
    return ((), spec.heads, *((head,) for head in spec.heads), *random)


def together_steps(
    spec: JointSpec, model: ReasoningModel, examples: Sequence[Example], **ablation: Any
) -> Generator[Progress, None, JointScores]:
    """Measure every set on every example; progress after each set of a batch. `ablation` is that of the plan."""
    from cap_viz.attribution.joint_ablation import check_sets, collected, joint_steps, make_joint_plan

    check_sets([spec.heads], model.shape)
    sets = sets_of(spec, model.shape.n_layers, model.shape.n_heads)
    plan = make_joint_plan(model, examples, **ablation)
    blocks, total = [], len(plan.batches.batches) * len(sets)
    for block in joint_steps(model, plan, sets):
        blocks.append(block)
        yield Progress(len(blocks), total, "heads removed together")
    return collected(plan, sets, blocks)


def judged(spec: JointSpec, scores: JointScores, metric: str) -> JointEffect:
    """The set against the sum of its heads and against random sets, in the metric's unit."""
    effects, first_random = scores.effects(metric), 2 + len(spec.heads)
    return joint_effect(effects[1], effects[2:first_random], effects[first_random:])
