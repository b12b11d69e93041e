"""Paired comparison of two models' accuracies on the same questions.

Answers to the same question are correlated, so the comparison is paired: an exact McNemar test (McNemar 1947: of
the questions that only one model answers correctly, is each model's share one half?), and a bootstrap interval of
the mean difference per question.

`minimum_detectable` is the true difference that a two-sided test at 0.05 finds with 80 % power. With n questions, a
share d of them discordant and z = 1.96 + 0.84, it is z·sqrt(d/n) (Connor 1987, without the small term in the
squared difference). The discordance cannot be smaller than the difference, so it never falls below z²/n ≈ 7.8/n,
even if no question was discordant. Above 1, nothing can be detected at this n.

With few discordant questions the interval can exclude 0 where the exact test does not reject (5 to 0 gives
p = 0.0625); then quote the test.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from cap_viz.errors import CapVizError
from cap_viz.stats.intervals import Interval, bootstrap_mean_ci, check_level

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class PairedComparison:
    """First model (a) against second (b) on the same `n` questions.

    `difference` is accuracy a minus accuracy b; `only_a` and `only_b` count the questions that only
    that model answers correctly; `p_value` is the exact two-sided McNemar p; `ci` and `minimum_detectable` are in
    the unit of `difference`.
    """

    n: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    ci: Interval
    p_value: float
    only_a: int
    only_b: int
    minimum_detectable: float


def compare_paired(
    correct_a: Bool[np.ndarray, " example"],
    correct_b: Bool[np.ndarray, " example"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models question by question, first minus second, reproducible by `seed`.

    Raises CapVizError if there are no questions or the two do not have the same number.
    """
    correct_a, correct_b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if correct_a.shape != correct_b.shape:
        raise CapVizError(
            f"A paired comparison needs the same questions on both sides, "
            f"but there are {correct_a.size} and {correct_b.size} answers."
        )
    if correct_a.size == 0:
        raise CapVizError("No answers: a paired comparison needs at least one question.")
    n = correct_a.size
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    return PairedComparison(
        n=n,
        accuracy_a=float(correct_a.mean()),
        accuracy_b=float(correct_b.mean()),
        difference=(only_a - only_b) / n,
        ci=difference_ci(correct_a.astype(np.float64) - correct_b, level, seed),
        p_value=mcnemar(only_a, only_b),
        only_a=only_a,
        only_b=only_b,
        minimum_detectable=minimum_detectable(only_a + only_b, n),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p from the discordant pairs; 1 if there are none."""
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def minimum_detectable(discordant: int, n: int) -> float:
    """Return the true difference found with 80 % power at 0.05 (formula in the module docstring)."""
    z = stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)
    return float(max(z * sqrt(discordant) / n, z**2 / n))


def difference_ci(differences: Float[np.ndarray, " example"], level: float, seed: int) -> Interval:
    """Return the bootstrap interval of the mean of differences that are -1, 0 or 1.

    If all are equal, the bootstrap would claim certainty. The Clopper-Pearson bound 1 - ((1 - level) / 2)^(1/n) on
    the probability that a further question differs is used instead.
    """
    check_level(level)
    common = float(differences[0])
    if np.ptp(differences) > 0:
        return bootstrap_mean_ci(differences, level=level, seed=seed)
    other = 1 - ((1 - level) / 2) ** (1 / differences.size)
    # A question that differs moves the mean by up to 1 either way from 0, by up to 2 inwards from -1 or 1.
    if common == 0:
        return Interval(-other, other)
    return Interval(*sorted((common, common * (1 - 2 * other))))
