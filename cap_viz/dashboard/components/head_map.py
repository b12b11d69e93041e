"""Clickable head map with number inputs beside it; a click on the map sets the inputs."""

from __future__ import annotations

from collections.abc import Callable

import plotly.graph_objects as go
import streamlit as st

from cap_viz.dashboard.state import choose, clicked, keep_in_range
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid, grid_width, head_grid
from cap_viz.figures.theme import CONFIG

# Session key of the head at which the inputs begin.
START = "start_head"


def show_grid(grid: Grid, unit: str, alt: str, more: Callable[[go.Figure], None] | None = None) -> None:
    """Draw the clickable grid; `more` may add to the figure."""
    key = turned("heads_grid")
    figure = head_grid(grid, unit=unit)
    if more is not None:
        more(figure)
    st.plotly_chart(
        figure,
        key=key,
        width=grid_width(*grid.shape),
        config=CONFIG,
        on_select=lambda: take_click(key),
        selection_mode="points",
        alt=f"{alt}: {grid.mean.shape[0]} layers by {grid.mean.shape[1]} heads. The number inputs select one, too.",
    )


def turned(key: str) -> str:
    """Return the widget key of a clickable figure, a new one after each use of the number inputs.

    Under an old key Plotly takes a click on the cell it still holds as selected for a deselection and loses it.
    """
    return f"{key}_{st.session_state.get('heads_turn', 0)}"


def take_click(key: str) -> None:
    """Copy a clicked head into the bound inputs; a cleared selection changes nothing."""
    point = clicked(key)
    if point is not None:
        address = point["customdata"]
        st.session_state["layer"], st.session_state["head"] = int(address["0"]), int(address["1"])


def selected_head() -> tuple[int, int]:
    return int(st.session_state.get("layer") or 0), int(st.session_state.get("head") or 0)


def last_start(n_layers: int, n_heads: int) -> tuple[int, int]:
    """Return the head at which the inputs began last, for views that know no better; the first head at first."""
    layer, head = st.session_state.get(START) or (0, 0)
    return min(layer, n_layers - 1), min(head, n_heads - 1)


def head_name(layer: int, head: int) -> str:
    return f"L{layer}H{head}"


def named_heads(n_layers: int, n_heads: int) -> dict[str, tuple[int, int]]:
    """Map each head's name to (layer, head), in layer order, as options for selecting heads."""
    return {head_name(layer, head): (layer, head) for layer in range(n_layers) for head in range(n_heads)}


def head_inputs(n_layers: int, n_heads: int, start: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Draw the layer and head inputs, the keyboard's way to select a head.

    Both are bound to the URL and begin at `start` unless the URL or a click has set them.
    """
    follow(start)
    keep_in_range("layer", 0, n_layers - 1)
    keep_in_range("head", 0, n_heads - 1)
    first, second = st.columns(2)
    layer = first.number_input(
        f"Layer (0 to {n_layers - 1})", 0, n_layers - 1, start[0], key="layer", bind="query-params", on_change=next_turn
    )
    head = second.number_input(
        f"Head (0 to {n_heads - 1})",
        0,
        n_heads - 1,
        start[1],
        key="head",
        bind="query-params",
        on_change=next_turn,
        help=GLOSSARY["head"],
    )
    return int(layer), int(head)


def follow(start: tuple[int, int]) -> None:
    """Move on to a new `start` while no other head was chosen; write a chosen head again, for its address.

    The address leaves out a number that equals its start, so it must be written anew when the start changes.
    """
    former = st.session_state.get(START)
    st.session_state[START] = start
    if "layer" not in st.session_state or "head" not in st.session_state:
        return
    held = (st.session_state["layer"], st.session_state["head"])
    if None in held:
        choose({"layer": start[0], "head": start[1]})
    elif start != former:
        layer, head = start if held == former else held
        choose({"layer": layer, "head": head})


def next_turn() -> None:
    st.session_state["heads_turn"] = st.session_state.get("heads_turn", 0) + 1
