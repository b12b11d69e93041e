"""Head map: a cell per head, drawn in the browser from numbers, with pointer, keyboard and screen reader.

    head_map(grid, key="heads_map", unit="nats", label="Effect of removing each head", on_pick=select)

A Streamlit component v2 (assets/head_map.js): the frame moves at the click, before the server has answered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from streamlit.components.v2 import component

from cap_viz.dashboard.components.accessibility import minified
from cap_viz.dashboard.selection import Selection, choose
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid, colour_limit
from cap_viz.figures.specificity import effect_scatter
from cap_viz.figures.theme import CONFIG
from cap_viz.stats import HeadEstimate, Specificity

Head = tuple[int, int]
TALLEST, TALLEST_SMALL = 452, 214
# Sizes in assets/head_map.css at the usual size of text: colour bar with its words, head numbers, axis titles, layers.
TEXT = 11
BAR, NUMBERS, TITLES, LABELS, BLOCKS, PADDING = 42, 15, 15, 22, 110, 4
HIGHEST_CELL = 34.0
# Cells are at most four times as wide as high.
WIDEST_CELL = 4
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


def map_data(
    grid: Grid,
    unit: str,
    label: str,
    *,
    off: Collection[Head] = (),
    framed: Collection[Head] = (),
    small: bool = False,
    tallest: int | None = None,
    text: int = TEXT,
    blocks: HeadEstimate | None = None,
) -> dict[str, Any]:
    """Return what the browser needs to draw a map: numbers in layer order, rounded to what can be seen.

    Heads in `off` get a cross, those in `framed` a frame. `small` leaves out the colour bar, for pages that explain one
    scale for several maps; `tallest` is the height that is not exceeded and `text` the size of the type, in pixels.
    `blocks` adds two columns that cannot be picked: whole attention layers and MLPs, on a scale of their own.
    """
    n_layers, n_heads = grid.shape
    # Colours of a small scale need more decimals than its numbers show.
    digits = grid.digits if grid.limit >= 10 ** (2 - grid.digits) else grid.digits + 3
    room = (tallest or (TALLEST_SMALL if small else TALLEST)) - around(small, text)
    row = round(min(HIGHEST_CELL * text / TEXT, room / n_layers), 2)
    blocks_width = BLOCKS if blocks is not None else 0
    return {
        "label": label,
        "unit": unit,
        "ends": list(grid.ends),
        "heads": n_heads,
        "row": row,
        "width": int((WIDEST_CELL * row * n_heads + LABELS + blocks_width) * text / TEXT),
        "small": small,
        "text": text,
        "limit": grid.limit,
        "top": f"{grid.limit:.2g}",
        "digits": grid.digits,
        "mean": rounded(grid.mean, digits),
        "low": None if grid.low is None else rounded(grid.low, digits),
        "high": None if grid.high is None else rounded(grid.high, digits),
        "rank": None if grid.rank is None else grid.rank.ravel().tolist(),
        "faded": flags(grid.faded),
        "marked": flags(grid.marked),
        "also": [[title, rounded(values, grid.digits)] for title, values in grid.also.items()],
        "whole": [title for title, values in grid.also.items() if np.issubdtype(values.dtype, np.integer)],
        "off": [layer * n_heads + head for layer, head in off],
        "framed": [layer * n_heads + head for layer, head in framed],
        "selected": None if grid.selected is None else grid.selected[0] * n_heads + grid.selected[1],
        "blocks": None if blocks is None else block_data(blocks),
    }


def block_data(blocks: HeadEstimate) -> dict[str, Any]:
    limit = colour_limit(blocks.mean)
    return {
        "limit": limit,
        "top": f"{limit:.2g}",
        "mean": rounded(blocks.mean, 3),
        "low": rounded(blocks.low, 3),
        "high": rounded(blocks.high, 3),
        "faded": flags(blocks.unclear),
    }


def rounded(values: np.ndarray, digits: int) -> list[float | int | None]:
    """Return rounded values in layer order; None for NaN, which JSON lacks."""
    if np.issubdtype(values.dtype, np.integer):
        return values.ravel().tolist()
    return [None if np.isnan(value) else round(value, digits) for value in values.ravel().tolist()]


def flags(values: np.ndarray | None) -> str:
    """Return a digit for each head; "" where nothing is known of any."""
    return "" if values is None else "".join("01"[int(value)] for value in values.ravel())


def map_height(data: dict[str, Any]) -> int:
    """Return the height in pixels, which is set before anything is drawn, so that nothing below moves."""
    return round(len(data["mean"]) // data["heads"] * data["row"]) + around(data["small"], data["text"])


def around(small: bool, text: int) -> int:
    """Return the height of all that is above and below the cells."""
    return round((NUMBERS + (0 if small else BAR + TITLES)) * text / TEXT) + 2 * PADDING


def pick_head(layer: int, head: int) -> None:
    """Choose a head for the address; call it in a callback."""
    choose({"layer": layer, "head": head})


def head_chart(figure: go.Figure, *, key: str, alt: str) -> None:
    """Draw a figure whose points are heads: a click on one chooses it. `alt` is what a screen reader says of it."""
    st.plotly_chart(figure, key=key, config=CONFIG, on_select=lambda: pick_point(key), selection_mode="points", alt=alt)


def difference_scatter(
    found: Specificity, names: tuple[str, str], selected: Head | None, *, key: str, height: int = 300
) -> None:
    """Draw the two standardised effects of every head against each other, and say what they were divided by."""
    head_chart(
        effect_scatter(found.task, found.control, found.survives, names=names, selected=selected, height=height),
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
