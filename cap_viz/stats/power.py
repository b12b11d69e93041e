"""What a run of n examples could have seen: the smallest true mean effect found with a given power.

The paired t-test of ablated against dense rejects with probability `power` when the true mean is `factor` standard
errors from zero. Under that alternative the statistic has a noncentral t distribution with noncentrality `factor`,
which is solved for numerically; the normal approximation (1.96 + 0.84) is 10 % too small at n = 16. With the
examples' standard deviation s, the minimum detectable effect at n is factor(n) · s / sqrt(n).

Testing many heads costs power: pass `alpha` divided by the number of heads for a bound that holds for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil

import numpy as np
from jaxtyping import Float
from scipy import special, stats

from cap_viz.errors import CapVizError, UsageError

ALPHA = 0.05
POWER = 0.8
MOST_EXAMPLES = 1_000_000


def minimum_detectable_effect(
    effects: Float[np.ndarray, "*head example"],
    *,
    n: int | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
) -> Float[np.ndarray, "*head"]:
    """Smallest true mean effect of each head that n examples detect, in the effects' unit.

    The spread is taken from `effects`, a pilot or the run itself; `n` is the planned number of examples (its own where
    left out). A head whose effects are all equal gets 0. Raises CapVizError below 2 examples.
    """
    effects = np.asarray(effects, dtype=np.float64)
    if effects.shape[-1] < 2:
        raise CapVizError(f"The spread of effects needs at least 2 examples, but there is {effects.shape[-1]}.")
    planned = effects.shape[-1] if n is None else n
    spread = np.where(np.ptp(effects, axis=-1) == 0, 0.0, effects.std(axis=-1, ddof=1))
    return np.asarray(detectable_factor(planned, alpha, power) * spread / np.sqrt(planned))


def examples_needed(effect: float, spread: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """Number of examples that detect a true mean `effect` when single examples spread by `spread`.

    Raises `UsageError` unless both are positive, or where more than a million would be needed.
    """
    if not (effect > 0 and spread > 0):
        raise UsageError(f"An effect of {effect} with spread {spread}: both must be positive.")
    low, high = 2, 2
    while detectable_factor(high, alpha, power) * spread / np.sqrt(high) > effect:
        low, high = high, 2 * high
        if high > MOST_EXAMPLES:
            raise UsageError(f"An effect of {effect} with spread {spread} needs more than {MOST_EXAMPLES:,} examples.")
    while high - low > 1:
        middle = ceil((low + high) / 2)
        enough = detectable_factor(middle, alpha, power) * spread / np.sqrt(middle) <= effect
        low, high = (low, middle) if enough else (middle, high)
    return high


@lru_cache(maxsize=512)
def detectable_factor(n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """Distance of the true mean from zero, in standard errors, at which the two-sided t-test has this power."""
    if n < 2:
        raise UsageError(f"n = {n}: a test needs at least 2 examples.")
    if not 0 < alpha < power < 1:
        raise UsageError(f"alpha = {alpha} and power = {power}: choose 0 < alpha < power < 1.")
    limit = float(stats.t.ppf(1 - alpha / 2, n - 1))

    def shortfall(distance: float) -> float:
        # The squared statistic has a noncentral F distribution, which scipy computes where its noncentral t is NaN.
        return 1 - special.ncfdtr(1, n - 1, distance**2, limit**2) - power

    # Twice the sum of the two quantiles is beyond the answer at every n.
    return bisect(shortfall, 0.0, 2 * (limit + float(stats.t.ppf(power, n - 1))))


def bisect(increasing: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses zero between `low` and `high`."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return float(high)
