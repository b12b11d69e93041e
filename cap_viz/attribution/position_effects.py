"""Effects of heads split by position: by where their output is replaced, or by which step of a solution is predicted.

The result of `attribution/positions.py`; reading it needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import (
    AboutQuestions,
    EvalReport,
    Questions,
    Tables,
    largest_first,
    options_table,
    values_from,
    values_table,
)
from cap_viz.errors import UsageError, choose
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.stats.joint import Head
from cap_viz.tasks.base import TaskVersion
from cap_viz.tasks.spans import BYS

if TYPE_CHECKING:
    import plotly.graph_objects as go

# The last part: all spans at once, or the whole solution.
EVERYWHERE, WHOLE_SOLUTION = "everywhere", "whole solution"
# Rows of the small table of a notebook, and heads of the figure.
MOST_SHOWN, MOST_DRAWN = 5, 24


@dataclass(frozen=True, repr=False)
class PositionEffects(AboutQuestions, Result):
    """Effects of heads by spans of the prompt (`cv.span_effects`) or by steps of a solution (`cv.step_effects`).

    `per_example[m, h, p, i]` is the effect of the h-th of `heads` on the m-th of `metrics`, on example i: of replacing
    its output at the span `parts[p]` only, or on the loss per token of the step `parts[p]` only. The last part is all
    of them at once. First-order effects (`estimator` "gradient") add up over spans, and effects on steps, weighted by
    `tokens`, over steps; exact effects of spans do not. NaN where an example does not have the part.

    `tokens[i, p]` is the length of part p in example i. `known_logliks` are those of the dense model, NaN for options
    that do not exist or are not part of the metric.
    """

    questions: Questions
    known_logliks: Float[np.ndarray, "example option"]
    heads: tuple[Head, ...]
    parts: tuple[str, ...]
    tokens: Int[np.ndarray, "example part"]
    metrics: tuple[str, ...]
    per_example: Float[np.ndarray, "metric head part example"]
    estimator: str = "exact"

    @property
    def by(self) -> str:
        """What the effects are split by: "span" or "step"."""
        return "step" if self.parts[-1] == WHOLE_SOLUTION else "span"

    @property
    def names(self) -> list[str]:
        return [f"L{layer}H{head}" for layer, head in self.heads]

    @property
    def mean_tokens(self) -> Float[np.ndarray, " part"]:
        """Mean length of each part, over the examples that have it."""
        return self.tokens.sum(axis=0) / np.count_nonzero(self.tokens, axis=0)

    def effects(self, metric: str | None = None) -> Float[np.ndarray, "head part example"]:
        """Return the effects per example: positive means the head helps. Raises `UsageError` for another metric."""
        if metric is not None and metric not in self.metrics:
            raise UsageError(
                f"These effects are about {', '.join(self.metrics)}, not {metric!r}; measure them for that metric."
            )
        return self.per_example[self.metrics.index(metric or self.metrics[0])]

    def mean_effect(self, metric: str | None = None) -> Float[np.ndarray, "head part"]:
        """Return the mean over the examples that have the part."""
        return self.estimated(metric).mean

    def estimated(self, metric: str | None = None) -> HeadEstimate:
        """Return the mean effects with their 95 % intervals and tests against zero, each over the examples that count.

        An example counts for the parts that it has: late steps are those of long solutions.
        """
        effects, has = self.effects(metric), self.tokens > 0
        parts = [mean_with_ci(effects[:, part, has[:, part]]) for part in range(len(self.parts))]
        names = ("mean", "low", "high", "std_error", "p_value")
        stacked = {name: np.stack([getattr(one, name) for one in parts], axis=1) for name in names}
        return HeadEstimate(**stacked, n=len(self.questions))

    @property
    def headline(self) -> str:
        estimator = "first-order" if self.estimator == "gradient" else self.estimator
        what = f"{len(self.heads)} heads × {len(self.parts) - 1} {self.by}s"
        return f"{what}, {self.sample}, {estimator}, {', '.join(self.metrics)}"

    def overview(self) -> pd.DataFrame:
        """Return the five largest effects of single parts on the first metric, by size."""
        table = self.to_pandas(self.metrics[0])
        single = table.loc[table[self.by] != self.parts[-1]]
        return largest_first(single).head(MOST_SHOWN).drop(columns=["metric", "layer", "head", "p_value"])

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Tabulate the mean effects: one row per metric, head and part, in the metric's unit.

        Columns: metric, name ("L0H1") with layer and head, span or step (the last is all of them at once), tokens (mean
        length), mean_effect (positive: the head helps there), ci_low and ci_high (95 %), p_value (two-sided, against
        zero), q_value (Benjamini-Hochberg over heads and parts), n examples that have the part.
        """
        chosen = self.metrics if metric is None else (metric,)
        return pd.concat([self.rows(one) for one in chosen], ignore_index=True)

    def rows(self, metric: str) -> pd.DataFrame:
        estimate = self.estimated(metric)
        head, part = (axis.ravel() for axis in np.indices(estimate.mean.shape))
        return pd.DataFrame(
            {
                "metric": metric,
                "name": np.array(self.names, dtype=object)[head],
                "layer": [self.heads[one][0] for one in head],
                "head": [self.heads[one][1] for one in head],
                self.by: np.array(self.parts, dtype=object)[part],
                "tokens": self.mean_tokens[part],
                "mean_effect": estimate.mean.ravel(),
                "ci_low": estimate.low.ravel(),
                "ci_high": estimate.high.ravel(),
                "p_value": estimate.p_value.ravel(),
                "q_value": estimate.q_value.ravel(),
                "n": np.count_nonzero(self.tokens, axis=0)[part],
            }
        )

    def strongest(self, metric: str | None = None, k: int = MOST_DRAWN) -> list[int]:
        """Return the places in `heads` of those with the largest effect at any single part, in the order of layers."""
        size = np.abs(self.mean_effect(metric)[:, :-1]).max(axis=1)
        return sorted(np.argsort(-size, kind="stable")[:k].tolist(), key=lambda place: self.heads[place])

    def plot(self, metric: str | None = None, k: int = MOST_DRAWN) -> go.Figure:
        """Draw heads × parts, of the `k` heads with the largest effects: faded where the interval includes zero.

        A dot marks effects that survive the false-discovery control over all heads and parts.
        """
        with drawing():
            from cap_viz.figures.positions import position_map
        chosen = choose("metric", metric or self.metrics[0], self.metrics)
        return position_map(
            self.estimated(chosen),
            self.strongest(chosen, k),
            heads=self.names,
            parts=self.parts,
            unit=METRICS[chosen].unit,
            by=self.by,
        )

    def to_tables(self) -> dict[str, pd.DataFrame]:
        effects = values_table(self.per_example, "metric", "head", "part", "example", column="effect")
        heads = np.array(self.heads, dtype=np.int16)[effects["head"]]
        effects["metric"] = np.array(self.metrics, dtype=object)[effects["metric"]]
        effects.insert(1, "layer", heads[:, 0])
        effects["head"] = heads[:, 1]
        example, part = np.nonzero(self.tokens)
        parts = pd.DataFrame(
            {
                "example": example.astype(np.int32),
                "part": part.astype(np.int16),
                "name": np.array(self.parts, dtype=object)[part],
                "tokens": self.tokens[example, part].astype(np.int32),
            }
        )
        return {"options": options_table(self.questions, self.known_logliks), "parts": parts, "effects": effects}

    @classmethod
    def from_tables(cls, tables: Tables, *, estimator: str, tasks: tuple[TaskVersion, ...] = ()) -> Self:
        dense, effects = EvalReport.from_tables(tables, tasks=tasks), tables["effects"]
        names = tables["parts"].drop_duplicates("part").sort_values("part")["name"]
        tokens = np.zeros((len(dense), len(names)), dtype=np.int64)
        tokens[tables["parts"]["example"], tables["parts"]["part"]] = tables["parts"]["tokens"]
        metrics = tuple(dict.fromkeys(effects["metric"]))
        pairs = list(zip(effects["layer"].tolist(), effects["head"].tolist(), strict=True))
        heads = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        numbered = effects.assign(
            metric=[metrics.index(name) for name in effects["metric"]],
            head=[heads[pair] for pair in pairs],
        )
        shape = (len(metrics), len(heads), len(names), len(dense))
        return cls(
            questions=dense.questions,
            known_logliks=dense.logliks,
            heads=tuple(heads),
            parts=tuple(names),
            tokens=tokens,
            metrics=metrics,
            per_example=values_from(numbered, "metric", "head", "part", "example", column="effect", last=shape),
            estimator=estimator,
        )


def check_split(by: str, heads: Sequence[Head] | None, metric: str | None) -> None:
    """Raise `UsageError` for an unknown split, heads listed twice or none, and a metric where effects are exact."""
    choose("way to split effects", by, BYS)
    if heads is not None and (not heads or len(set(heads)) < len(heads)):
        raise UsageError("Name at least one head and each once, or none at all for every head of the model.")
    if metric is not None and by == "step":
        raise UsageError("The effect on steps is exact, on their loss per token; leave out the metric.")
    if metric is not None and heads is not None:
        raise UsageError(
            "A gradient gives the effects of all heads, and exact effects hold every metric; name heads or a metric."
        )
