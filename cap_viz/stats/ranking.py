"""Ranks of heads with bootstrap intervals.

Examples are resampled with the same draw for all heads, so correlated effects stay correlated. Resampling adds
noise to noise: bootstrapped ranks lean towards the middle, and intervals are wide for heads near zero, as they
should be. An interval that would miss the observed rank is widened to include it (Hall and Miller 2009, "Using
the bootstrap to quantify the authority of an empirical ranking").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats.intervals import check_level

TOP_SHARE = 0.1


@dataclass(frozen=True)
class RankIntervals:
    """Rank of each head by mean effect (1 = largest) with interval limits."""

    rank: Int[np.ndarray, "layer head"]
    low: Int[np.ndarray, "layer head"]
    high: Int[np.ndarray, "layer head"]


def rank_heads(effect: Float[np.ndarray, "layer head"]) -> Int[np.ndarray, "layer head"]:
    """Rank heads over the whole model: 1 = largest effect, each rank once.

    Ties go to the lower layer, then the lower head index; NaN effects come last.
    """
    effect = np.asarray(effect, dtype=np.float64)
    return rank_rows(effect.reshape(1, -1)).reshape(effect.shape)


def usual_top(n_heads: int) -> int:
    """Return how many heads count as the top of a ranking by default: a tenth of all, at least one."""
    return max(1, round(TOP_SHARE * n_heads))


def bootstrap_rank_intervals(
    effects: Float[np.ndarray, "layer head example"],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RankIntervals:
    """Return the percentile interval of each head's rank over resampled examples, reproducible by `seed`.

    With a single example the interval spans all ranks. Raises CapVizError if there are no examples.
    """
    check_level(level)
    if resamples < 1:
        raise UsageError(f"The number of resamples is {resamples}; it must be at least 1.")
    effects = np.asarray(effects, dtype=np.float64)
    *shape, n = effects.shape
    if n == 0:
        raise CapVizError("No examples: a rank interval needs at least one.")
    rank = rank_heads(effects.mean(axis=-1))
    if n == 1:
        return RankIntervals(rank, np.ones_like(rank), np.full_like(rank, rank.size))
    ranks = rank_rows(resampled_means(effects.reshape(-1, n), resamples, seed))
    tail = (1 - level) / 2
    low = np.quantile(ranks, tail, axis=0, method="lower").reshape(shape)
    high = np.quantile(ranks, 1 - tail, axis=0, method="higher").reshape(shape)
    return RankIntervals(rank, np.minimum(low, rank), np.maximum(high, rank))


def resampled_means(
    effects: Float[np.ndarray, "heads example"], resamples: int, seed: int
) -> Float[np.ndarray, "resample heads"]:
    """Return means over examples drawn with replacement; a resample counts the draws of each example."""
    n = effects.shape[-1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return counts @ effects.T / n


def rank_rows(values: Float[np.ndarray, "row heads"]) -> Int[np.ndarray, "row heads"]:
    """Rank within each row, 1 = largest, ties in column order."""
    order = np.argsort(-values, axis=-1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(1, values.shape[-1] + 1)[None, :], axis=-1)
    return ranks
