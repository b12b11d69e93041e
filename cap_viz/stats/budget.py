"""Sample sizes of a hybrid run, exact (n) and gradient (N), chosen from a pilot and then fixed.

1. From the pilot's exact and gradient effects, compute for each head the slope of exact on gradient, the mean squared
   leave-one-out residual r², and the variance carried by the gradient, v = slope² times the gradient's variance. A run
   of n and N then has the half-width t(n - 2) · sqrt(r² / n + v / N).
2. Among the pairs (n, N) within the time budget, take the one with the smallest median half-width over heads; or take
   the cheapest pair that reaches a wanted median half-width.

Sizes are chosen once: measuring on until an interval is narrow enough gives intervals that cover too seldom.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from jaxtyping import Float
from scipy import stats

from cap_viz.errors import UsageError
from cap_viz.stats.hybrid import FEWEST_EXACT, check_shapes, fitted_line
from cap_viz.stats.intervals import check_level

MOST_EXACT = 512


@dataclass(frozen=True)
class Pilot:
    """Variance of an example's effect per head, as estimated from a pilot.

    `left` is the variance that the gradient does not explain, `carried` the variance that it explains.
    """

    total: Float[np.ndarray, "*head"]
    left: Float[np.ndarray, "*head"]
    carried: Float[np.ndarray, "*head"]

    def half_width(self, n: int, n_gradient: int, *, level: float = 0.95) -> Float[np.ndarray, "*head"]:
        """Return the expected half-width of the hybrid interval, in the metric's unit."""
        t = stats.t.ppf((1 + level) / 2, df=n - 2)
        return np.asarray(t * np.sqrt(self.left / n + self.carried / n_gradient))


@dataclass(frozen=True)
class ExampleCost:
    """Seconds per example of the exact and of the gradient estimator."""

    exact: float
    gradient: float

    def seconds(self, n: int, n_gradient: int) -> float:
        return n * self.exact + n_gradient * self.gradient


@dataclass(frozen=True)
class HybridPlan:
    """Sizes of a hybrid run with its expected cost and median half-width (in the metric's unit)."""

    n: int
    n_gradient: int
    seconds: float
    half_width: float


def pilot_of(exact: Float[np.ndarray, "*head example"], gradient: Float[np.ndarray, "*head example"]) -> Pilot:
    """Estimate variances from effects of the same examples, at least 16. Raises `UsageError` otherwise."""
    exact, gradient = np.asarray(exact, dtype=np.float64), np.asarray(gradient, dtype=np.float64)
    check_shapes(exact, gradient, gradient)
    line = fitted_line(exact, gradient, np.zeros(exact.shape[:-1]))
    return Pilot(
        total=np.asarray(exact.var(axis=-1, ddof=1)),
        left=np.asarray((line.left_out**2).mean(axis=-1)),
        carried=np.asarray(line.slope**2 * gradient.var(axis=-1, ddof=1)),
    )


def plan_for_seconds(
    pilot: Pilot, cost: ExampleCost, seconds: float, *, available: int, level: float = 0.95
) -> HybridPlan:
    """Choose the sizes with the narrowest median interval within a time budget and `available` examples.

    Raises `UsageError` when the time does not suffice for 16 examples of each kind.
    """
    check_level(level)
    plans = []
    for n in range(FEWEST_EXACT, min(MOST_EXACT, available) + 1):
        affordable = floor((seconds - n * cost.exact) / cost.gradient)
        if affordable >= n:
            plans.append(planned(pilot, cost, n, min(affordable, available), level))
    if not plans:
        least = cost.seconds(FEWEST_EXACT, FEWEST_EXACT)
        raise UsageError(f"{seconds:.0f} seconds do not suffice; the smallest hybrid run takes about {least:.0f}.")
    return min(plans, key=lambda plan: plan.half_width)


def plan_for_half_width(
    pilot: Pilot, cost: ExampleCost, half_width: float, *, available: int, level: float = 0.95
) -> HybridPlan:
    """Choose the cheapest sizes with an expected median half-width of at most `half_width`.

    Raises `UsageError` when the available examples do not suffice.
    """
    check_level(level)
    plans = []
    for n in range(FEWEST_EXACT, min(MOST_EXACT, available) + 1):
        if planned(pilot, cost, n, available, level).half_width <= half_width:
            low, high = n - 1, available
            while high - low > 1:
                middle = ceil((low + high) / 2)
                enough = planned(pilot, cost, n, middle, level).half_width <= half_width
                low, high = (low, middle) if enough else (middle, high)
            plans.append(planned(pilot, cost, n, high, level))
    if not plans:
        raise UsageError(
            f"A half-width of {half_width:.3g} cannot be reached with {available} examples, of which at most "
            f"{min(MOST_EXACT, available)} exactly."
        )
    return min(plans, key=lambda plan: plan.seconds)


def planned(pilot: Pilot, cost: ExampleCost, n: int, n_gradient: int, level: float) -> HybridPlan:
    width = float(np.median(pilot.half_width(n, n_gradient, level=level)))
    return HybridPlan(n=n, n_gradient=n_gradient, seconds=cost.seconds(n, n_gradient), half_width=width)
