"""The effect of every head split into what it writes into the answer itself and what goes through later layers.

`direct` comes from `attribution/exact.py` with `parts="writes"`; `indirect` is the rest of the total effect, paired per
example. A direct effect that later layers make up for leaves a smaller total: self-repair (arXiv 2307.15771), of which
the final norm alone accounts for a part (arXiv 2402.15390).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import (
    DirectScores,
    EvalReport,
    HeadScores,
    Tables,
    values_from,
    values_table,
)
from cap_viz.errors import UsageError
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.tasks.base import TaskVersion

if TYPE_CHECKING:
    import plotly.graph_objects as go

AXES = ("layer", "head", "example", "option")
# Heads in the small table of a notebook.
MOST_SHOWN = 5


@dataclass(frozen=True, repr=False)
class EffectSplit(Result):
    """Total and direct effects of every head on the same examples, under the same ablation."""

    total: HeadScores
    direct: DirectScores

    @property
    def tasks(self) -> tuple[TaskVersion, ...]:
        return self.total.tasks

    @property
    def headline(self) -> str:
        n_repaired = int((self.repaired(self.total.metrics[0]) > 0).sum())
        n_layers, n_heads = self.total.ablated.shape[:2]
        return f"{n_layers} layers × {n_heads} heads, {self.total.sample}, {n_repaired} heads repaired downstream"

    def indirect(self, metric: str = "nll") -> HeadEstimate:
        """Mean of total minus direct effects, paired per example: what reaches the answer through later layers."""
        return mean_with_ci(self.total.effects(metric) - self.direct.effects(metric))

    def repaired(self, metric: str = "nll") -> Float[np.ndarray, "layer head"]:
        """How much of a head's direct effect later layers make up for, in the metric's unit; 0 where none is sure.

        That is minus the indirect effect, where it opposes the direct one and survives the false-discovery control.
        """
        indirect, direct = self.indirect(metric), self.direct.mean_effect(metric)
        return np.where(indirect.survives & (direct > 0) & (indirect.mean < 0), -indirect.mean, 0.0)

    def overview(self) -> pd.DataFrame:
        """Return the heads with the largest direct effects on the first metric."""
        return self.to_pandas(self.total.metrics[0]).nlargest(MOST_SHOWN, "direct").drop(columns=["p_value", "n"])

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Tabulate the effects, one row per metric, layer and head, in the metric's unit.

        Columns: metric, layer, head, total, direct and indirect (means; positive: the head helps), ci_low and ci_high
        (95 %), p_value and q_value (Benjamini-Hochberg over the heads) of the indirect effect, repaired (how much of
        the direct effect later layers make up for), n examples.
        """
        chosen = self.total.metrics if metric is None else (metric,)
        return pd.concat([self.rows(one) for one in chosen], ignore_index=True)

    def rows(self, metric: str) -> pd.DataFrame:
        indirect = self.indirect(metric)
        columns = indirect.columns("indirect")
        return pd.DataFrame(
            {
                "metric": metric,
                "layer": columns["layer"],
                "head": columns["head"],
                "total": self.total.mean_effect(metric).ravel(),
                "direct": self.direct.mean_effect(metric).ravel(),
                **{name: columns[name] for name in ("indirect", "ci_low", "ci_high", "p_value", "q_value")},
                "repaired": self.repaired(metric).ravel(),
                "n": indirect.n,
            }
        )

    def plot(self, metric: str | None = None) -> go.Figure:
        """Draw total against direct effects, a point per head: on the diagonal nothing goes through later layers."""
        with drawing():
            from cap_viz.figures.results import total_against_direct
        chosen = metric or self.total.metrics[0]
        return total_against_direct(
            self.total.estimated(chosen),
            self.direct.estimated(chosen),
            self.repaired(chosen),
            unit=METRICS[chosen].unit,
        )

    def to_tables(self) -> dict[str, pd.DataFrame]:
        return self.total.to_tables() | {"direct": values_table(self.direct.ablated, *AXES)}

    @classmethod
    def from_tables(cls, tables: Tables, *, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        total, dense = HeadScores.from_tables(tables, tasks=tasks), EvalReport.from_tables(tables, tasks=tasks)
        direct = values_from(tables["direct"], *AXES, last=dense.logliks.shape)
        return cls(total, DirectScores(questions=total.questions, dense=total.dense, ablated=direct))


def split_effects(total: HeadScores, direct: DirectScores) -> EffectSplit:
    """Pair total and direct effects. Raises `UsageError` for different examples, or numbers of layers or heads."""
    if total.questions.items != direct.questions.items:
        raise UsageError("Total and direct effects are of different examples; compute both on the same ones.")
    if total.ablated.shape != direct.ablated.shape:
        raise UsageError("Total and direct effects are of models with different heads; compute both on one model.")
    return EffectSplit(total, direct)
