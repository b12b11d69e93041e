"""Hybrid estimator: exact scores of n examples combined with gradient effects of N examples that include them.

No model is run and nothing is stored here: both parts are runs of their own, each useful alone, and the combination
(`stats/hybrid.py`) takes milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.attribution.results import EffectResult, GradientEffects, HeadScores, Tables
from cap_viz.errors import UsageError
from cap_viz.stats.budget import ExampleCost, HybridPlan, pilot_of, plan_for_half_width, plan_for_seconds
from cap_viz.stats.hybrid import HybridEstimate, Slope, check_combinable, hybrid_mean
from cap_viz.tasks.pairing import check_same_items, common_rows

# Columns of the table, as fields of the estimate.
ESTIMATE_COLUMNS = ("mean", "low", "high", "std_error", "p_value", "slope")


@dataclass(frozen=True, repr=False)
class HybridScores(EffectResult):
    """Mean effect of every head on `metric`, with its interval."""

    estimate: HybridEstimate
    metric: str

    @property
    def sample(self) -> str:
        return f"{self.n} examples exactly and {self.n_gradient} by gradient"

    @property
    def n(self) -> int:
        """Number of examples measured exactly."""
        return self.estimate.n

    @property
    def n_gradient(self) -> int:
        """Number of examples measured by gradient."""
        return self.estimate.n_gradient

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,)

    def estimated(self, metric: str) -> HybridEstimate:
        """Return the estimate. Raises `UsageError` for another metric than the one combined."""
        if metric != self.metric:
            raise UsageError(f"These hybrid scores are about metric {self.metric!r}, not {metric!r}.")
        return self.estimate

    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Table `heads`: one row per head with the fields of the estimate."""
        layer, head = (axis.ravel() for axis in np.indices(self.estimate.mean.shape))
        values = {name: getattr(self.estimate, name).ravel() for name in ESTIMATE_COLUMNS}
        return {"heads": pd.DataFrame({"layer": layer.astype(np.int16), "head": head.astype(np.int16), **values})}

    @classmethod
    def from_tables(cls, tables: Tables, *, metric: str, n: int, n_gradient: int) -> Self:
        table = tables["heads"]
        shape = [int(table[axis].to_numpy().max()) + 1 for axis in ("layer", "head")]
        values = {name: table[name].to_numpy().reshape(shape) for name in ESTIMATE_COLUMNS}
        return cls(HybridEstimate(**values, n=n, n_gradient=n_gradient), metric)

    def mean_effect(self, metric: str) -> Float[np.ndarray, "layer head"]:
        """Head score. Raises `UsageError` for another metric than the one combined."""
        return self.estimated(metric).mean


def hybrid_scores(exact: HeadScores, gradient: GradientEffects, *, slope: Slope = "fitted") -> HybridScores:
    """Combine exact scores and gradient effects on the gradient's metric.

    With mean and resample ablation both should take their values from the same reference examples. Raises
    `UsageError` where the exact examples are not among the gradient's, come from another task, or are fewer than 16.
    """
    check_combinable(gradient.metric)
    known = set(gradient.questions.ids)
    missing = [name for name in exact.questions.ids if name not in known]
    if missing:
        raise UsageError(
            f"Example {missing[0]!r} was measured exactly but not by its gradient ({len(missing)} of "
            f"{len(exact.questions)}); draw both sets with the same seed, the exact one smaller."
        )
    everything = gradient.effects(gradient.metric)
    _, places = common_rows(exact.questions.items, gradient.questions.items)
    estimate = hybrid_mean(exact.effects(gradient.metric), everything[..., places], everything, slope=slope)
    return HybridScores(estimate=estimate, metric=gradient.metric)


def plan_hybrid(
    exact: HeadScores,
    gradient: GradientEffects,
    cost: ExampleCost,
    *,
    available: int,
    seconds: float | None = None,
    half_width: float | None = None,
) -> HybridPlan:
    """Plan the sizes of a hybrid run from a pilot of at least 16 examples measured both ways; keep these in the run.

    Give either a time budget (`seconds`) or a median half-width of the interval (in the metric's unit). Raises
    `UsageError` unless exactly one is given, where it cannot be met with the `available` examples, or where the two
    parts of the pilot cover different examples.
    """
    check_same_items(exact.questions.items, gradient.questions.items)
    if (seconds is None) == (half_width is None):
        raise UsageError("Plan a hybrid run for a time or for a half-width of the interval: give one of the two.")
    pilot = pilot_of(exact.effects(gradient.metric), gradient.effects(gradient.metric))
    if seconds is not None:
        return plan_for_seconds(pilot, cost, seconds, available=available)
    assert half_width is not None
    return plan_for_half_width(pilot, cost, half_width, available=available)
