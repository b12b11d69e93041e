"""Comparison of two tasks head by head: agreement of their rankings, and differences beyond noise."""

from __future__ import annotations

from math import isnan

import streamlit as st

from cap_viz.dashboard.components.head_map import take_click, turned
from cap_viz.dashboard.heads.data import SPECIFICITY_UNIT as UNIT
from cap_viz.dashboard.heads.data import agreement, shared_top
from cap_viz.dashboard.heads.detail import interval
from cap_viz.dashboard.stored import specificity_of
from cap_viz.dashboard.tasks.controls import TaskPair
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid, grid_width, head_grid
from cap_viz.figures.specificity import effect_scatter
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.runs.store import Store
from cap_viz.stats import Specificity

DIFFERENCE, SCATTER = "tasks_difference", "tasks_scatter"


def pair_section(store: Store, choice: TaskPair, selected: tuple[int, int] | None) -> None:
    """Draw the comparison of two tasks. Raises `CapVizError` if the two runs are too small to compare."""
    first, second = choice.first, choice.second
    found = specificity_of(store, first.run, second.run)
    st.markdown(f"#### {first.title} against {second.title}", help=GLOSSARY["difference"])
    st.markdown(pair_sentence(choice, found))
    hover = hover_of(choice, found)
    difference, scatter = turned(DIFFERENCE), turned(SCATTER)
    left, right = st.columns([11, 9], gap="medium")
    with left:
        ends = f"more on {second.title}", f"more on {first.title}"
        grid = Grid.of(found, hover=hover, ends=ends, selected=selected)
        st.plotly_chart(
            head_grid(grid, unit="SD", tallest=420),
            key=difference,
            width=grid_width(*grid.shape, 420),
            config=CONFIG,
            on_select=lambda: take_click(difference),
            selection_mode="points",
            alt=f"Difference of the standardised effects, {first.title} minus {second.title}",
        )
    with right:
        st.plotly_chart(
            effect_scatter(
                found.task,
                found.control,
                found.survives,
                hover,
                names=(first.title, second.title),
                selected=selected,
                height=420,
            ),
            key=scatter,
            config=CONFIG,
            on_select=lambda: take_click(scatter),
            selection_mode="points",
            alt=f"Standardised effect of every head on {first.title} against {second.title}",
        )
    st.caption(
        f"Each effect is divided by how much heads truly differ in its run: {found.task_scale:.3f} nats per token on "
        f"{first.title} (n = {found.n_task}), {found.control_scale:.3f} on {second.title} "
        f"(n = {found.n_control}). Intervals resample the examples of both. A head that matters more to one of two "
        "texts can do so for reasons other than reasoning: subject, format and length differ, too."
    )


def pair_sentence(choice: TaskPair, found: Specificity) -> str:
    first, second = choice.first, choice.second
    ranks = agreement(first.stats, second.stats)
    shared = shared_top(first.stats, second.stats, choice.k)
    ceiling = "unknown" if isnan(ranks.ceiling) else f"{ranks.ceiling:.2f}"
    chance = f"{shared.expected:.1f} by chance, p = {shared.p_value:.2g}"
    correlation = signed(ranks.correlation, 2).lstrip("+")
    more = int((found.survives & (found.mean > 0)).sum())
    less = int((found.survives & (found.mean < 0)).sum())
    return (
        f"Rank correlation **{correlation}**, noise ceiling {ceiling}; "
        f"**{shared.shared}** of the top {shared.k} are shared ({chance}). After the false-discovery control "
        f"**{more}** heads matter more to {first.title}, **{less}** more to {second.title}."
    )


def hover_of(choice: TaskPair, found: Specificity) -> list[list[str]]:
    first, second = choice.first.title, choice.second.title
    n_layers, n_heads = found.mean.shape
    return [
        [
            f"<b>Layer {layer}, head {head}</b>: difference {signed(found.mean[layer, head], 2)} "
            f"{interval(found.low[layer, head], found.high[layer, head], 2)}<br>{first} "
            f"{signed(found.task[layer, head], 2)}, {second} {signed(found.control[layer, head], 2)} {UNIT}"
            for head in range(n_heads)
        ]
        for layer in range(n_layers)
    ]
