"""Heads page for the gradient and hybrid estimators: grid, detail and ranking, without per-example answers.

No head was ablated on the gradient's examples, so there are no answers before and after to show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st
from jaxtyping import Bool, Float, Int

from cap_viz.dashboard.components.head_map import head_inputs
from cap_viz.dashboard.components.panels import METRIC_UNITS, metric_name, tile
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.detail import MEANINGS, TEXT_MEANING, head_subject, interval, q_value
from cap_viz.dashboard.heads.map import HeadMap, draw_bars, draw_grid
from cap_viz.dashboard.heads.source import Source, shown_name
from cap_viz.dashboard.heads.specificity import agreement
from cap_viz.dashboard.stored import head_statistics, reliability_of, statistics_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import colour_limit
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import false_discovery, mean_with_ci, rank_heads
from cap_viz.tasks import load_task


@dataclass(frozen=True)
class Estimates:
    """Mean effect of every head with interval and test. `effects`: per example, gradient runs only."""

    mean: Float[np.ndarray, "layer head"]
    low: Float[np.ndarray, "layer head"]
    high: Float[np.ndarray, "layer head"]
    survives: Bool[np.ndarray, "layer head"]
    adjusted: Float[np.ndarray, "layer head"]
    above: str
    effects: Float[np.ndarray, "layer head example"] | None = None

    @property
    def rank(self) -> Int[np.ndarray, "layer head"]:
        return rank_heads(self.mean)


def estimates_of(frame: Frame, source: Source, run: StoredRun) -> Estimates:
    """Return the estimates of a gradient or hybrid source. Raises `CapVizError` if a run cannot be used."""
    if source.gradient is not None:
        return hybrid_estimates(frame.store, run, source.gradient)
    effects = load_gradient(frame.store, run).effects(source.metric or "nll")
    estimate, reliability = mean_with_ci(effects), reliability_of(effects)
    stable = "" if reliability is None else f"Ranking reliability **{reliability.full:.2f}** at N = {estimate.n}. "
    found = false_discovery(estimate.p_value)
    return Estimates(
        estimate.mean,
        estimate.low,
        estimate.high,
        found.survives,
        found.adjusted,
        above=f"{stable}First-order effects: the intervals tell how sure their mean is, not how near the exact effect.",
        effects=effects,
    )


def hybrid_estimates(store: Store, exact: StoredRun, gradient: StoredRun) -> Estimates:
    from cap_viz.attribution.hybrid import hybrid_scores

    many = load_gradient(store, gradient)
    few = load_scores(store, exact)
    estimate = hybrid_scores(few, many).estimate
    alone = mean_with_ci(few.effects(many.metric))
    narrower = float(np.median((alone.high - alone.low) / (estimate.high - estimate.low)))
    found = false_discovery(estimate.p_value)
    return Estimates(
        estimate.mean,
        estimate.low,
        estimate.high,
        found.survives,
        found.adjusted,
        above=f"Intervals are **{narrower:.1f} times** narrower (median head) than those of the {alone.n} exact "
        f"examples alone, thanks to the gradients of {estimate.n_gradient}.",
    )


def estimate_body(frame: Frame, source: Source, run: StoredRun) -> None:
    found, metric = estimates_of(frame, source, run), source.metric or "nll"
    title = load_task(source.spec.examples.task).title
    unit, words = METRIC_UNITS[metric], ablation_words(source.spec)
    shown = HeadMap(
        mean=found.mean,
        low=found.low,
        high=found.high,
        survives=found.survives,
        rank=found.rank,
        hover=hover(found, unit),
        limit=colour_limit(found.mean),
        unit=unit,
        title=f"Effect of {words.doing} each head{words.by} on {title}, {metric_name(frame.task, metric)}, "
        f"{source.estimator}",
        ends=words.ends,
    )
    left, right = st.columns([11, 10], gap="medium")
    with right:
        layer, head = head_inputs(found.mean.shape[0], found.mean.shape[1], shown.top)
        detail(frame, source, found, metric, layer, head)
        st.caption(agreement_sentence(frame, source, found, metric), help=GLOSSARY["ceiling"])
    with left:
        st.markdown(found.above, help=GLOSSARY["estimator"])
        draw_grid(shown, (layer, head))
    with left:
        draw_bars(shown)


def hover(found: Estimates, unit: str) -> list[list[str]]:
    n_layers, n_heads = found.mean.shape
    return [
        [
            f"<b>Layer {layer}, head {head}</b><br>{signed(found.mean[layer, head])} {unit} "
            f"{interval(found.low[layer, head], found.high[layer, head])}<br>"
            f"rank {found.rank[layer, head]} of {found.mean.size}"
            for head in range(n_heads)
        ]
        for layer in range(n_layers)
    ]


def detail(frame: Frame, source: Source, found: Estimates, metric: str, layer: int, head: int) -> None:
    mean, low, high = (float(values[layer, head]) for values in (found.mean, found.low, found.high))
    number = f"**{signed(mean)} {METRIC_UNITS[metric]}** {interval(low, high)}"
    subject = head_subject(ablation_words(source.spec), layer, head)
    if low <= 0 <= high:
        st.markdown(f"{subject} has no clear effect by the {source.estimator} estimator: {number}.")
    else:
        meanings = TEXT_MEANING if frame.task.kind == "text" else MEANINGS[metric]
        st.markdown(f"{subject} {meanings[0 if mean > 0 else 1]}: {number}, {source.estimator} estimator.")
    effect_tile, rank_tile, found_tile = st.columns(3)
    with effect_tile:
        tile("Effect", signed(mean), interval(low, high), term="effect")
    with rank_tile:
        tile("Rank", str(found.rank[layer, head]), f"of {found.mean.size}", term="rank")
    with found_tile:
        verdict = "survives" if found.survives[layer, head] else "does not survive"
        tile("q-value (FDR)", q_value(found.adjusted[layer, head]), verdict, term="fdr")


def agreement_sentence(frame: Frame, source: Source, found: Estimates, metric: str) -> str:
    """Compare a gradient ranking with that of an exact run of the same task and ablation, if one is stored."""
    if found.effects is None:
        return "Both parts are stored runs of their own: choose them under Run."
    like = [
        run
        for run in score_runs(frame.runs, frame.model, frame.task.name)
        if isinstance(run.spec, ScoreSpec) and run.spec.ablation == source.spec.ablation
    ]
    if not like:
        return "No exact run of this task is stored to compare the ranking with."
    ranks = agreement(head_statistics(found.effects), statistics_of(frame.store, like[0], metric))
    name = shown_name(frame.runs, like[0])
    return (
        f"Rank correlation with the exact run {name}: {ranks.correlation:.2f} (noise ceiling {ranks.ceiling:.2f}). "
        "Shared examples raise it."
    )
