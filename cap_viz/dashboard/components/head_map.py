"""Head map: a cell per head, drawn in the browser from numbers, with pointer, keyboard and screen reader.

    head_map(grid, key="heads_map", unit="nats", label="Effect of removing each head", on_pick=select)

A Streamlit component v2 (assets/head_map.js): the frame moves at the click, before the server has answered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import plotly.graph_objects as go
import streamlit as st
from streamlit.components.v2 import component

from cap_viz.dashboard.components.accessibility import minified
from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.selection import Selection, choose
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid
from cap_viz.figures.head_map import Head, map_data, map_height
from cap_viz.figures.specificity import effect_scatter
from cap_viz.stats import Specificity

BOX_WIDTH = 96

MAP = component(
    "cap_viz_head_map",
    html='<div class="map"></div><div class="tip" popover="manual"></div>',
    css=minified("head_map.css"),
    js=minified("head_map.js"),
)


def head_map(
    grid: Grid, *, key: str, unit: str, label: str, on_pick: Callable[[int, int], None] | None = None, **more: Any
) -> None:
    """Draw a head map; `grid.selected` is framed, and `on_pick(layer, head)` called as a callback on click or Enter.

    Without `on_pick` cells are read only. `label` is what a screen reader calls the map; `more` is as in `map_data`.
    """

    def picked() -> None:
        layer, head = st.session_state[key]["pick"]
        if on_pick is not None:
            on_pick(int(layer), int(head))

    data = map_data(grid, unit, label, **more)
    MAP(key=key, data={**data, "clickable": on_pick is not None}, height=map_height(data), on_pick_change=picked)


def pick_head(layer: int, head: int) -> None:
    """Choose a head for the address; call it in a callback."""
    choose({"layer": layer, "head": head})


def head_chart(figure: partial[go.Figure], *, key: str, alt: str) -> None:
    """Draw a figure whose points are heads, as `chart` does: a click on one chooses it."""
    chart(figure, key=key, alt=alt, on_pick=lambda: pick_point(key))


def difference_scatter(
    found: Specificity, names: tuple[str, str], selected: Head | None, *, key: str, height: int = 300
) -> None:
    """Draw the two standardised effects of every head against each other, and say what they were divided by."""
    head_chart(
        partial(
            effect_scatter, found.task, found.control, found.survives, names=names, selected=selected, height=height
        ),
        key=key,
        alt=f"Standardised effect of every head on {names[0]} against {names[1]}",
    )
    st.caption(
        f"Effects divided by how much heads truly differ: {found.task_scale:.3f} nats per token on {names[0]} "
        f"(n = {found.n_task}), {found.control_scale:.3f} on {names[1]} (n = {found.n_control}). Coloured: beyond "
        "chance. A head can matter more to one of two texts for other reasons than reasoning: subject, format and "
        "length differ, too.",
        help=GLOSSARY["specificity"],
    )


def pick_point(key: str) -> None:
    """Choose the head of a clicked point of a figure, in its callback; a cleared selection changes nothing."""
    points = st.session_state[key]["selection"]["points"]
    if points and "customdata" in points[0]:
        head = points[0]["customdata"]
        pick_head(int(head["0"]), int(head["1"]))


def head_boxes(selection: Selection, n_layers: int, n_heads: int, *, default: Head) -> Head:
    """Draw the number boxes of layer and head side by side; return the chosen head."""
    with st.container(width=BOX_WIDTH):
        layer = selection.number_input("Layer", "layer", 0, n_layers - 1, default=default[0])
    with st.container(width=BOX_WIDTH):
        head = selection.number_input("Head", "head", 0, n_heads - 1, default=default[1])
    return layer, head


def head_name(layer: int, head: int) -> str:
    return f"L{layer}H{head}"


def named_heads(n_layers: int, n_heads: int) -> dict[str, Head]:
    """Map each head's name to (layer, head), in layer order, as options for selecting heads."""
    return {head_name(layer, head): (layer, head) for layer in range(n_layers) for head in range(n_heads)}
