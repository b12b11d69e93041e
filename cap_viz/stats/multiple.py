"""Corrections for testing many heads at once.

`false_discovery` bounds the expected share of false finds among the heads called non-zero (Benjamini and Hochberg 1995,
under independence or positive dependence). `holm` (1979) bounds the probability of even one false find. A NaN p-value
(a head with one example) does not count as a test and stays NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy import stats

PValues = Float[np.ndarray, "*head"]


def false_discovery(p_values: PValues) -> PValues:
    """Return adjusted p-values, same shape: of the heads with at most q, an expected share of q are false finds."""
    return adjust(p_values, stats.false_discovery_control)


def holm(p_values: PValues) -> PValues:
    """Return Holm's adjusted p-values, same shape: all finds at 0.05 hold jointly with probability 0.95."""
    return adjust(p_values, holm_flat)


def holm_flat(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Step down: multiply each p by the number of tests not yet passed, never going below the one before it."""
    order = np.argsort(p_values, kind="stable")
    remaining = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * remaining))
    return adjusted


def adjust(p_values: PValues, correction: Callable[[np.ndarray], np.ndarray]) -> PValues:
    """Apply a correction of flat p-values to those that are not NaN."""
    p_values = np.asarray(p_values, dtype=np.float64)
    tested = ~np.isnan(p_values)
    adjusted = np.full(p_values.shape, np.nan)
    if tested.any():
        adjusted[tested] = correction(p_values[tested])
    return adjusted
