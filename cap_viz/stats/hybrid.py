"""Hybrid estimate of mean effects: exact effects on a few examples combined with gradient effects on many.

Two-phase regression sampling (Cochran, Sampling Techniques, ch. 12; prediction-powered inference, arXiv 2311.01453):
the exact effects D of n examples are corrected by the difference between the mean gradient effects G of the same
examples and of N examples drawn the same way, which include the n:

    S = mean_n(D) - b * (mean_n(G) - mean_N(G))

1. b is the least-squares slope of D on G over the n examples, for each head; 0 where the line does not predict a
   left-out example better than the mean (its mean squared leave-one-out residual is not below the variance of D).
   With `slope="one"` b = 1 for every head and S is unbiased at any n; a fitted slope leaves a bias of order 1/n.
2. Variance = HC3 variance of the regression at mean_N(G) (squared residuals over (1 - leverage)², close to the
   jackknife) + variance carried by the N examples, (b² var_N(G) + 2 b cov_n(residual, G)) / N. The covariance is zero
   for a fitted slope; a negative sum counts as zero.
3. Interval and test use Student's t with n - 2 degrees of freedom, for every head whatever its slope.

Simpler intervals are too narrow at these n (95 % ones cover .84 to .92 with plug-in residuals or a shrunken slope).
Heads with a few extreme effects are covered less often than others: quote the distribution over heads.

Accuracy has no gradient, so there is no hybrid estimate of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from cap_viz.errors import UsageError, choose
from cap_viz.stats.head_estimate import HeadEstimate, student_t
from cap_viz.stats.intervals import check_level

FEWEST_EXACT = 16
# Above this leverage the other examples determine no line to predict from.
FULL_LEVERAGE = 1 - 1e-9
Slope = Literal["fitted", "one"]
SLOPES: tuple[Slope, ...] = ("fitted", "one")


@dataclass(frozen=True)
class HybridEstimate(HeadEstimate):
    """Hybrid mean effects: `n` examples measured exactly, `n_gradient` by gradient, combined with b = `slope`."""

    slope: Float[np.ndarray, "*head"]
    n_gradient: int


@dataclass(frozen=True)
class Line:
    """Regression line per head: slope, and residual, leverage and weight of each of the n examples."""

    slope: Float[np.ndarray, "*head"]
    residual: Float[np.ndarray, "*head example"]
    leverage: Float[np.ndarray, "*head example"]
    weight: Float[np.ndarray, "*head example"]

    @property
    def left_out(self) -> Float[np.ndarray, "*head example"]:
        """Return the residual of each example under the line fitted to the others."""
        usable = self.leverage < FULL_LEVERAGE
        return np.where(usable, self.residual / np.where(usable, 1 - self.leverage, 1.0), np.inf)


def hybrid_mean(
    exact: Float[np.ndarray, "*head example"],
    gradient: Float[np.ndarray, "*head example"],
    gradient_all: Float[np.ndarray, "*head large"],
    *,
    level: float = 0.95,
    slope: Slope = "fitted",
) -> HybridEstimate:
    """Combine exact and gradient effects of the same n examples with the gradient effects of all N.

    The n are a random part of the N, so `gradient_all` includes them. Raises `UsageError` for n < 16, N < n,
    mismatched shapes or an unknown slope.
    """
    check_level(level)
    exact, gradient, gradient_all = (np.asarray(a, dtype=np.float64) for a in (exact, gradient, gradient_all))
    check_shapes(exact, gradient, gradient_all)
    slope_named(slope)
    n, n_gradient = exact.shape[-1], gradient_all.shape[-1]
    shift = np.asarray(gradient.mean(axis=-1) - gradient_all.mean(axis=-1))
    line = fixed_line(exact, gradient, 1.0) if slope == "one" else fitted_line(exact, gradient, shift)
    carried = line.slope**2 * gradient_all.var(axis=-1, ddof=1) + 2 * line.slope * covariance(line.residual, gradient)
    variance = (line.weight**2 * line.left_out**2).sum(axis=-1) + np.maximum(carried, 0) / n_gradient
    mean, std_error = np.asarray(exact.mean(axis=-1) - line.slope * shift), np.asarray(np.sqrt(variance))
    low, high, p_value = student_t(mean, std_error, n - 2, level)
    return HybridEstimate(mean, low, high, std_error, p_value, n, line.slope, n_gradient)


def fitted_line(
    exact: Float[np.ndarray, "*head example"],
    gradient: Float[np.ndarray, "*head example"],
    shift: Float[np.ndarray, "*head"],
) -> Line:
    """Fit least squares for each head; slope 0 where the line does not predict left-out examples better."""
    flat = fixed_line(exact, gradient, 0.0)
    centred = gradient - gradient.mean(axis=-1, keepdims=True)
    spread = (centred**2).sum(axis=-1)
    usable = np.where(spread > 0, spread, 1.0)
    slope = np.asarray((flat.residual * centred).sum(axis=-1) / usable)
    n = exact.shape[-1]
    line = Line(
        slope=slope,
        residual=flat.residual - slope[..., None] * centred,
        leverage=1 / n + centred**2 / usable[..., None],
        weight=1 / n - (shift / usable)[..., None] * centred,
    )
    helps = (spread > 0) & ((line.left_out**2).mean(axis=-1) < exact.var(axis=-1, ddof=1))
    each = helps[..., None]
    return Line(
        slope=np.where(helps, line.slope, 0.0),
        residual=np.where(each, line.residual, flat.residual),
        leverage=np.where(each, line.leverage, flat.leverage),
        weight=np.where(each, line.weight, flat.weight),
    )


def fixed_line(
    exact: Float[np.ndarray, "*head example"], gradient: Float[np.ndarray, "*head example"], slope: float
) -> Line:
    difference = exact - slope * gradient
    even = np.full(exact.shape, 1 / exact.shape[-1])
    return Line(
        slope=np.full(exact.shape[:-1], slope),
        residual=difference - difference.mean(axis=-1, keepdims=True),
        leverage=even,
        weight=even,
    )


def covariance(
    residual: Float[np.ndarray, "*head example"], gradient: Float[np.ndarray, "*head example"]
) -> Float[np.ndarray, "*head"]:
    centred = gradient - gradient.mean(axis=-1, keepdims=True)
    return np.asarray((residual * centred).sum(axis=-1) / (gradient.shape[-1] - 1))


def check_shapes(exact: np.ndarray, gradient: np.ndarray, gradient_all: np.ndarray) -> None:
    if exact.shape != gradient.shape or exact.shape[:-1] != gradient_all.shape[:-1]:
        raise UsageError(
            f"The hybrid estimator combines effects of the same heads, and exact with gradient effects of the same "
            f"examples; the shapes are {exact.shape}, {gradient.shape} and {gradient_all.shape}."
        )
    check_sizes(exact.shape[-1], gradient_all.shape[-1])


def check_sizes(n: int, n_gradient: int) -> None:
    """Raise `UsageError` for sizes at which the interval is not valid."""
    if n < FEWEST_EXACT:
        raise UsageError(
            f"The hybrid estimator needs at least {FEWEST_EXACT} exactly measured examples for an honest interval, "
            f"but n = {n}."
        )
    if n_gradient < n:
        raise UsageError(
            f"The hybrid estimator needs gradient effects on more examples than exact ones, but there are "
            f"{n_gradient} and {n}."
        )


def slope_named(name: str) -> Slope:
    """Return the slope of that name. Raises `UsageError`, listing the choices, for an unknown one."""
    return choose("slope", name, SLOPES)


def check_combinable(metric: str) -> None:
    """Raise `UsageError` for a metric without a gradient."""
    if metric == "accuracy":
        raise UsageError(
            "Accuracy has no gradient, so the hybrid estimator cannot be used for it; choose nll, choice_nll or "
            "logit_diff, or the exact estimator."
        )
