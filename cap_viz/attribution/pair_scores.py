"""Effects of heads alone and in pairs: which heads back each other up, and which do the same work.

The pair effect of heads A and B is the effect of removing both minus the sum of removing each, paired per example.
Above zero they back each other up: each alone is missed less, since the other is still there. Below zero they overlap:
they stand in series, or do the same damage, which is done once. A loss can hardly rise beyond that of an even guess, so
that an overlap with a head that alone brings it there says little: it is told apart as a ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from cap_viz.attribution.effect_metrics import metric_named
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import Tables
from cap_viz.errors import UsageError
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.stats.joint import Head, HeadSet
from cap_viz.tasks.base import TaskVersion

if TYPE_CHECKING:
    import plotly.graph_objects as go

BACK_UP, OVERLAP, CEILING, NOT_SHOWN = "back-up", "overlap", "ceiling", "not shown"
# Pairs in the small table of a notebook.
MOST_SHOWN = 5


def sets_of_pairs(heads: Sequence[Head]) -> tuple[HeadSet, ...]:
    """List the sets to ablate: none (dense), each head alone, each pair. Raises `UsageError` for fewer than two."""
    if len(heads) < 2:
        raise UsageError("A pair needs two heads; name at least two.")
    return ((), *((head,) for head in heads), *combinations(heads, 2))


@dataclass(frozen=True, repr=False)
class PairScores(Result):
    """Log-likelihoods with each head and each pair of heads removed: the sets are those of `sets_of_pairs`."""

    joint: JointScores

    @property
    def tasks(self) -> tuple[TaskVersion, ...]:
        return self.joint.tasks

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        return tuple(heads[0] for heads in self.joint.sets if len(heads) == 1)

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs as places in `heads`."""
        return tuple(combinations(range(len(self.heads)), 2))

    def among(self, heads: Sequence[Head]) -> Self:
        """Return the pairs of these heads. Raises `UsageError` for fewer than two, or one that was not paired."""
        if unknown := set(heads) - set(self.heads):
            layer, head = min(unknown)
            raise UsageError(f"Head {head} of layer {layer} was not removed in pairs; measure the pairs with it.")
        sets = sets_of_pairs([head for head in self.heads if head in heads])
        places = [self.joint.sets.index(one) for one in sets]
        return replace(self, joint=replace(self.joint, sets=sets, ablated=self.joint.ablated[places]))

    def effects(self, metric: str) -> Float[np.ndarray, "pair example"]:
        """Return the pair effects: joint effect minus the sum of the two heads' own."""
        removed = self.joint.effects(metric)[1:]
        singles, together = removed[: len(self.heads)], removed[len(self.heads) :]
        first, second = np.array(self.pairs).T
        return together - singles[first] - singles[second]

    def estimated(self, metric: str) -> HeadEstimate:
        """Return the mean pair effects with 95 % intervals and tests against zero (Benjamini-Hochberg over pairs)."""
        return mean_with_ci(self.effects(metric))

    def singles(self, metric: str) -> HeadEstimate:
        """Return the mean effects of the heads alone."""
        return mean_with_ci(self.joint.effects(metric)[1 : 1 + len(self.heads)])

    def at_ceiling(self) -> Bool[np.ndarray, " head"]:
        """Whether a head's removal alone brings the mean choice loss to that of an even guess; False for texts."""
        n_options = self.joint.questions.n_options
        if not (n_options > 1).all():
            return np.zeros(len(self.heads), dtype=bool)
        return self.joint.losses("choice_nll")[1 : 1 + len(self.heads)].mean(axis=-1) >= np.log(n_options).mean()

    def kinds(self, metric: str) -> list[str]:
        """Name each pair: back-up or overlap where it survives the false-discovery control at 0.05, else not shown.

        An overlap with a head that alone brings the choice loss to an even guess is called ceiling.
        """
        estimate, ceiling = self.estimated(metric), self.at_ceiling()
        below = [CEILING if ceiling[list(pair)].any() else OVERLAP for pair in self.pairs]
        return [
            NOT_SHOWN if not sure else BACK_UP if mean > 0 else name
            for sure, mean, name in zip(estimate.survives, estimate.mean, below, strict=True)
        ]

    @property
    def headline(self) -> str:
        kinds = self.kinds(self.joint.questions.metrics[0])
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in (BACK_UP, OVERLAP, CEILING))
        return f"{len(self.pairs)} pairs of {len(self.heads)} heads, {self.joint.sample}: {counts}"

    def overview(self) -> pd.DataFrame:
        """Return the pairs with the largest pair effects, either way, on the first metric."""
        table = self.to_pandas(self.joint.questions.metrics[0])
        order = np.argsort(-np.abs(table["pair_effect"].to_numpy()), kind="stable")
        return table.iloc[order[:MOST_SHOWN]].drop(columns=["metric", "p_value", "n"])

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Tabulate the pair effects: one row per metric and pair, in the metric's unit.

        Columns: metric, first and second (heads, "L0H1"), effect_first, effect_second and effect_both (mean effects of
        removing them), pair_effect (both minus the sum), ci_low and ci_high (95 %), p_value, q_value
        (Benjamini-Hochberg over the pairs), kind (back-up, overlap, ceiling or not shown), n examples.
        """
        chosen = self.joint.questions.metrics if metric is None else (metric,)
        return pd.concat([self.rows(one) for one in chosen], ignore_index=True)

    def rows(self, metric: str) -> pd.DataFrame:
        estimate, removed = self.estimated(metric), self.joint.effects(metric)[1:].mean(axis=-1)
        names = np.array([f"L{layer}H{head}" for layer, head in self.heads])
        first, second = np.array(self.pairs).T
        return pd.DataFrame(
            {
                "metric": metric,
                "first": names[first],
                "second": names[second],
                "effect_first": removed[first],
                "effect_second": removed[second],
                "effect_both": removed[len(self.heads) :],
                "pair_effect": estimate.mean,
                "ci_low": estimate.low,
                "ci_high": estimate.high,
                "p_value": estimate.p_value,
                "q_value": estimate.q_value,
                "kind": self.kinds(metric),
                "n": estimate.n,
            }
        )

    def plot(self, metric: str | None = None) -> go.Figure:
        """Draw the pair effects as a matrix of the heads; those that are not shown are faded."""
        with drawing():
            from cap_viz.figures.circuit import pair_matrix
        chosen = metric or self.joint.questions.metrics[0]
        estimate, kinds = self.estimated(chosen), self.kinds(chosen)
        return pair_matrix(self.heads, self.pairs, estimate, kinds, unit=metric_named(chosen).unit)

    def to_tables(self) -> dict[str, pd.DataFrame]:
        return self.joint.to_tables()

    @classmethod
    def from_tables(cls, tables: Tables, *, heads: tuple[Head, ...], tasks: tuple[TaskVersion, ...] = ()) -> Self:
        return cls(JointScores.from_tables(tables, sets=sets_of_pairs(heads), tasks=tasks))
