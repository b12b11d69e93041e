"""Head-removal curves: how good an order of the heads is, measured by removing heads in it. Needs no torch to read.

For each of some numbers of heads, five kinds of sets are removed together: the first heads of the order, the last ones,
all but the first (the circuit that is kept), all but the first by the size of their scores, and those of random orders.
`stats/circuits.py` sums them up as areas, among them CPR and CMD of the MIB benchmark (arXiv 2504.13151).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.attribution.effect_metrics import METRICS, metric_named
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import Tables
from cap_viz.errors import UsageError
from cap_viz.stats import mean_with_ci
from cap_viz.stats.circuits import (
    OrderLosses,
    RemovalAreas,
    all_but_first,
    first,
    order_of,
    question_weights,
    removal_areas,
)
from cap_viz.stats.joint import Head, HeadSet
from cap_viz.tasks.base import TaskVersion

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Shares of heads that are removed, or kept: those of MIB from .01 on. The smaller ones are less than one head in models
# of a few hundred.
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# With 20 random orders a p-value is at least 1/21.
DRAWS = 20
RESAMPLES = 2000
# Names of the curves in tables.
MOST_FIRST, LEAST_FIRST, KEPT, KEPT_BY_SIZE, RANDOM = "most first", "least first", "kept", "kept by size", "random"
BETTER_WHEN_LOW = ("least", "cmd")


def counts_of(shares: Sequence[float], n_heads: int) -> tuple[int, ...]:
    """Turn shares into numbers of heads, each once: at least one head, not all. Raises `UsageError` for bad shares."""
    if not shares or any(not 0 < share < 1 for share in shares):
        raise UsageError(
            f"Shares of heads to remove are above 0 and below 1, at least one of them; not {list(shares)}."
        )
    return tuple(sorted({min(n_heads - 1, max(1, round(share * n_heads))) for share in shares}))


@dataclass(frozen=True)
class Removals:
    """What is removed to judge an order: `heads` are all heads of the model, the most important first.

    `by_size` is the order by the size of the scores, without their sign. `counts` ascend; `draws` random orders, drawn
    by `seed`, are the control.
    """

    heads: tuple[Head, ...]
    by_size: tuple[Head, ...]
    counts: tuple[int, ...]
    draws: int = DRAWS
    seed: int = 0

    @classmethod
    def of_effects(
        cls, effects: Float[np.ndarray, "layer head"], shares: Sequence[float], draws: int = DRAWS, seed: int = 0
    ) -> Self:
        """Order the heads by effects. Raises `UsageError` for bad shares."""
        counts = counts_of(shares, effects.size)
        return cls(order_of(effects), order_of(np.abs(effects)), counts, draws, seed)

    def check(self, n_layers: int, n_heads: int) -> None:
        """Raise `UsageError` unless both orders hold every head of the model once and the counts ascend within them."""
        every = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        if sorted(self.heads) != every or sorted(self.by_size) != every:
            raise UsageError(
                f"An order of removal lists each of the {len(every)} heads of the model once ({n_layers} layers × "
                f"{n_heads} heads)."
            )
        if list(self.counts) != sorted({count for count in self.counts if 0 < count < len(every)}) or not self.counts:
            raise UsageError(f"Numbers of heads to remove ascend from 1 to {len(every) - 1}, not {self.counts}.")
        if self.draws < 1:
            raise UsageError(f"{self.draws} random orders are no control; use at least 1, better {DRAWS}.")

    @cached_property
    def random(self) -> tuple[tuple[Head, ...], ...]:
        """The random orders."""
        generator, heads = np.random.default_rng(self.seed), sorted(self.heads)
        return tuple(tuple(heads[i] for i in generator.permutation(len(heads))) for _ in range(self.draws))

    @cached_property
    def sets(self) -> tuple[HeadSet, ...]:
        """The sets to remove: none, all heads, then those of the order and of the random ones, each once."""
        found: list[HeadSet] = [(), first(self.heads, len(self.heads))]
        for count in self.counts:
            found += [first(self.heads, count), first(self.heads[::-1], count)]
            found += [all_but_first(self.heads, count), all_but_first(self.by_size, count)]
            found += [cut(order, count) for order in self.random for cut in (first, all_but_first)]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, repr=False)
class RemovalCurve(Result):
    """Log-likelihoods with heads removed in an order, from either end, and in random orders.

    `shared` counts the questions that ranked the heads, too, which flatters the order; None where it is not known.
    """

    joint: JointScores
    removals: Removals
    shared: int | None = 0

    # What the tables do not hold.
    @property
    def heads(self) -> tuple[Head, ...]:
        return self.removals.heads

    @property
    def by_size(self) -> tuple[Head, ...]:
        return self.removals.by_size

    @property
    def counts(self) -> tuple[int, ...]:
        return self.removals.counts

    @property
    def draws(self) -> int:
        return self.removals.draws

    @property
    def seed(self) -> int:
        return self.removals.seed

    @property
    def tasks(self) -> tuple[TaskVersion, ...]:
        return self.joint.tasks

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.joint.questions.metrics

    @property
    def shares(self) -> Float[np.ndarray, " count"]:
        return np.array(self.counts) / len(self.heads)

    def losses(self, metric: str) -> dict[HeadSet, Float[np.ndarray, " example"]]:
        """Return the loss on every question, by the set that is removed."""
        return dict(zip(self.joint.sets, self.joint.losses(metric).astype(np.float64), strict=True))

    def ordered(self, losses: dict[HeadSet, Float[np.ndarray, " example"]]) -> OrderLosses:
        """Return the losses along the order."""
        cuts = {
            "most_first": (first, self.heads),
            "least_first": (first, self.heads[::-1]),
            "kept": (all_but_first, self.heads),
            "kept_by_size": (all_but_first, self.by_size),
        }
        return OrderLosses(
            **{
                name: np.stack([losses[cut(order, count)] for count in self.counts])
                for name, (cut, order) in cuts.items()
            }
        )

    def at_random(self, losses: dict[HeadSet, Float[np.ndarray, " example"]]) -> list[OrderLosses]:
        """Return the losses along each random order, which from its end is another random order."""
        found = []
        for order in self.removals.random:
            removed, kept = (
                np.stack([losses[cut(order, count)] for count in self.counts]) for cut in (first, all_but_first)
            )
            found.append(OrderLosses(removed, removed, kept, kept))
        return found

    def areas(self, metric: str) -> pd.DataFrame:
        """Tabulate the areas that sum up the order, one row each.

        Columns: area (most and least: loss above the whole model's, averaged over the share of heads removed from
        either end; cpr; cmd), value, ci_low and ci_high (95 % bootstrap over questions), random_median, random_low and
        random_high (median, least and most of the random orders), p_value (share of orders, this one included, that do
        at least as well), better (whether a high or a low value is good). CPR and CMD are NaN where removing every head
        does not hurt.
        """
        losses, n = self.losses(metric), len(self.joint.questions)
        dense, empty = losses[()], losses[first(self.heads, len(self.heads))]
        weights = question_weights(n, resamples=RESAMPLES, seed=0)
        own = removal_areas(self.ordered(losses), self.shares, dense, empty, weights)
        random = [removal_areas(one, self.shares, dense, empty, weights[:1]) for one in self.at_random(losses)]
        return pd.DataFrame([area_row(field.name, own, random, n) for field in fields(RemovalAreas)])

    @property
    def headline(self) -> str:
        metric = self.metrics[0]
        value = self.areas(metric).set_index("area")["value"]
        ranked = {0: "", None: ", ranked on unknown questions"}.get(
            self.shared, f", {self.shared} of which ranked them"
        )
        return (
            f"{len(self.heads)} heads, up to {self.counts[-1]} removed, {self.joint.sample}{ranked}: CPR "
            f"{value['cpr']:.3g}, CMD {value['cmd']:.3g} ({metric})"
        )

    def overview(self) -> pd.DataFrame:
        """Return the areas on the first metric."""
        return self.areas(self.metrics[0])

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Tabulate the curves: one row per metric, curve and number of heads, in the metric's unit.

        Columns: metric, curve (most first, least first, kept, kept by size, random), heads (number of heads removed, or
        kept), share, mean_loss, effect (above the whole model's loss), ci_low and ci_high (95 %; for random the least
        and the most of the orders), n questions. Errors (metric accuracy) are one minus the accuracy.
        """
        chosen = self.metrics if metric is None else (metric,)
        return pd.concat([self.rows(one) for one in chosen], ignore_index=True)

    def rows(self, metric: str) -> pd.DataFrame:
        losses = self.losses(metric)
        dense, order = losses[()], self.ordered(losses)
        named = {
            MOST_FIRST: order.most_first,
            LEAST_FIRST: order.least_first,
            KEPT: order.kept,
            KEPT_BY_SIZE: order.kept_by_size,
        }
        at = {"heads": self.counts, "share": self.shares}
        tables = []
        for name, values in named.items():
            estimate = mean_with_ci(values - dense)
            limits = {"effect": estimate.mean, "ci_low": estimate.low, "ci_high": estimate.high}
            tables.append(pd.DataFrame({"curve": name, **at, "mean_loss": values.mean(axis=-1), **limits}))
        random = np.array([one.most_first.mean(axis=-1) for one in self.at_random(losses)])
        effect = random - dense.mean()
        limits = {"effect": effect.mean(axis=0), "ci_low": effect.min(axis=0), "ci_high": effect.max(axis=0)}
        tables.append(pd.DataFrame({"curve": RANDOM, **at, "mean_loss": random.mean(axis=0), **limits}))
        table = pd.concat(tables, ignore_index=True).assign(n=len(dense))
        table.insert(0, "metric", metric)
        return table

    def plot(self, metric: str | None = None) -> go.Figure:
        """Draw the loss above the whole model's against the share of heads removed, from either end and at random."""
        with drawing():
            from cap_viz.figures.removal import removal_curves
        chosen = metric or self.metrics[0]
        metric_named(chosen)
        return removal_curves(self.rows(chosen), unit=METRICS[chosen].unit)

    def to_tables(self) -> dict[str, pd.DataFrame]:
        return self.joint.to_tables()

    @classmethod
    def from_tables(
        cls,
        tables: Tables,
        *,
        heads: tuple[Head, ...],
        by_size: tuple[Head, ...],
        counts: tuple[int, ...],
        draws: int,
        seed: int,
        shared: int | None = 0,
        tasks: tuple[TaskVersion, ...] = (),
    ) -> Self:
        removals = Removals(heads, by_size, counts, draws, seed)
        return cls(JointScores.from_tables(tables, sets=removals.sets, tasks=tasks), removals, shared)


def area_row(name: str, own: RemovalAreas, random: Sequence[RemovalAreas], n: int) -> dict[str, object]:
    values, others = getattr(own, name), np.array([getattr(one, name)[0] for one in random])
    low, high = np.quantile(values[1:], [0.025, 0.975]) if n > 1 else (np.nan, np.nan)
    sign = -1 if name in BETTER_WHEN_LOW else 1
    as_good = 1 + int((sign * others >= sign * values[0]).sum())
    known = not np.isnan(values[0])
    return {
        "area": name,
        "value": float(values[0]),
        "ci_low": float(low),
        "ci_high": float(high),
        "random_median": float(np.median(others)),
        "random_low": float(others.min()),
        "random_high": float(others.max()),
        "p_value": as_good / (1 + len(others)) if known else np.nan,
        "better": "low" if name in BETTER_WHEN_LOW else "high",
    }
