"""Detail of one head: effect, rank and test with their uncertainty, and the effect on every example.

The wording reports the measurement and never claims what a head is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np
import streamlit as st

from cap_viz.attribution.results import HeadScores
from cap_viz.dashboard.components.panels import tile
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.examples import shown_example, strip_hover, take_example
from cap_viz.dashboard.heads.source import Source, shape_of
from cap_viz.dashboard.names import METRIC_UNITS
from cap_viz.dashboard.stored import HeadStatistics
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.ranked_bars import example_strip
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.runs.run_labels import AblationWords, ablation_words
from cap_viz.stats import HeadEstimate
from cap_viz.tasks import Task, load_task

# Wording of a positive and a negative effect: on running text, and per metric on questions.
TEXT_MEANING = ("makes the given text less likely", "makes the given text more likely")
NOT_FOR_RANKING = ("accuracy",)
MEANINGS = {
    "nll": ("makes the right answer less likely", "makes the right answer more likely"),
    "choice_nll": (
        "makes the right option less likely among the options",
        "makes the right option more likely among the options",
    ),
    "logit_diff": ("narrows the margin of the right option", "widens the margin of the right option"),
    "accuracy": ("adds errors", "removes errors"),
}


@dataclass(frozen=True)
class HeadView:
    """A finished run at one metric, ready to draw."""

    frame: Frame
    source: Source
    metric: str
    scores: HeadScores
    stats: HeadStatistics

    @property
    def task(self) -> Task:
        """Task of the run; the control text in the generic-text view."""
        return load_task(self.source.spec.examples.task)

    @property
    def words(self) -> AblationWords:
        """Wording of the run's ablation."""
        return ablation_words(self.source.spec)

    @property
    def unit(self) -> str:
        return METRIC_UNITS[self.metric]

    @property
    def n(self) -> int:
        return len(self.scores.questions)

    @property
    def n_heads(self) -> int:
        return self.stats.estimate.mean.size

    @property
    def ranks_heads(self) -> bool:
        return self.metric not in NOT_FOR_RANKING


def detail(view: HeadView, layer: int, head: int) -> None:
    st.markdown(plain_sentence(view, layer, head))
    effect_tile, rank_tile, found_tile = st.columns(3)
    estimate, ranks = view.stats.estimate, view.stats.ranks
    with effect_tile:
        tile("Effect", signed(estimate.mean[layer, head]), interval_at(estimate, layer, head), term="effect")
    with rank_tile:
        if view.ranks_heads:
            spread = f"of {view.n_heads} [{ranks.low[layer, head]}, {ranks.high[layer, head]}]"
            tile("Rank", f"{ranks.rank[layer, head]}", spread, term="rank")
        else:
            tile("Rank", "–", "not for ranking", term="rank")
    with found_tile:
        q_tile(estimate, layer, head)
    effects = view.stats.effects[layer, head]
    ids = view.scores.questions.ids
    figure = example_strip(
        effects,
        ids,
        strip_hover(view.task, view.scores, effects, view.unit),
        mean=float(estimate.mean[layer, head]),
        low=float(estimate.low[layer, head]),
        high=float(estimate.high[layer, head]),
        unit=view.unit,
        selected=shown_example(ids, effects),
    )
    st.plotly_chart(
        figure,
        key="heads_strip",
        config=CONFIG,
        on_select=lambda: take_example("heads_strip", ids),
        selection_mode="points",
        alt="Effect of the selected head on every example",
    )
    st.caption(group_sentence(view, layer, head), help=GLOSSARY["kv_group"])


def count(n: int) -> str:
    return f"{n} example" if n == 1 else f"{n} examples"


def q_tile(estimate: HeadEstimate, layer: int, head: int) -> None:
    """Draw the head's p-value, corrected for the number of heads, and what follows from it."""
    q = float(estimate.q_value[layer, head])
    if not np.isfinite(q):
        tile("q-value (FDR)", "–", "needs n > 1", term="fdr")
        return
    verdict = "survives" if estimate.survives[layer, head] else "does not survive"
    tile("q-value (FDR)", "< 0.001" if q < 0.001 else f"{q:.2g}", verdict, term="fdr")


def plain_sentence(view: HeadView, layer: int, head: int) -> str:
    """Describe the measured effect in one sentence, without claiming what the head is for."""
    estimate = view.stats.estimate
    mean = float(estimate.mean[layer, head])
    subject = head_subject(view.words, layer, head)
    number = f"**{signed(mean)} {view.unit}** {interval_at(estimate, layer, head)}"
    if estimate.unclear[layer, head]:
        return f"{subject} has no clear effect on {count(view.n)}: {number}."
    meanings = TEXT_MEANING if view.task.kind == "text" else MEANINGS[view.metric]
    meaning = meanings[0 if mean > 0 else 1]
    return f"{subject} {meaning}: {number}{odds(view.metric, mean)}, mean of {count(view.n)}."


def head_subject(words: AblationWords, layer: int, head: int) -> str:
    """Subject of a sentence about a head's effect: the ablation and the head."""
    return f"{words.doing.capitalize()} **head {head} of layer {layer}**{words.by}"


def odds(metric: str, mean: float) -> str:
    """Express a mean nll effect as a factor on the probability per token; empty for other metrics."""
    if metric != "nll":
        return ""
    factor = exp(abs(mean))
    return f", a factor of {factor:.3g} per token" if factor < 1000 else f", a factor of {factor:,.0f} per token"


def group_sentence(view: HeadView, layer: int, head: int) -> str:
    assert view.source.run is not None
    shape = shape_of(view.source.run)
    size = shape.n_heads // shape.n_kv_heads
    first = head // size * size
    others = [other for other in range(first, first + size) if other != head]
    if not others:
        return f"Head {head} has keys and values of its own."
    effects = ", ".join(f"head {other} ({signed(view.stats.estimate.mean[layer, other])})" for other in others)
    return f"Shares keys and values with {effects}: group {head // size + 1} of {shape.n_kv_heads} in this layer."


def interval_at(estimate: HeadEstimate, layer: int, head: int, digits: int = 3) -> str:
    return interval(float(estimate.low[layer, head]), float(estimate.high[layer, head]), digits)


def interval(low: float, high: float, digits: int = 3) -> str:
    return (
        f"[{signed(low, digits)}, {signed(high, digits)}]"
        if np.isfinite(low) and np.isfinite(high)
        else "(no interval at n = 1)"
    )
