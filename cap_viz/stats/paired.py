"""Paired comparison of two models on the same questions: accuracies or losses.

The two results of a question are correlated, so the comparison is paired. Accuracies: an exact McNemar test (McNemar
1947: of the questions that only one model answers correctly, is each model's share one half?). Losses: a paired t-test.
Both: a bootstrap interval of the mean difference per question.

`minimum_detectable` is the true difference that a two-sided test at 0.05 finds with 80 % power, z = 1.96 + 0.84:

- losses: z·s/√n, with s the standard deviation of the differences;
- accuracies: z·sqrt(d/n) with a share d of the n questions discordant (Connor 1987, without the small term in the
  squared difference). The discordance cannot be smaller than the difference, so it never falls below z²/n ≈ 7.8/n, even
  if no question was discordant. Above 1, nothing can be detected at this n.

With few discordant questions the interval can exclude 0 where the exact test does not reject (5 to 0 gives
p = 0.0625); then quote the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from cap_viz.errors import CapVizError
from cap_viz.stats.head_estimate import mean_with_ci
from cap_viz.stats.intervals import Interval, bootstrap_mean_ci, check_level
from cap_viz.stats.multiple import holm

ALPHA = 0.05
POWER = 0.8
Z_DETECTABLE = stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)


@dataclass(frozen=True)
class PairedComparison:
    """First model (a) against second (b) on the same `n` questions.

    `difference` is mean a minus mean b, of accuracies as shares or of losses; it, the means, `ci` and
    `minimum_detectable` share a unit. `p_value` is two-sided: McNemar's for accuracies, the paired t-test's for losses.
    `only_a` and `only_b` count the questions that only that model answers correctly; None for losses. For a single
    question the losses' `ci`, `p_value` and `minimum_detectable` are NaN.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    ci: Interval
    p_value: float
    minimum_detectable: float
    only_a: int | None = None
    only_b: int | None = None

    @property
    def is_clear(self) -> bool:
        """Return whether the test rejects equality at 0.05, by itself and not as one of a family."""
        return self.p_value < ALPHA

    @property
    def excludes_zero(self) -> bool:
        """Return whether the interval excludes 0, as it may although the test does not reject, and the reverse."""
        return self.ci.low > 0 or self.ci.high < 0


def compare_paired(
    correct_a: Bool[np.ndarray, " example"],
    correct_b: Bool[np.ndarray, " example"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models by right answers, question by question, first minus second, reproducible by `seed`.

    Raises CapVizError if there are no questions or the two do not have the same number.
    """
    correct_a, correct_b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    check_pairs(correct_a, correct_b, "answers")
    n = correct_a.size
    only_a = int((correct_a & ~correct_b).sum())
    only_b = int((correct_b & ~correct_a).sum())
    return PairedComparison(
        n=n,
        mean_a=float(correct_a.mean()),
        mean_b=float(correct_b.mean()),
        difference=(only_a - only_b) / n,
        ci=difference_ci(correct_a.astype(np.float64) - correct_b, level, seed),
        p_value=mcnemar(only_a, only_b),
        minimum_detectable=minimum_detectable(only_a + only_b, n),
        only_a=only_a,
        only_b=only_b,
    )


def compare_means(
    losses_a: Float[np.ndarray, " example"],
    losses_b: Float[np.ndarray, " example"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models by a loss, question by question, first minus second, reproducible by `seed`.

    Raises CapVizError if there are no questions or the two do not have the same number.
    """
    losses_a, losses_b = np.asarray(losses_a, dtype=np.float64), np.asarray(losses_b, dtype=np.float64)
    check_pairs(losses_a, losses_b, "losses")
    differences = losses_a - losses_b
    estimate = mean_with_ci(differences, level=level)
    return PairedComparison(
        n=differences.size,
        mean_a=float(losses_a.mean()),
        mean_b=float(losses_b.mean()),
        difference=float(estimate.mean),
        ci=bootstrap_mean_ci(differences, level=level, seed=seed),
        p_value=float(estimate.p_value),
        minimum_detectable=float(Z_DETECTABLE * estimate.std_error),
    )


def family_p(comparisons: Sequence[PairedComparison]) -> list[float]:
    """Return Holm's adjusted p-value of each comparison; all are one family, such as the rows of a table."""
    return holm(np.array([one.p_value for one in comparisons], dtype=np.float64)).tolist()


def check_pairs(first: np.ndarray, second: np.ndarray, noun: str) -> None:
    if first.shape != second.shape:
        raise CapVizError(
            f"A paired comparison needs the same questions on both sides, "
            f"but there are {first.size} and {second.size} {noun}."
        )
    if first.size == 0:
        raise CapVizError(f"No {noun}: a paired comparison needs at least one question.")


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the exact two-sided p from the discordant pairs; 1 if there are none."""
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b).pvalue)


def minimum_detectable(discordant: int, n: int) -> float:
    """Return the true difference of accuracies found with 80 % power at 0.05 (formula in the module docstring)."""
    return float(max(Z_DETECTABLE * sqrt(discordant) / n, Z_DETECTABLE**2 / n))


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
