"""Paired comparison of two models' losses on the same questions.

As in `paired`, losses are subtracted question by question; their mean difference has a bootstrap interval and a paired
t-test. `minimum_detectable` is the true difference that this test finds with 80 % power at
0.05: z·s/√n with s the standard deviation of the differences and z = 1.96 + 0.84.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from cap_viz.errors import CapVizError
from cap_viz.stats.intervals import Interval, bootstrap_mean_ci, mean_with_ci
from cap_viz.stats.paired import ALPHA, POWER


@dataclass(frozen=True)
class PairedMeans:
    """First model (a) against second (b) on the same `n` questions; everything but `p_value` in the losses' unit.

    `difference` is mean a minus mean b. With a single question only the means and their difference are known; the
    rest is NaN.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    ci: Interval
    p_value: float
    minimum_detectable: float


def compare_means(
    values_a: Float[np.ndarray, " example"],
    values_b: Float[np.ndarray, " example"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PairedMeans:
    """Compare two models by a loss, question by question, first minus second, reproducible by `seed`.

    Raises CapVizError if there are no questions or the two do not have the same number.
    """
    values_a, values_b = np.asarray(values_a, dtype=np.float64), np.asarray(values_b, dtype=np.float64)
    if values_a.shape != values_b.shape:
        raise CapVizError(
            f"A paired comparison needs the same questions on both sides, "
            f"but there are {values_a.size} and {values_b.size} losses."
        )
    if values_a.size == 0:
        raise CapVizError("No losses: a paired comparison needs at least one question.")
    differences = values_a - values_b
    estimate = mean_with_ci(differences, level=level)
    z = stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)
    return PairedMeans(
        n=differences.size,
        mean_a=float(values_a.mean()),
        mean_b=float(values_b.mean()),
        difference=float(estimate.mean),
        ci=bootstrap_mean_ci(differences, level=level, seed=seed),
        p_value=float(estimate.p_value),
        minimum_detectable=float(z * estimate.std_error),
    )
