"""Exact test of accuracy against guessing.

Under the null hypothesis the model picks one of the K options of each question at random, so the number of
correct answers is Poisson-binomial with probabilities 1/K (K may differ between questions). Its distribution
is computed exactly:

1. questions with the same guessing probability form a binomial;
2. the binomials are convolved;
3. the p-value is the mass at or above the observed number (one-sided).

`scipy.stats.poisson_binom` is not used, because its upper tail is 1 - cdf: it reports 1e-15 where the true value
is 1e-120.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats.intervals import Interval, wilson

CLEAR = 0.05


@dataclass(frozen=True)
class ChanceTest:
    """Accuracy on `n` questions against guessing; `chance` is the expected accuracy of guessing."""

    n: int
    accuracy: float
    ci: Interval
    chance: float
    p_value: float

    @property
    def clearly_above(self) -> bool:
        """Return whether guessing reaches this accuracy with probability below 0.05."""
        return self.p_value < CLEAR


def above_chance(
    correct: Bool[np.ndarray, " example"],
    n_options: Int[np.ndarray, " example"],
    *,
    level: float = 0.95,
    majority: float = 0.0,
) -> ChanceTest:
    """Test accuracy against guessing, with a Wilson interval at `level` for the accuracy.

    `majority` is the share of the most frequent answer, for tasks where always giving it beats 1/K (yes/no
    questions): a guesser then takes the better of the two. Raises CapVizError for empty or unequal input.
    """
    correct = np.asarray(correct, dtype=bool)
    n_options = np.asarray(n_options)
    if correct.size == 0:
        raise CapVizError("No answers: a test against chance needs at least one question.")
    if correct.shape != n_options.shape:
        raise CapVizError(f"There are {correct.size} answers but {n_options.size} numbers of options.")
    if n_options.min() < 1:
        raise CapVizError(f"A question has {n_options.min()} options; each needs at least one.")
    if not 0 <= majority <= 1:
        raise UsageError(f"The share of the majority answer is {majority}; it lies between 0 and 1.")
    guess = guessing_floor(n_options, majority)
    hits = int(correct.sum())
    return ChanceTest(
        n=correct.size,
        accuracy=float(correct.mean()),
        ci=wilson(hits, correct.size, level=level),
        chance=float(guess.mean()),
        p_value=float(min(1.0, hits_distribution(guess)[hits:].sum())),
    )


def guessing_floor(n_options: Int[np.ndarray, " example"], majority: float = 0.0) -> Float[np.ndarray, " example"]:
    """Return the probability of guessing each question right: 1/K, or `majority` where that is more."""
    return np.maximum(1 / n_options, majority)


def hits_distribution(guess: Float[np.ndarray, " example"]) -> Float[np.ndarray, " hits"]:
    """Return the probabilities of 0 to n hits, each question being hit independently with its own probability."""
    mass = np.ones(1)
    for probability, count in zip(*np.unique(guess, return_counts=True), strict=True):
        mass = np.convolve(mass, stats.binom.pmf(np.arange(count + 1), count, probability))
    return mass
