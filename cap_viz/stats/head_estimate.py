"""Mean effect per head with interval and test: the result of every estimator of head effects.

Intervals and tests use Student's t on the per-example effects, so that the test is the paired t-test of ablated against
dense. They are computed here instead of by `scipy.stats.ttest_1samp`: that function warns on constant columns, which
heads without any effect produce, and `warnings.catch_warnings` is not safe beside the worker thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from cap_viz.errors import CapVizError
from cap_viz.stats.intervals import check_level
from cap_viz.stats.multiple import false_discovery
from cap_viz.stats.ranking import rank_heads

FALSE_DISCOVERY_RATE = 0.05


@dataclass(frozen=True)
class HeadEstimate:
    """Mean effect of every head with its interval and two-sided test against zero; arrays have the heads' axes.

    `n` is the number of examples behind each mean. With n = 1 there is no uncertainty estimate: `low`, `high`,
    `std_error` and `p_value` are NaN. Effects of whole layers have the axes [layer, part], those of a single set of
    heads none.
    """

    mean: Float[np.ndarray, "*head"]
    low: Float[np.ndarray, "*head"]
    high: Float[np.ndarray, "*head"]
    std_error: Float[np.ndarray, "*head"]
    p_value: Float[np.ndarray, "*head"]
    n: int

    @cached_property
    def rank(self) -> Int[np.ndarray, "layer head"]:
        """Rank of each head over the whole model, 1 = largest effect (`rank_heads`)."""
        return rank_heads(self.mean)

    @cached_property
    def q_value(self) -> Float[np.ndarray, "*head"]:
        """P-values corrected for the number of heads (Benjamini-Hochberg)."""
        return false_discovery(self.p_value)

    @property
    def survives(self) -> Bool[np.ndarray, "*head"]:
        """Whether each head survives the false-discovery control at 0.05."""
        return np.asarray(self.q_value <= FALSE_DISCOVERY_RATE)

    @property
    def unclear(self) -> Bool[np.ndarray, "*head"]:
        """Whether each interval includes zero, or is unknown because there is a single example."""
        return np.asarray(~((self.low > 0) | (self.high < 0)))

    @property
    def top_head(self) -> tuple[int, int]:
        """(layer, head) of rank 1."""
        return self.top_heads(1)[0]

    def top_heads(self, k: int) -> list[tuple[int, int]]:
        """Return (layer, head) of the first `k` heads by rank."""
        order = np.argsort(self.rank, axis=None)[:k]
        return [divmod(int(place), self.rank.shape[1]) for place in order]

    def columns(self, quantity: str = "mean_effect") -> dict[str, np.ndarray]:
        """Return the columns of a table with one row per head, in layer order; `quantity` names the mean."""
        layer, head = np.indices(self.mean.shape)
        columns = {
            "layer": layer,
            "head": head,
            quantity: self.mean,
            "ci_low": self.low,
            "ci_high": self.high,
            "p_value": self.p_value,
            "q_value": self.q_value,
            "survives_fdr": self.survives,
            "rank": self.rank,
        }
        return {name: values.ravel() for name, values in columns.items()}


def mean_with_ci(effects: Float[np.ndarray, "*head example"], *, level: float = 0.95) -> HeadEstimate:
    """Average over the last axis, in the effects' unit, for any leading axes (typically layer, head).

    Where all examples agree the interval has no width and the p-value is 1 if they are all zero, else 0.
    NaN effects make their head's numbers NaN. Raises CapVizError if there are no examples.
    """
    check_level(level)
    effects = np.asarray(effects, dtype=np.float64)
    n = effects.shape[-1]
    if n == 0:
        raise CapVizError("No examples: a mean effect needs at least one.")
    # A single head has zero axes, where numpy arithmetic returns scalars instead of arrays.
    mean, std_error = np.asarray(effects.mean(axis=-1)), standard_error(effects)
    low, high, p_value = student_t(mean, std_error, n - 1, level)
    return HeadEstimate(mean, low, high, std_error, p_value, n)


def standard_error(effects: Float[np.ndarray, "*head example"]) -> Float[np.ndarray, "*head"]:
    """Return the standard error of the mean over the last axis; NaN for a single example."""
    n = effects.shape[-1]
    if n == 1:
        return np.full(effects.shape[:-1], np.nan)
    std_error = effects.std(axis=-1, ddof=1) / np.sqrt(n)
    # Equal values can leave a rounding residue of about 1e-17, which must not count as variance.
    return np.where(np.ptp(effects, axis=-1) == 0, 0.0, std_error)


def student_t(
    mean: Float[np.ndarray, "*head"],
    std_error: Float[np.ndarray, "*head"],
    freedom: int | Float[np.ndarray, "*head"],
    level: float,
) -> tuple[Float[np.ndarray, "*head"], Float[np.ndarray, "*head"], Float[np.ndarray, "*head"]]:
    """Return the lower and upper limit of Student's interval and the two-sided p-value against zero.

    A mean without any error has an interval without width, and p = 1 if it is zero, else 0.
    """
    certain = std_error == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = stats.t.ppf((1 + level) / 2, df=freedom) * std_error
        p_value = 2 * stats.t.sf(np.abs(mean / std_error), df=freedom)
    margin = np.where(certain, 0.0, margin)
    p_value = np.where(certain, np.where(mean == 0, 1.0, 0.0), p_value)
    return np.asarray(mean - margin), np.asarray(mean + margin), p_value
