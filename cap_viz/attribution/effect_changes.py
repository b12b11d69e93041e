"""Effects of every head under two sets of weights: which heads gained a role, and which lost theirs.

The weights are those of a dense and a pruned model, or of two models of one shape, such as base and instruct. Effects
are paired per question: the change of a head is its mean effect after minus before, with Student's interval and test,
and the false-discovery rate is controlled over the heads. A model that hardly does better than guessing has little to
lose: there, all effects are small, and heads lose roles whatever they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import pandas as pd
from jaxtyping import Float

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.result_base import Result, drawing
from cap_viz.attribution.results import BlockScores, DirectScores, EffectResult, GradientEffects, HeadScores, Tables
from cap_viz.errors import UsageError
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.tasks.base import TaskVersion

if TYPE_CHECKING:
    import plotly.graph_objects as go

Effects = HeadScores | BlockScores | GradientEffects
EffectKind = Literal["HeadScores", "DirectScores", "BlockScores", "GradientEffects"]
# Effects on all metrics, by the name that is saved, and the words for all effects with a value per question.
EXACT: dict[str, type[HeadScores | BlockScores]] = {
    kind.__name__: kind for kind in (HeadScores, DirectScores, BlockScores)
}
WORDS = {
    "HeadScores": "exact effects of heads",
    "DirectScores": "direct effects of heads",
    "BlockScores": "effects of whole attention layers and MLPs",
    "GradientEffects": "gradient effects of heads",
}
GAINED, LOST, STRONGER, WEAKER = "gained", "lost", "stronger", "weaker"
HURTS_LESS, HURTS_MORE, NOT_SHOWN = "hurts less", "hurts more", "not shown"
KINDS = (GAINED, LOST, STRONGER, WEAKER, HURTS_LESS, HURTS_MORE, NOT_SHOWN)
BEFORE, AFTER = "before.", "after."
# Heads in the small table of a notebook.
MOST_SHOWN = 5


@dataclass(frozen=True, repr=False)
class EffectChanges(Result):
    """Effects on the same questions before and after a change of the weights."""

    before: Effects
    after: Effects

    @property
    def kind(self) -> EffectKind:
        """Name of the class of both."""
        return type(self.before).__name__  # pyright: ignore[reportReturnType]

    @property
    def metric(self) -> str | None:
        """The one metric of gradient effects; None where effects on all metrics are known."""
        return self.before.metric if isinstance(self.before, GradientEffects) else None

    @property
    def tasks(self) -> tuple[TaskVersion, ...]:
        return self.before.tasks

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.before.metrics

    def changes(self, metric: str) -> Float[np.ndarray, "layer part example"]:
        """Return effect after minus before, per question: positive means the head is needed more."""
        return self.after.effects(metric) - self.before.effects(metric)

    def estimated(self, metric: str) -> HeadEstimate:
        """Return the mean changes with 95 % intervals and tests against zero (Benjamini-Hochberg over heads)."""
        return mean_with_ci(self.changes(metric))

    def kinds(self, metric: str) -> list[list[str]]:
        """Name the change of every head, or "not shown" where it does not survive the false-discovery control at 0.05.

        A head whose effect grew is stronger if it surely helped before; else it gained a role if it helps afterwards,
        or hurts less. One whose effect fell is weaker if it surely helps afterwards; else it lost a role if it helped
        before, or hurts more. Surely: its own effect is above zero and survives the same control.
        """
        change, before, after = (one.estimated(metric) for one in (self, self.before, self.after))
        helped, helps = ((one.mean > 0) & one.survives for one in (before, after))
        grown = np.select([helped, after.mean > 0], [STRONGER, GAINED], HURTS_LESS)
        fallen = np.select([helps, before.mean > 0], [WEAKER, LOST], HURTS_MORE)
        return np.where(change.survives, np.where(change.mean > 0, grown, fallen), NOT_SHOWN).tolist()

    def counted(self, metric: str) -> str:
        """Count the heads of each kind of change, in words."""
        kinds = [kind for row in self.kinds(metric) for kind in row]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in KINDS if kind in kinds)

    @property
    def headline(self) -> str:
        metric, parts = self.metrics[0], "heads" if self.before.parts is None else "blocks"
        n_layers, n_parts = shape_of(self.before)
        return f"{n_layers} layers × {n_parts} {parts}, {self.before.sample}: {self.counted(metric)} ({metric})"

    def overview(self) -> pd.DataFrame:
        """Return the heads with the largest changes, either way, on the first metric."""
        table = self.to_pandas(self.metrics[0])
        order = np.argsort(-np.abs(table["change"].to_numpy()), kind="stable")
        return table.iloc[order[:MOST_SHOWN]].drop(columns=["metric", "p_value", "n"])

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Tabulate the changes: one row per metric, layer and head (or part), in the metric's unit.

        Columns: metric, layer, head or part, before and after (mean effects; positive: the head helps), change (after
        minus before), ci_low and ci_high (95 %), p_value (two-sided paired t-test), q_value (Benjamini-Hochberg over
        the heads), kind (gained, lost, stronger, weaker, hurts less, hurts more or not shown), n questions.
        """
        chosen = self.metrics if metric is None else (metric,)
        return pd.concat([self.rows(one) for one in chosen], ignore_index=True)

    def rows(self, metric: str) -> pd.DataFrame:
        estimate, parts = self.estimated(metric), self.before.parts
        columns = estimate.columns("change")
        places = columns["head"]
        return pd.DataFrame(
            {
                "metric": metric,
                "layer": columns["layer"],
                **({"head": places} if parts is None else {"part": np.array(parts)[places]}),
                "before": self.before.mean_effect(metric).ravel(),
                "after": self.after.mean_effect(metric).ravel(),
                **{name: columns[name] for name in ("change", "ci_low", "ci_high", "p_value", "q_value")},
                "kind": [kind for row in self.kinds(metric) for kind in row],
                "n": estimate.n,
            }
        )

    def plot(self, metric: str | None = None) -> go.Figure:
        """Draw the map of changes: faded where the interval includes zero, a dot where a change survives FDR."""
        with drawing():
            from cap_viz.figures.results import CHANGE_ENDS, effect_map
        chosen = metric or self.metrics[0]
        means = {"before": self.before.mean_effect(chosen), "after": self.after.mean_effect(chosen)}
        return effect_map(
            self.estimated(chosen), unit=METRICS[chosen].unit, parts=self.before.parts, ends=CHANGE_ENDS, also=means
        )

    def to_tables(self) -> dict[str, pd.DataFrame]:
        sides = ((BEFORE, self.before), (AFTER, self.after))
        return {f"{side}{name}": table for side, effects in sides for name, table in effects.to_tables().items()}

    @classmethod
    def from_tables(
        cls, tables: Tables, *, kind: EffectKind, metric: str | None = None, tasks: tuple[TaskVersion, ...] = ()
    ) -> Self:
        def side(prefix: str) -> Effects:
            own = {name.removeprefix(prefix): table for name, table in tables.items() if name.startswith(prefix)}
            if metric is not None:
                return GradientEffects.from_tables(own, metric=metric, tasks=tasks)
            return EXACT[kind].from_tables(own, tasks=tasks)

        return cls(side(BEFORE), side(AFTER))


