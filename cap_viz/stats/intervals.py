"""Intervals of one number: shares of successes, bootstrapped means.

Shares use Wilson's score interval (Wilson 1927). Bootstrapped means use the percentile interval: BCa is undefined for
nearly equal values and covers less often where differences are rare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import stats

from cap_viz._moved import names_of
from cap_viz.errors import CapVizError, UsageError

# The bootstrap holds [batch, example] values at a time: 8 MB of float64, whatever the number of examples.
BOOTSTRAP_BATCH_VALUES = 1_000_000

__getattr__ = names_of("cap_viz.stats.intervals", "stats.head_estimate")


@dataclass(frozen=True)
class Interval:
    """Lower and upper confidence limit of one number."""

    low: float
    high: float


@lru_cache(1024)
def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a share. Raises CapVizError unless 0 ≤ successes ≤ n and n ≥ 1."""
    check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise CapVizError(f"{successes} successes out of {n} is not a share: it needs at least one trial.")
    limits = stats.binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(limits.low), float(limits.high))


def bootstrap_mean_ci(
    values: Float[np.ndarray, " example"], *, level: float = 0.95, seed: int = 0, resamples: int = 5000
) -> Interval:
    """Return the percentile bootstrap interval of the mean, reproducible by `seed`.

    A single value or a NaN gives NaN limits, equal values an interval without width. Raises CapVizError if
    `values` is empty.
    """
    check_level(level)
    if resamples < 1:
        raise UsageError(f"The number of resamples is {resamples}; it must be at least 1.")
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise CapVizError("No values: a bootstrap interval needs at least one, better many.")
    if values.size == 1 or np.isnan(values).any():
        return Interval(float("nan"), float("nan"))
    limits = stats.bootstrap(
        (values,),
        np.mean,
        axis=-1,
        confidence_level=level,
        n_resamples=resamples,
        batch=max(1, BOOTSTRAP_BATCH_VALUES // values.size),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(limits.low), float(limits.high))


def check_level(level: float) -> None:
    """Raise UsageError unless 0 < `level` < 1."""
    if not 0 < level < 1:
        raise UsageError(f"The level is {level}; choose a value between 0 and 1.")
