"""How many examples to measure exactly (n) and by gradient (N), judged from a pilot and then fixed.

1. From exact and gradient effects of the pilot's examples: for each head the slope of one on the other, what the line
   leaves of an example left out (r²), and what the gradient carries (v = slope² times its variance). A run of n and N
   then has the half-width t(n - 2) · sqrt(r² / n + v / N).
2. Among the pairs (n, N) whose cost is within the budget, the one with the smallest median half-width over heads; or
   the cheapest that reaches a wanted median half-width.

Sizes are chosen once: going on until an interval is narrow enough gives intervals that cover too seldom.
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
    """What a pilot says about each head: the variance of an example's effect, and how the gradient divides it.

    `left` is the variance the gradient does not explain, `carried` the part it does.
    """

    total: Float[np.ndarray, "*head"]
    left: Float[np.ndarray, "*head"]
    carried: Float[np.ndarray, "*head"]

    def half_width(self, n: int, n_gradient: int, *, level: float = 0.95) -> Float[np.ndarray, "*head"]:
        """Expected half-width of the hybrid interval."""
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
    """Judge a pilot; both arrays are about the same examples, at least 16. Raises `UsageError` otherwise."""
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
    """The narrowest median interval within a time budget; `available` is the number of examples there are.

    Raises `UsageError` where the time does not suffice for 16 examples of each kind.
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
    """The cheapest sizes whose median interval is expected to be no wider than `half_width` on either side.

    Raises `UsageError` where the available examples do not suffice.
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
