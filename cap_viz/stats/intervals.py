"""Point estimates with intervals: mean effects, shares of successes, bootstrapped means.

Mean effects use Student's t on the per-example differences, so the test is the paired t-test of ablated
against dense. Shares use Wilson's score interval (Wilson 1927). Bootstrapped means use the percentile
interval: BCa is undefined for nearly equal values and covers less often where differences are rare.

The t interval is computed here instead of by `scipy.stats.ttest_1samp`: that function warns on constant
columns, which heads without any effect produce, and `warnings.catch_warnings` is not safe beside the worker
thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from cap_viz.errors import CapVizError, UsageError

# The bootstrap holds [batch, example] values at a time: 8 MB of float64, whatever the number of examples.
BOOTSTRAP_BATCH_VALUES = 1_000_000


@dataclass(frozen=True)
class Interval:
    """Lower and upper confidence limit of one number."""

    low: float
    high: float


@dataclass(frozen=True)
class MeanEstimate:
    """Mean over examples with its t interval and two-sided test against zero; arrays have the heads' axes.

    `n` is the number of examples behind each mean. With n = 1 there is no uncertainty estimate:
    `low`, `high`, `std_error` and `p_value` are NaN.
    """

    mean: Float[np.ndarray, "*head"]
    low: Float[np.ndarray, "*head"]
    high: Float[np.ndarray, "*head"]
    std_error: Float[np.ndarray, "*head"]
    p_value: Float[np.ndarray, "*head"]
    n: int


def mean_with_ci(effects: Float[np.ndarray, "*head example"], *, level: float = 0.95) -> MeanEstimate:
    """Average over the last axis, in the effects' unit, for any leading axes (typically layer, head).

    Where all examples agree the interval has no width and the p-value is 1 if they are all zero, else 0.
    NaN effects make their head's numbers NaN. Raises CapVizError if there are no examples.
    """
    check_level(level)
    effects = np.asarray(effects, dtype=np.float64)
    n = effects.shape[-1]
    if n == 0:
        raise CapVizError("No examples: a mean effect needs at least one.")
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.asarray(effects.mean(axis=-1))
        std_error = standard_error(effects)
        margin = stats.t.ppf((1 + level) / 2, df=n - 1) * std_error
        p_value = 2 * stats.t.sf(np.abs(mean / std_error), df=n - 1)
        p_value = np.where((mean == 0) & (std_error == 0), 1.0, p_value)
    # A single head has zero axes, where numpy arithmetic returns scalars instead of arrays.
    return MeanEstimate(mean, np.asarray(mean - margin), np.asarray(mean + margin), std_error, p_value, n)


def standard_error(effects: Float[np.ndarray, "*head example"]) -> Float[np.ndarray, "*head"]:
    """Return the standard error of the mean over the last axis; NaN for a single example."""
    n = effects.shape[-1]
    if n == 1:
        return np.full(effects.shape[:-1], np.nan)
    std_error = effects.std(axis=-1, ddof=1) / np.sqrt(n)
    # Equal values can leave a rounding residue of about 1e-17, which must not count as variance.
    return np.where(np.ptp(effects, axis=-1) == 0, 0.0, std_error)


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
