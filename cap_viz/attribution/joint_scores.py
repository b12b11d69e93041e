"""Log-likelihoods with whole sets of heads removed: the result of `joint_ablation.py`, which needs no torch to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.attribution.effect_metrics import metric_named
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import (
    AboutQuestions,
    EvalReport,
    Questions,
    Tables,
    options_table,
    values_from,
    values_table,
)
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks.base import TaskVersion

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Heads that a set is named by.
MOST_NAMED = 4


@dataclass(frozen=True, repr=False)
class JointScores(AboutQuestions, Result):
    """Log-likelihood of every option with each set of heads removed; NaN where an option does not exist.

    The empty set stands for the untouched model.
    """

    questions: Questions
    sets: tuple[HeadSet, ...]
    ablated: Float[np.ndarray, "set example option"]

    @property
    def removed(self) -> tuple[int, ...]:
        """Numbers of the sets that are not empty."""
        return tuple(number for number, heads in enumerate(self.sets) if heads)

    def losses(self, metric: str) -> Float[np.ndarray, "set example"]:
        return metric_named(metric)(self.ablated, self.questions.gold, self.questions.tokens)

    def effects(self, metric: str) -> Float[np.ndarray, "set example"]:
        """Loss with the set removed minus the untouched model's: positive means the set helps."""
        losses = self.losses(metric)
        return losses - losses[self.sets.index(())]

    def estimated(self, metric: str) -> HeadEstimate:
        """Return the mean effects of the sets in `removed`, with their 95 % intervals and tests against zero."""
        return mean_with_ci(self.effects(metric)[list(self.removed)])

    @property
    def headline(self) -> str:
        sizes = sorted({len(self.sets[number]) for number in self.removed})
        heads = f"{' or '.join(map(str, sizes))} {'head' if sizes == [1] else 'heads'}"
        return f"{len(self.removed)} sets of {heads}, {self.sample}, {', '.join(self.questions.metrics)}"

    def overview(self) -> pd.DataFrame:
        """Return the five sets with the largest effects on the first metric."""
        table = self.to_pandas(self.questions.metrics[0])
        return table.nlargest(5, "mean_effect").drop(columns=["p_value", "n"])

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Tabulate the mean effects: one row per metric and set that is not empty, in the metric's unit.

        Columns: metric, set (its number in `sets`), size, heads ("L0H1 L2H3"), mean_effect (positive: the set helps),
        ci_low and ci_high (95 %), p_value (two-sided, against zero), n examples.
        """
        chosen = self.questions.metrics if metric is None else (metric,)
        return pd.concat([self.rows(one) for one in chosen], ignore_index=True)

    def rows(self, metric: str) -> pd.DataFrame:
        estimate = self.estimated(metric)
        return pd.DataFrame(
            {
                "metric": metric,
                "set": self.removed,
                "size": [len(self.sets[number]) for number in self.removed],
                "heads": [" ".join(f"L{layer}H{head}" for layer, head in self.sets[number]) for number in self.removed],
                "mean_effect": estimate.mean,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "p_value": estimate.p_value,
                "n": estimate.n,
            }
        )

    def plot(self, metric: str | None = None) -> go.Figure:
        """Draw the mean effect of every set on a metric as a bar with its interval."""
        with drawing():
            from cap_viz.figures.ranked_bars import effect_bars
        chosen = metric or self.questions.metrics[0]
        estimate = self.estimated(chosen)
        names = [f"{number}: {set_name(self.sets[number])}" for number in self.removed]
        return effect_bars(names, estimate.mean, estimate.low, estimate.high, unit=metric_named(chosen).unit)

    def to_tables(self) -> dict[str, pd.DataFrame]:
        joint = values_table(self.ablated, "set", "example", "option")
        return {"options": options_table(self.questions, self.ablated[0]), "joint": joint}

    @classmethod
    def from_tables(cls, tables: Tables, *, sets: tuple[HeadSet, ...], tasks: tuple[TaskVersion, ...] = ()) -> Self:
        dense = EvalReport.from_tables(tables, tasks=tasks)
        ablated = values_from(tables["joint"], "set", "example", "option", last=(len(sets), *dense.logliks.shape))
        return cls(questions=dense.questions, sets=sets, ablated=ablated)


def set_name(heads: HeadSet) -> str:
    """Name a set by its heads, or by their number where they are many."""
    if len(heads) > MOST_NAMED:
        return f"{len(heads)} heads"
    return ", ".join(f"L{layer} H{head}" for layer, head in heads)
