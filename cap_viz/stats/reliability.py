"""Split-half reliability of the ranking of heads.

1. Split the examples into two random halves, average each head's effect in both, correlate over heads
   (Spearman).
2. Repeat over many splits and take the median.
3. A half is less reliable than the whole: Spearman-Brown (1910) projects a reliability r to k times as many
   examples as k·r / (1 + (k - 1)·r). Solved for k it gives the number of examples for a target.

Known deviation: Spearman-Brown is exact for Pearson correlations and approximate for ranks. For twice the
examples and normal effects the error is at most 0.003 (in the tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from cap_viz.errors import CapVizError, UsageError

FEWEST_EXAMPLES = 4


@dataclass(frozen=True)
class Reliability:
    """Agreement between rankings of heads from disjoint examples; NaN where all heads have the same effect.

    `split_half` is the median Spearman correlation between halves of `half` examples; 95 % of the splits lie
    between `low` and `high` (the spread over splits of these examples, not a confidence interval). `full` is
    the projection to all `n` examples.
    """

    n: int
    half: int
    splits: int
    split_half: float
    low: float
    high: float
    full: float

    def n_for(self, target: float) -> int | None:
        """Return the examples needed for a reliability of `target`; None where `split_half` is not positive."""
        if not 0 < target < 1:
            raise UsageError(f"The target reliability is {target}; choose a value between 0 and 1, such as 0.8.")
        if not self.split_half > 0:
            return None
        factor = target * (1 - self.split_half) / (self.split_half * (1 - target))
        # Rounded first, or 96.00000000000001 would ask for one example more.
        return max(1, ceil(round(self.half * factor, 6)))


def split_half(effects: Float[np.ndarray, "layer head example"], *, splits: int = 200, seed: int = 0) -> Reliability:
    """Estimate the reliability of the ranking by mean effect, reproducible by `seed`.

    With an odd number of examples each split leaves one out. Raises CapVizError below 4 examples or 2 heads.
    """
    effects = np.asarray(effects, dtype=np.float64)
    n = effects.shape[-1]
    half = n // 2
    flat = effects.reshape(-1, n)
    if n < FEWEST_EXAMPLES:
        raise CapVizError(f"Reliability needs at least {FEWEST_EXAMPLES} examples, but n = {n}.")
    if len(flat) < 2:
        raise CapVizError(f"Reliability compares rankings of heads and needs at least 2, not {len(flat)}.")
    if splits < 1:
        raise UsageError(f"The number of splits is {splits}; it must be at least 1.")
    order = shuffled_examples(n, splits, seed)
    first = subset_means(flat, order[:, :half])
    second = subset_means(flat, order[:, half : 2 * half])
    correlations = spearman_rows(first, second)
    low, median, high = (float(q) for q in np.quantile(correlations, (0.025, 0.5, 0.975)))
    return Reliability(n, half, splits, median, low, high, spearman_brown(median, n / half))


def spearman_brown(reliability: float, factor: float) -> float:
    """Project a reliability to `factor` times as many examples.

    A reliability of zero or less is returned unchanged: more examples of pure noise stay noise, and the
    formula has a pole below zero.
    """
    if reliability <= 0:
        return reliability
    return factor * reliability / (1 + (factor - 1) * reliability)


def shuffled_examples(n: int, splits: int, seed: int) -> Int[np.ndarray, "split example"]:
    """Draw one random order of the examples per split."""
    indices = np.tile(np.arange(n), (splits, 1))
    return np.random.default_rng(seed).permuted(indices, axis=1)


def subset_means(
    effects: Float[np.ndarray, "heads example"], subsets: Int[np.ndarray, "split chosen"]
) -> Float[np.ndarray, "split heads"]:
    """Average each head's effect over each subset of examples, by one matrix product."""
    weights = np.zeros((len(subsets), effects.shape[-1]))
    np.put_along_axis(weights, subsets, 1 / subsets.shape[-1], axis=1)
    return weights @ effects.T


def rank_correlation(first: Float[np.ndarray, " head"], second: Float[np.ndarray, " head"]) -> float:
    """Return Spearman's correlation of two sets of values for the same heads."""
    return float(spearman_rows(first[None], second[None])[0])


def spearman_rows(
    first: Float[np.ndarray, "split heads"], second: Float[np.ndarray, "split heads"]
) -> Float[np.ndarray, " split"]:
    """Compute Spearman's correlation row by row; NaN for a constant row, where scipy's pearsonr would warn."""
    a, b = (centred_ranks(values) for values in (first, second))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))


def centred_ranks(values: Float[np.ndarray, "split heads"]) -> Float[np.ndarray, "split heads"]:
    """Rank within each row, ties averaged, centred to mean zero."""
    return stats.rankdata(values, axis=1) - (values.shape[1] + 1) / 2
