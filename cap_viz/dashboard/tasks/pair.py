"""Comparison of two tasks head by head: agreement of their rankings, and differences beyond noise."""

from __future__ import annotations

import numpy as np
import streamlit as st

from cap_viz.dashboard.components.head_map import Head, head_map, pick_head, pick_point
from cap_viz.dashboard.components.panels import p_words
from cap_viz.dashboard.heads.data import SPECIFICITY_UNIT, agreement, shared_top
from cap_viz.dashboard.stored import specificity_of
from cap_viz.dashboard.tasks.data import SCALE_UNITS, TaskPair
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid, colour_limit
from cap_viz.figures.specificity import effect_scatter
from cap_viz.figures.theme import CONFIG
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.store import Store
from cap_viz.stats import Specificity

MAP_WIDTH, MAP_HEIGHT = 172, 392
SCATTER = "tasks_scatter"


def pair_section(store: Store, choice: TaskPair, selected: Head | None) -> None:
    """Draw the whole comparison of two tasks. Raises `CapVizError` if the two runs are too small to compare."""
    found = specificity_of(store, choice.first.run, choice.second.run)
    st.markdown(pair_sentence(choice, found), help=GLOSSARY["difference"])
    maps, scatter = st.columns([11, 9], gap="medium")
    with maps:
        pair_maps(choice, found, selected)
    with scatter:
        pair_scatter(choice, found, selected)


def pair_sentence(choice: TaskPair, found: Specificity) -> str:
    first, second = choice.first, choice.second
    ranks = agreement(first.stats, second.stats)
    shared = shared_top(first.stats, second.stats, choice.k)
    more, less = (int((found.survives & side).sum()) for side in (found.mean > 0, found.mean < 0))
    ceiling = f" of at most {ranks.ceiling:.2f}" if np.isfinite(ranks.ceiling) else ""
    correlation = f"{ranks.correlation:.2f}".replace("-", "−")
    return (
        f"**{shared.shared}** of the top {shared.k} heads are shared ({shared.expected:.1f} by chance, "
        f"p {p_words(shared.p_value)}); **{more}** matter more to {first.title}, **{less}** more to "
        f"{second.title}. Rank correlation **{correlation}**{ceiling}."
    )


def pair_maps(choice: TaskPair, found: Specificity | None, selected: Head | None) -> None:
    """Draw both tasks on one scale, and their difference where there is one; a click selects a head."""
    both, unit = (choice.first, choice.second), SCALE_UNITS[choice.scale]
    first, second = (one.title for one in both)
    ends = ablation_words(*(one.run.spec for one in both)).ends
    estimates = [one.estimate(choice.scale) for one in both]
    limit = colour_limit(*(one.mean for one in estimates))
    with st.container(horizontal=True, gap="small"):
        for key, title, estimate in zip(("tasks_first", "tasks_second"), (first, second), estimates, strict=True):
            grid = Grid.of(estimate, ends=ends, limit=limit, selected=selected, digits=2)
            titled_map(grid, key, title, f"Effect of each head on {title}", unit)
        if found is not None:
            sides, also = (f"more on {second}", f"more on {first}"), {first: found.task, second: found.control}
            grid = Grid.of(found, ends=sides, selected=selected, also=also, digits=2)
            label = f"Difference of the standardised effects, {first} minus {second}"
            titled_map(grid, "tasks_difference", "Difference", label, SPECIFICITY_UNIT)
    st.caption(
        f"Teal: {ends[1]}, brown: {ends[0]}, up to ± {limit:.2g} {unit}; in the difference, teal: more on {first}. "
        "● beyond chance, ▲ beyond the scale, faded: the interval includes zero.",
        help=GLOSSARY["difference"],
    )


def titled_map(grid: Grid, key: str, title: str, label: str, unit: str) -> None:
    with st.container(width=MAP_WIDTH, gap="xsmall"):
        st.markdown(f"**{title}**")
        head_map(grid, key=key, unit=unit, label=label, on_pick=pick_head, small=True, tallest=MAP_HEIGHT)


def pair_scatter(choice: TaskPair, found: Specificity, selected: Head | None) -> None:
    names = (choice.first.title, choice.second.title)
    st.plotly_chart(
        effect_scatter(found.task, found.control, found.survives, names=names, selected=selected, height=MAP_HEIGHT),
        key=SCATTER,
        config=CONFIG,
        on_select=lambda: pick_point(SCATTER),
        selection_mode="points",
        alt=f"Standardised effect of every head on {names[0]} against {names[1]}",
    )
    st.caption(
        f"Effects divided by how much heads truly differ: {found.task_scale:.3f} nats per token on {names[0]} "
        f"(n = {found.n_task}), {found.control_scale:.3f} on {names[1]} (n = {found.n_control}). A head can matter "
        "more to one of two texts for other reasons than reasoning: subject, format and length differ, too."
    )
