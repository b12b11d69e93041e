"""One signed number per head, as a clickable grid and as ranked bars; shared by every view of the Heads page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from jaxtyping import Bool, Float, Int

from cap_viz.dashboard.components.head_map import selected_head, show_grid, take_click
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid
from cap_viz.figures.ranked_bars import Bars, ranked_bars
from cap_viz.figures.theme import CONFIG

MOST_BARS = 60


@dataclass(frozen=True)
class HeadMap:
    """Values per head for a view. `ends`: meaning of the two ends of the colour scale, negative first."""

    mean: Float[np.ndarray, "layer head"]
    low: Float[np.ndarray, "layer head"]
    high: Float[np.ndarray, "layer head"]
    survives: Bool[np.ndarray, "layer head"]
    rank: Int[np.ndarray, "layer head"]
    hover: Sequence[Sequence[str]]
    limit: float
    unit: str
    title: str
    ends: tuple[str, str]
    quantity: str = "effect"

    @property
    def unclear(self) -> Bool[np.ndarray, "layer head"]:
        """Heads with an interval that includes zero, or with no interval."""
        return ~((self.low > 0) | (self.high < 0))

    @property
    def top(self) -> tuple[int, int]:
        """Head of rank 1, selected when the page opens."""
        layer, head = np.unravel_index(int(np.argmin(self.rank)), self.rank.shape)
        return int(layer), int(head)


def draw_grid(shown: HeadMap, selected: tuple[int, int], more: Callable[[go.Figure], None] | None = None) -> None:
    """Draw the grid with its legend; `more` may add to the figure."""
    grid = Grid(
        mean=shown.mean,
        limit=shown.limit,
        hover=shown.hover,
        faded=shown.unclear,
        marked=shown.survives,
        selected=selected,
        ends=shown.ends,
    )
    show_grid(grid, shown.unit, shown.title, more)
    st.caption(
        f"● {int(shown.survives.sum())} of {shown.mean.size} heads survive the false-discovery control · ▲ △ beyond "
        "the colour scale · faded: the interval includes zero",
        help=GLOSSARY["fdr"],
    )


def draw_bars(shown: HeadMap, *, ranks: bool = True) -> None:
    """Draw the heads of highest rank as bars with whiskers; `ranks` is False if values are too coarse to rank."""
    title, slider = st.columns([1, 1], vertical_alignment="center")
    title.markdown("#### Ranked heads", help=GLOSSARY["rank"])
    if not ranks:
        st.caption("Choose another metric to rank heads: errors are too coarse for it.")
        return
    most = min(MOST_BARS, shown.mean.size)
    top = most if most <= 5 else slider.slider("Heads shown", 5, most, min(25, most), key="heads_top")
    order = np.argsort(shown.rank, axis=None)[: int(top)]
    layers, heads = np.unravel_index(order, shown.rank.shape)
    address = np.stack([layers, heads], axis=1)
    chosen = [i for i, pair in enumerate(address.tolist()) if tuple(pair) == selected_head()]
    bars = Bars(
        labels=[f"L{layer} H{head}" for layer, head in address],
        mean=shown.mean[layers, heads],
        low=shown.low[layers, heads],
        high=shown.high[layers, heads],
        address=address,
        selected=chosen[0] if chosen else None,
    )
    st.plotly_chart(
        ranked_bars(bars, unit=shown.unit, quantity=shown.quantity),
        key="heads_ranked",
        config=CONFIG,
        on_select=lambda: take_click("heads_ranked"),
        selection_mode="points",
        alt=f"{shown.title}: the largest, with 95 % confidence intervals",
    )
