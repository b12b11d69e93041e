"""Specificity view of the Heads page: effects on a task compared with effects on text that asks for no reasoning.

The wording compares two measurements and never claims what a head is for.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.head_map import head_inputs, take_click
from cap_viz.dashboard.components.panels import tile
from cap_viz.dashboard.heads.detail import HeadView, head_subject, interval_at, q_tile
from cap_viz.dashboard.heads.map import HeadMap, draw_bars, draw_grid
from cap_viz.dashboard.stored import HeadStatistics, specificity_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.specificity import effect_scatter
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.stats import RankAgreement, Specificity, TopOverlap, rank_agreement, top_overlap, usual_top

UNIT = "SD over heads"


def shared_top(task: HeadStatistics, control: HeadStatistics, k: int | None = None) -> TopOverlap:
    """Return the overlap of the k heads with the largest effects, by default a tenth of all."""
    return top_overlap(task.estimate.mean, control.estimate.mean, k or usual_top(task.estimate.mean.size))


def agreement(task: HeadStatistics, control: HeadStatistics) -> RankAgreement:
    known = [np.nan if stats.reliability is None else stats.reliability.full for stats in (task, control)]
    return rank_agreement(task.estimate.mean, control.estimate.mean, *known)


def overlap_sentence(task: HeadView, control: HeadView) -> str:
    """Report the agreement of the two rankings, with the overlap expected by chance and the noise ceiling."""
    shared, ranks = shared_top(task.stats, control.stats), agreement(task.stats, control.stats)
    ceiling = f"{ranks.ceiling:.2f}" if np.isfinite(ranks.ceiling) else "unknown"
    return (
        f"{shared.shared} of the top {shared.k} heads for this task are also among the top {shared.k} on "
        f"{control.task.title.lower()} ({shared.expected:.1f} expected by chance); rank correlation "
        f"{signed_if_negative(ranks.correlation)}, noise ceiling {ceiling}."
    )


def signed_if_negative(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def specificity_body(task: HeadView, control: HeadView) -> None:
    """Draw grid and ranking of the differences. Raises `CapVizError` when the runs are too small to compare."""
    assert task.source.run is not None
    assert control.source.run is not None
    found = specificity_of(task.frame.store, task.source.run, control.source.run)
    shown = specificity_map(task, control, found)
    left, right = st.columns([11, 10], gap="medium")
    with right:
        layer, head = head_inputs(task.scores.n_layers, task.scores.n_heads, found.top_head)
        detail(task, control, found, shown, layer, head)
    with left:
        st.markdown(overlap_sentence(task, control), help=GLOSSARY["ceiling"])
        draw_grid(shown, (layer, head))
    lower_left, lower_right = st.columns([11, 10], gap="medium")
    with lower_left:
        draw_bars(shown)
    with lower_right:
        reading(task, control, found)


def specificity_map(task: HeadView, control: HeadView, found: Specificity) -> HeadMap:
    n_layers, n_heads = found.mean.shape
    return HeadMap(
        found,
        hover=[[hover(task, control, found, layer, head) for head in range(n_heads)] for layer in range(n_layers)],
        unit=UNIT,
        title=f"Specificity of each head, {task.task.title} against {control.task.title.lower()}",
        quantity="specificity",
        ends=(f"more on {control.task.title.lower()}", "more on this task"),
    )


def hover(task: HeadView, control: HeadView, found: Specificity, layer: int, head: int) -> str:
    here, there = found.task[layer, head], found.control[layer, head]
    return (
        f"<b>Layer {layer}, head {head}</b>: specificity {signed(found.mean[layer, head], 2)} "
        f"{interval_at(found, layer, head, 2)}<br>"
        f"{task.task.title} {signed(here, 2)}, {control.task.title.lower()} {signed(there, 2)} {UNIT}"
    )


def detail(task: HeadView, control: HeadView, found: Specificity, shown: HeadMap, layer: int, head: int) -> None:
    """Draw one head: its difference with interval, both effects behind it, and its rank among all heads."""
    st.markdown(plain_sentence(task, control, found, layer, head))
    effect_tile, rank_tile, found_tile = st.columns(3)
    with effect_tile:
        value, limits = signed(found.mean[layer, head], 2), interval_at(found, layer, head, 2)
        tile("Specificity", value, limits, term="specificity")
    with rank_tile:
        by_effect = task.stats.estimate.rank[layer, head]
        tile("Rank", str(found.rank[layer, head]), f"of {found.rank.size}; {by_effect} by task effect")
    with found_tile:
        q_tile(found, layer, head)
    st.plotly_chart(
        effect_scatter(
            found.task,
            found.control,
            found.survives,
            shown.hover,
            names=(task.task.title, control.task.title),
            selected=(layer, head),
        ),
        key="heads_scatter",
        config=CONFIG,
        on_select=lambda: take_click("heads_scatter"),
        selection_mode="points",
        alt=f"Standardised effect of every head on {task.task.title} against {control.task.title.lower()}",
    )
    st.caption(
        "Dotted: the same effect on both. Coloured: the difference survives the false-discovery control, above the "
        "line more on this task, below it more on the text."
    )


def plain_sentence(task: HeadView, control: HeadView, found: Specificity, layer: int, head: int) -> str:
    """Compare the two measured effects in one sentence, without claiming what the head is for."""
    text = control.task.title.lower()
    more, less = ("this task", text) if found.mean[layer, head] > 0 else (text, "this task")
    if found.survives[layer, head]:
        verdict = f"**clearly more on {more} than on {less}**"
    elif found.unclear[layer, head]:
        verdict = "no clear difference between the two"
    else:
        verdict = f"a hint of more on {more} than on {less}, which does not survive the false-discovery control"
    here, there = (view.stats.estimate.mean[layer, head] for view in (task, control))
    return (
        f"{head_subject(task.words, layer, head)} changes the loss by {signed(here)} nats per token on this task "
        f"({signed(found.task[layer, head], 2)} SD) and by {signed(there)} on {text} "
        f"({signed(found.control[layer, head], 2)} SD): {verdict}."
    )


def reading(task: HeadView, control: HeadView, found: Specificity) -> None:
    st.markdown("#### Reading specificity")
    text = control.task.title.lower()
    said = (
        f"Each effect is divided by how much heads truly differ in its run: {found.task_scale:.3f} nats per token on "
        f"{task.task.title} ({found.n_task} examples), {found.control_scale:.3f} on {text} ({found.n_control}). The "
        "spread that few examples add by chance is taken out first, so runs of different size can be compared.",
        "Intervals resample the examples of both runs (2,000 bootstrap resamples, 95 %).",
        f"A head near 0 matters as much to {text} as to this task: its effect is no sign of reasoning.",
        f"A head far from 0 differs between these two texts. That can have reasons other than reasoning: {text} also "
        "differs in subject, format and length.",
    )
    st.markdown("\n".join(f"- {one}" for one in said))


def specificity_table(task: HeadStatistics, control: HeadStatistics, found: Specificity) -> pd.DataFrame:
    """One row per head, most specific to the task first. Effects in nats per token, the rest in SD over heads."""
    table = pd.DataFrame(
        {
            **found.columns("specificity"),
            "task_standardised": found.task.ravel(),
            "control_standardised": found.control.ravel(),
            "task_effect": task.estimate.mean.ravel(),
            "control_effect": control.estimate.mean.ravel(),
        }
    )
    return table.sort_values("rank")