def effect_changes(before: EffectResult, after: EffectResult) -> EffectChanges:
    """Pair effects of the same questions under two sets of weights, question by question.

    Both come from `score_heads`, `score_blocks` or `direct_effects`, with the same estimator and ablation: of a dense
    and a pruned model (`mask=`), or of two models of one shape. Raises `UsageError` for effects without values per
    question (hybrid), of two kinds, on different metrics or questions, and of models of different shapes.
    """
    before, after = per_question(before), per_question(after)
    names = [type(one).__name__ for one in (before, after)]
    if names[0] != names[1]:
        raise UsageError(f"{WORDS[names[0]].capitalize()} and {WORDS[names[1]]} are not comparable; use one kind.")
    if before.metrics != after.metrics:
        metrics = " and ".join(", ".join(one.metrics) for one in (before, after))
        raise UsageError(f"The effects are on different metrics: {metrics}; score both on the same one.")
    if before.questions.items != after.questions.items:
        raise UsageError(
            f"The effects are of different questions: {before.questions.items} and {after.questions.items}; score both "
            "models on the same examples."
        )
    shapes = [shape_of(one) for one in (before, after)]
    if shapes[0] != shapes[1]:
        first, second = (f"{layers} layers × {parts} heads" for layers, parts in shapes)
        raise UsageError(f"The models differ in shape: {first} and {second}; no head of one is that of the other.")
    return EffectChanges(before, after)


def per_question(effects: EffectResult) -> Effects:
    if not isinstance(effects, Effects):
        raise UsageError(
            f"{type(effects).__name__} have no effect for each question, so that none can be paired; score both models "
            "by the exact or the gradient estimator."
        )
    return effects


def shape_of(effects: Effects) -> Sequence[int]:
    values = effects.per_example if isinstance(effects, GradientEffects) else effects.ablated
    return values.shape[:2]
