"""Joint ablation of a set of heads: the sets to measure, and the statistics of their effects (`stats/joint.py`)."""

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
    """List the sets to ablate: none (dense), the set, each of its heads alone, then random sets of other heads.

    Raises `UsageError` where the model has too few other heads.
    """
    random = random_sets(n_layers, n_heads, len(spec.heads), draws=spec.draws, seed=spec.seed, without=spec.heads)
    return ((), spec.heads, *((head,) for head in spec.heads), *random)


def together_steps(
    spec: JointSpec, model: ReasoningModel, examples: Sequence[Example], **ablation: Any
) -> Generator[Progress, None, JointScores]:
    """Ablate every set on every example; progress after each set of a batch. `ablation` goes to `make_joint_plan`."""
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
    """Compare the set with the sum of its heads and with random sets, in the metric's unit."""
    effects, first_random = scores.effects(metric), 2 + len(spec.heads)
    return joint_effect(effects[1], effects[2:first_random], effects[first_random:])
