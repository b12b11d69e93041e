"""Joint effect of a set of heads, against the sum of their single effects and against random sets of the same size.

A set chosen for its large effects looks better on the examples used for choosing it (winner's curse), so all effects
here are measured on examples that were not used for ranking.

1. Joint effect: the metric with all heads of the set ablated at once, minus the dense metric; mean and t interval.
2. Excess: joint effect minus the sum of the heads' single effects, example by example. Negative: the heads do the same
   work (removing one makes removing another cheap). Positive: each compensates for the others' removal.
3. Band: the mean joint effect of random sets of the same size. `p_value` is the share of sets, the chosen one
   included, with at least its effect: with m random sets it is never below 1 / (m + 1).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats.head_estimate import HeadEstimate, mean_with_ci
from cap_viz.stats.intervals import check_level

Head = tuple[int, int]
HeadSet = tuple[Head, ...]
FEWEST_RANDOM = 19


def plain_heads(heads: Iterable[Head]) -> HeadSet:
    """Return heads given as pairs of any integers, numpy's say, as tuples of Python's."""
    return tuple((int(layer), int(head)) for layer, head in heads)


@dataclass(frozen=True)
class JointEffect:
    """Effects of a set of `size` heads on held-out examples, in the metric's unit; positive means the set helps.

    `excess` is joint minus `singles`. `random_low` and `random_high` hold the middle `level` share of the random sets'
    mean effects.
    """

    size: int
    joint: HeadEstimate
    singles: HeadEstimate
    excess: HeadEstimate
    random_mean: float
    random_low: float
    random_high: float
    n_random: int
    p_value: float


def joint_effect(
    joint: Float[np.ndarray, " example"],
    singles: Float[np.ndarray, "head example"],
    random: Float[np.ndarray, "draw example"],
    *,
    level: float = 0.95,
) -> JointEffect:
    """Compare a set's effects per example with those of its single heads and of random sets of the same size.

    Raises `CapVizError` where the examples do not match or there are fewer than 19 random sets, which cannot
    reach p = .05.
    """
    check_level(level)
    joint, singles, random = (np.asarray(a, dtype=np.float64) for a in (joint, singles, random))
    n = joint.shape[-1]
    if singles.shape[-1] != n or random.shape[-1] != n:
        raise CapVizError(
            f"The effects are about different examples: {n} of the set, {singles.shape[-1]} of its heads, "
            f"{random.shape[-1]} of the random sets."
        )
    if len(random) < FEWEST_RANDOM:
        raise CapVizError(f"{len(random)} random sets are too few to judge by; use at least {FEWEST_RANDOM}.")
    estimate, draws = mean_with_ci(joint, level=level), random.mean(axis=-1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return JointEffect(
        size=len(singles),
        joint=estimate,
        singles=mean_with_ci(singles.sum(axis=0), level=level),
        excess=mean_with_ci(joint - singles.sum(axis=0), level=level),
        random_mean=float(draws.mean()),
        random_low=float(low),
        random_high=float(high),
        n_random=len(draws),
        p_value=float((1 + (draws >= estimate.mean).sum()) / (1 + len(draws))),
    )


def random_sets(
    n_layers: int, n_heads: int, size: int, *, draws: int, seed: int = 0, without: Collection[Head] = ()
) -> Sequence[HeadSet]:
    """Draw `draws` sets of `size` distinct heads from the whole model except `without`, reproducible by `seed`.

    Leaving out the chosen set's heads makes the band a control from the rest of the model. Raises `UsageError` when
    there are not enough heads.
    """
    barred = set(without)
    pool = [(layer, head) for layer in range(n_layers) for head in range(n_heads) if (layer, head) not in barred]
    if not 1 <= size <= len(pool):
        raise UsageError(f"A random set of {size} heads cannot be drawn from {len(pool)}.")
    generator = np.random.default_rng(seed)
    chosen = (generator.choice(len(pool), size=size, replace=False) for _ in range(draws))
    return [tuple(pool[i] for i in sorted(indices)) for indices in chosen]
