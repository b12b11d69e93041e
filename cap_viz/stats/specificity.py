"""Task specificity: heads that matter more for a task than for a control text.

Effects on a task and on a control text differ in unit, spread and number of examples, so both runs are first brought
to a common scale, then subtracted head by head:

1. Standardised effect z(h) = mean effect(h) / σ. σ is the standard deviation over heads of the *true* mean effects:
   σ² = V - (v - V) / (n - 1), with V the variance over heads of the mean effects and v the variance over heads of one
   example's effects, averaged over examples. The subtracted term is the variance that n noisy examples add; without
   it a run on few examples would have small standardised effects, and every head of a run on many would look
   specific. Effects are not centred: z = 0 means that removing the head changes nothing.
2. Specificity S(h) = z_task(h) - z_control(h), in standard deviations over heads.
3. Uncertainty: the examples of each run are resampled separately (bootstrap, σ recomputed in every resample). The
   standard error adds the two variances, each times n / (n - 1), since resampling n values understates their
   variance by that factor; the interval is S ± t · SE with Welch's degrees of freedom. A percentile interval would
   be too narrow for 16 examples, and its p-values too coarse to be corrected for hundreds of heads.
4. Benjamini-Hochberg over the heads (`HeadEstimate.q_value`).

A resample contains the noise of n examples twice: that of the data and that of drawing from them. The resampled σ,
corrected for the drawing alone, therefore estimates sqrt(V), and resampled effects are multiplied by sqrt(V) / σ to be
on the scale of z. In a resample σ² is kept above V / 10: a divisor near zero would make the effects meaningless.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from jaxtyping import Float
from scipy import stats

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats.head_estimate import HeadEstimate, student_t
from cap_viz.stats.intervals import check_level
from cap_viz.stats.ranking import rank_heads
from cap_viz.stats.reliability import FEWEST_EXAMPLES, rank_correlation

LEAST_SIGNAL = 0.1

# Of the run itself, or one per resample.
Variance = float | Float[np.ndarray, " resample"]


@dataclass(frozen=True)
class Specificity(HeadEstimate):
    """Standardised effect on the task minus that on the control text, in standard deviations over heads.

    `task` and `control` are the two standardised effects, `task_scale` and `control_scale` their divisors σ in the unit
    of the effects, `n_task` and `n_control` the examples of each run (`n` counts both). Rank 1 is most specific.
    """

    task: Float[np.ndarray, "layer head"]
    control: Float[np.ndarray, "layer head"]
    task_scale: float
    control_scale: float
    n_task: int
    n_control: int


@dataclass(frozen=True)
class TopOverlap:
    """Number of heads shared by the first `k` of two rankings, against two random rankings of `n_heads`.

    `p_value` is the probability of sharing at least as many by chance (hypergeometric, one-sided).
    """

    k: int
    n_heads: int
    shared: int
    expected: float
    p_value: float


@dataclass(frozen=True)
class RankAgreement:
    """Spearman correlation of two runs' mean effects over heads, and its maximum under their noise.

    `ceiling` is the expected correlation of identical true rankings: the root of the product of both reliabilities
    (Spearman 1904). NaN where a reliability is unknown or not positive. It is an estimate: `correlation` may exceed it.
    """

    correlation: float
    ceiling: float


def specificity(
    task: Float[np.ndarray, "layer head example"],
    control: Float[np.ndarray, "layer head other_example"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Specificity:
    """Subtract standardised control effects from standardised task effects, head by head; reproducible by `seed`.

    Raises `CapVizError` when the heads differ, when a run has fewer than 4 examples, or when its examples hardly
    distinguish the heads (at most a tenth of the variance over heads is signal).
    """
    check_level(level)
    if resamples < 2:
        raise UsageError(f"The number of resamples is {resamples}; it must be at least 2.")
    task, control = np.asarray(task, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if task.shape[:-1] != control.shape[:-1]:
        raise CapVizError(
            f"Specificity compares the same heads, but there are {task.shape[:-1]} and {control.shape[:-1]}."
        )
    random = np.random.default_rng(seed)
    first, second = (standardised(effects, resamples, random) for effects in (task, control))
    difference = first.z - second.z
    variance = first.variance + second.variance
    std_error = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        # NaN for heads without any variance, such as heads without effect on either text.
        freedom = variance**2 / (first.variance**2 / (first.n - 1) + second.variance**2 / (second.n - 1))
    low, high, p_value = student_t(difference, std_error, freedom, level)
    return Specificity(
        mean=difference,
        low=low,
        high=high,
        std_error=std_error,
        p_value=p_value,
        n=first.n + second.n,
        task=first.z,
        control=second.z,
        task_scale=first.scale,
        control_scale=second.scale,
        n_task=first.n,
        n_control=second.n,
    )


@dataclass(frozen=True)
class Standardised:
    """One run of `n` examples on the common scale: standardised effects, their sampling variance and the divisor σ."""

    z: Float[np.ndarray, "layer head"]
    variance: Float[np.ndarray, "layer head"]
    scale: float
    n: int


def standardised(
    effects: Float[np.ndarray, "layer head example"], resamples: int, random: np.random.Generator
) -> Standardised:
    """Divide mean effects by their true spread σ, with bootstrap variances."""
    scale = true_spread(effects)
    *shape, n = effects.shape
    flat = effects.reshape(-1, n)
    mean, spread = flat.mean(axis=1), flat.var(axis=0, ddof=1)
    total = mean.var(ddof=1)
    counts = random.multinomial(n, np.full(n, 1 / n), size=resamples) / n
    means = counts @ flat.T
    totals = means.var(axis=1, ddof=1)
    signals = np.maximum(signal_variance(totals, counts @ spread, n), LEAST_SIGNAL * totals)
    # A resample of one example only, drawn n times, may have no spread at all when that example has none.
    drawn = signals > 0
    z = means[drawn] / np.sqrt(signals[drawn])[:, None] * (sqrt(total) / scale)
    variance = z.var(axis=0, ddof=1) * n / (n - 1)
    return Standardised((mean / scale).reshape(shape), variance.reshape(shape), scale, n)


def true_spread(effects: Float[np.ndarray, "layer head example"]) -> float:
    """Estimate σ, the standard deviation over heads of the true mean effects (step 1).

    Raises `CapVizError` for fewer than 4 examples or 2 heads, or when the examples hardly distinguish the heads.
    """
    n = effects.shape[-1]
    flat = np.asarray(effects, dtype=np.float64).reshape(-1, n)
    if n < FEWEST_EXAMPLES:
        raise CapVizError(f"Specificity needs at least {FEWEST_EXAMPLES} examples in each run, but n = {n}.")
    if len(flat) < 2:
        raise CapVizError("Specificity compares heads with each other and needs at least 2.")
    total = flat.mean(axis=1).var(ddof=1)
    signal = signal_variance(total, flat.var(axis=0, ddof=1).mean(), n)
    if not signal > LEAST_SIGNAL * total:
        raise CapVizError(
            f"{n} examples hardly tell these heads apart, so their effects have no scale to compare on; measure more."
        )
    return sqrt(signal)


def signal_variance(total: Variance, spread: Variance, n: int) -> Variance:
    """Return the variance over heads without the part added by n noisy examples (formula in the module docstring)."""
    return total - (spread - total) / (n - 1)


def top_overlap(first: Float[np.ndarray, "layer head"], second: Float[np.ndarray, "layer head"], k: int) -> TopOverlap:
    """Count the heads among the `k` largest effects of both. Raises `UsageError` unless 1 ≤ k ≤ number of heads."""
    n_heads = first.size
    if not 1 <= k <= n_heads:
        raise UsageError(f"The top {k} of {n_heads} heads do not exist; choose 1 to {n_heads}.")
    shared = int(((rank_heads(first) <= k) & (rank_heads(second) <= k)).sum())
    p_value = float(stats.hypergeom.sf(shared - 1, n_heads, k, k))
    return TopOverlap(k=k, n_heads=n_heads, shared=shared, expected=k * k / n_heads, p_value=p_value)


def rank_agreement(
    first: Float[np.ndarray, "layer head"],
    second: Float[np.ndarray, "layer head"],
    first_reliability: float,
    second_reliability: float,
) -> RankAgreement:
    """Correlate two runs' mean effects over heads; the reliabilities come from `split_half(...).full`."""
    correlation = rank_correlation(first.ravel(), second.ravel())
    known = first_reliability > 0 and second_reliability > 0
    return RankAgreement(correlation, sqrt(first_reliability * second_reliability) if known else nan)
