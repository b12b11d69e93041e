"""Heads page for the gradient and hybrid estimators: grid, detail and ranking, without per-example answers.

No head was ablated on the gradient's examples, so there are no answers before and after to show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from cap_viz.dashboard.components.head_map import head_inputs
from cap_viz.dashboard.components.panels import tile
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.detail import MEANINGS, TEXT_MEANING, head_subject, interval_at, q_tile
from cap_viz.dashboard.heads.map import draw_bars, draw_grid, effect_map
from cap_viz.dashboard.heads.source import Source, shown_name
from cap_viz.dashboard.heads.specificity import agreement
from cap_viz.dashboard.names import METRIC_UNITS
from cap_viz.dashboard.stored import HeadStatistics, cached_by_run, scores_of, statistics_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.scores import load_gradient
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.tasks import load_task


@dataclass(frozen=True)
class Estimated:
    """What to show of a gradient or hybrid source: the estimate, and what to say above the grid.

    `effects`: those of every example, gradient runs only.
    """

    estimate: HeadEstimate
    above: str
    effects: HeadStatistics | None = None


def estimated(frame: Frame, source: Source, run: StoredRun) -> Estimated:
    """Return the estimate of a gradient or hybrid source. Raises `CapVizError` if a run cannot be used."""
    if source.gradient is not None:
        return hybrid_estimated(frame.store, run, source.gradient)
    effects = statistics_of(frame.store, run, source.metric or "nll")
    estimate, reliability = effects.estimate, effects.reliability
    stable = "" if reliability is None else f"Ranking reliability **{reliability.full:.2f}** at N = {estimate.n}. "
    return Estimated(
        estimate,
        above=f"{stable}First-order effects: the intervals tell how sure their mean is, not how near the exact effect.",
        effects=effects,
    )


@cached_by_run(16)
def hybrid_estimated(store: Store, exact: StoredRun, gradient: StoredRun) -> Estimated:
    from cap_viz.attribution.hybrid import hybrid_scores

    many = load_gradient(store, gradient)
    few = scores_of(store, exact)
    estimate = hybrid_scores(few, many).estimate
    alone = mean_with_ci(few.effects(many.metric))
    narrower = float(np.median((alone.high - alone.low) / (estimate.high - estimate.low)))
    return Estimated(
        estimate,
        above=f"Intervals are **{narrower:.1f} times** narrower (median head) than those of the {alone.n} exact "
        f"examples alone, thanks to the gradients of {estimate.n_gradient}.",
    )


def estimate_body(frame: Frame, source: Source, run: StoredRun) -> None:
    found, metric = estimated(frame, source, run), source.metric or "nll"
    estimate, task = found.estimate, load_task(source.spec.examples.task)
    shown = effect_map(estimate, ablation_words(source.spec), task, metric, estimator=source.estimator)
    left, right = st.columns([11, 10], gap="medium")
    with right:
        layer, head = head_inputs(estimate.mean.shape[0], estimate.mean.shape[1], estimate.top_head)
        detail(frame, source, estimate, metric, layer, head)
        st.caption(agreement_sentence(frame, source, found.effects, metric), help=GLOSSARY["ceiling"])
    with left:
        st.markdown(found.above, help=GLOSSARY["estimator"])
        draw_grid(shown, (layer, head))
    with left:
        draw_bars(shown)


def detail(frame: Frame, source: Source, estimate: HeadEstimate, metric: str, layer: int, head: int) -> None:
    mean, limits = float(estimate.mean[layer, head]), interval_at(estimate, layer, head)
    number = f"**{signed(mean)} {METRIC_UNITS[metric]}** {limits}"
    subject = head_subject(ablation_words(source.spec), layer, head)
    if estimate.unclear[layer, head]:
        st.markdown(f"{subject} has no clear effect by the {source.estimator} estimator: {number}.")
    else:
        meanings = TEXT_MEANING if frame.task.kind == "text" else MEANINGS[metric]
        st.markdown(f"{subject} {meanings[0 if mean > 0 else 1]}: {number}, {source.estimator} estimator.")
    effect_tile, rank_tile, found_tile = st.columns(3)
    with effect_tile:
        tile("Effect", signed(mean), limits, term="effect")
    with rank_tile:
        tile("Rank", str(estimate.rank[layer, head]), f"of {estimate.rank.size}", term="rank")
    with found_tile:
        q_tile(estimate, layer, head)


def agreement_sentence(frame: Frame, source: Source, effects: HeadStatistics | None, metric: str) -> str:
    """Compare a gradient ranking with that of an exact run of the same task and ablation, if one is stored."""
    if effects is None:
        return "Both parts are stored runs of their own: choose them under Run."
    like = [
        run for run in score_runs(frame.runs, frame.model, frame.task.name) if run.spec.ablation == source.spec.ablation
    ]
    if not like:
        return "No exact run of this task is stored to compare the ranking with."
    ranks = agreement(effects, statistics_of(frame.store, like[0], metric))
    name = shown_name(frame.runs, like[0])
    ceiling = f" (noise ceiling {ranks.ceiling:.2f})" if np.isfinite(ranks.ceiling) else ""
    return f"Rank correlation with the exact run {name}: {ranks.correlation:.2f}{ceiling}. Shared examples raise it."
