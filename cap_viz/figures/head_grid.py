"""Signed values of all heads: the data of a head map, and the map as a Plotly figure for exported files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Self

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int

from cap_viz.figures.theme import ACCENT, HELPS, HURTS, NEUTRAL, blank, signed
from cap_viz.stats import HeadEstimate

GHOST = "rgba(128,134,148,0.09)"
FADED_OPACITY = 0.38
GRID_MARGINS = 72
DIVERGING = (
    (0.0, "rgba(181,105,28,1)"),
    (0.4999, "rgba(181,105,28,0)"),
    (0.5, "rgba(128,128,128,0)"),
    (0.5001, "rgba(18,136,123,0)"),
    (1.0, "rgba(18,136,123,1)"),
)


def colour_limit(*means: Float[np.ndarray, "layer head"]) -> float:
    """Return the shared end of the colour scale: the 98th percentile of absolute effects, so that few are clipped.

    The largest absolute effect where that percentile is 0; 1 where every effect is 0 or there is none.
    """
    values = np.concatenate([np.zeros(0), *(np.abs(mean[np.isfinite(mean)]).ravel() for mean in means)])
    if not values.size or not values.max() > 0:
        return 1.0
    return float(np.quantile(values, 0.98)) or float(values.max())


@dataclass(frozen=True)
class Grid:
    """Signed effects of all heads, layer × head, with what is said of each; all but the effects may be left out.

    NaN effects have no value yet. `ends` names the meanings of the negative and the positive end of the
    colour scale, `also` further values of every head by their title, `digits` the decimals of all of them.
    """

    mean: Float[np.ndarray, "layer head"]
    limit: float
    ends: tuple[str, str]
    hover: Sequence[Sequence[str]] | None = None
    faded: Bool[np.ndarray, "layer head"] | None = None
    marked: Bool[np.ndarray, "layer head"] | None = None
    selected: tuple[int, int] | None = None
    low: Float[np.ndarray, "layer head"] | None = None
    high: Float[np.ndarray, "layer head"] | None = None
    rank: Int[np.ndarray, "layer head"] | None = None
    also: Mapping[str, np.ndarray] = field(default_factory=dict)
    digits: int = 3

    @classmethod
    def of(
        cls,
        estimate: HeadEstimate,
        *,
        ends: tuple[str, str],
        hover: Sequence[Sequence[str]] | None = None,
        limit: float | None = None,
        selected: tuple[int, int] | None = None,
        ranked: bool = True,
        also: Mapping[str, np.ndarray] | None = None,
        digits: int = 3,
    ) -> Self:
        """Fade heads whose interval includes zero, mark those that survive; the scale's end is that of the effects."""
        return cls(
            estimate.mean,
            colour_limit(estimate.mean) if limit is None else limit,
            ends,
            hover,
            estimate.unclear,
            estimate.survives,
            selected,
            estimate.low,
            estimate.high,
            estimate.rank if ranked else None,
            also or {},
            digits,
        )

    def says(self, layer: int, head: int, unit: str) -> str:
        """Describe a head in a sentence: effect, interval, meaning, rank, whether it is beyond chance.

        The head map composes the same sentence in the browser (assets/head_map.js).
        """
        place = layer, head
        name, mean = f"Layer {layer}, head {head}", float(self.mean[place])
        if not np.isfinite(mean):
            return f"{name}: no value yet"
        unclear = self.faded is not None and bool(self.faded[place])
        said = [f"{name}: {signed(mean, self.digits)} {unit}{self.interval(place)}"]
        if self.faded is not None:
            said.append("no clear effect" if unclear else self.ends[int(mean > 0)])
        if self.rank is not None:
            said.append(f"rank {self.rank[place]} of {self.rank.size}")
        if self.marked is not None and not unclear:
            said.append("beyond chance" if self.marked[place] else "not beyond chance")
        return ", ".join([*said, *(f"{title} {self.number(values[place])}" for title, values in self.also.items())])

    def number(self, value: np.generic) -> str:
        return str(value) if isinstance(value, np.integer) else signed(float(value), self.digits)

    def interval(self, place: tuple[int, int]) -> str:
        if self.low is None or self.high is None or not np.isfinite(self.low[place]):
            return ""
        return f" [{signed(float(self.low[place]), self.digits)}, {signed(float(self.high[place]), self.digits)}]"

    @property
    def shape(self) -> tuple[int, int]:
        return self.mean.shape[0], self.mean.shape[1]


def grid_height(n_layers: int, tallest: int = 480) -> int:
    return min(tallest, GRID_MARGINS + 34 * n_layers)


def head_grid(grid: Grid, *, unit: str, tallest: int = 480) -> go.Figure:
    """Plot the signed heatmap. An invisible scatter takes clicks: heatmaps report no selection (plotly.py #5026)."""
    n_layers, n_heads = grid.shape
    figure = blank(height=grid_height(n_layers, tallest), left=44, right=10, top=32, bottom=40)
    figure.add_traces([*cells(grid.mean, grid.faded, grid.limit, unit=unit), *marks(grid), click_targets(grid, unit)])
    if grid.selected is not None:
        frame_cell(figure, *grid.selected)
    figure.update_xaxes(
        title="head", tickvals=ticks(n_heads, 16), range=[-0.5, n_heads - 0.5], ticks="", tickfont={"size": 11}
    )
    figure.update_yaxes(
        title="layer",
        tickvals=ticks(n_layers, (grid_height(n_layers, tallest) - GRID_MARGINS) // 13),
        range=[n_layers - 0.5, -0.5],
        ticks="",
        tickfont={"size": 10},
    )
    figure.update_layout(hoverdistance=80)
    label_scale(figure, grid.limit, grid.ends, unit if n_heads * 4 > 60 or tallest > 400 else "")
    return figure


def named_grid(
    grid: Grid, *, unit: str, rows: Sequence[str], columns: Sequence[str], titles: tuple[str, str]
) -> go.Figure:
    """Plot signed effects of other things than all heads: named rows and columns, under the titles of both."""
    figure = head_grid(grid, unit=unit)
    every = {"tickmode": "array", "tickfont": {"size": 10}}
    figure.update_xaxes(
        title=titles[1], tickvals=list(range(len(columns))), ticktext=list(columns), tickangle=-60, **every
    )
    figure.update_yaxes(title=titles[0], tickvals=list(range(len(rows))), ticktext=list(rows), **every)
    figure.update_layout(margin={"l": 74, "b": 74}, height=110 + 24 * max(4, len(rows)) + 36)
    return figure


def cells(
    mean: Float[np.ndarray, "layer head"],
    faded: Bool[np.ndarray, "layer head"] | None,
    limit: float,
    *,
    unit: str | None = None,
) -> list[go.Heatmap]:
    """Draw all cells: a faint one for every head, then the clear and the faded effects."""
    faded = np.zeros(mean.shape, dtype=bool) if faded is None else faded
    return [
        flat_cells(mean.shape),
        signed_cells(np.where(faded, np.nan, mean), limit, unit=unit),
        signed_cells(np.where(faded, mean, np.nan), limit, opacity=FADED_OPACITY),
    ]


def ticks(n: int, room: int) -> list[int]:
    """Return 0, k, 2k … below `n`, with the smallest k that needs at most `room` labels."""
    return list(range(0, n, max(1, ceil(n / max(1, room)))))


def flat_cells(shape: tuple[int, ...]) -> go.Heatmap:
    """Draw a faint cell for every head, so that heads without effect remain visible."""
    return go.Heatmap(
        z=np.zeros(shape), colorscale=[[0, GHOST], [1, GHOST]], showscale=False, hoverinfo="skip", xgap=1, ygap=1
    )


def signed_cells(
    values: Float[np.ndarray, "layer head"], limit: float, *, unit: str | None = None, opacity: float = 1.0
) -> go.Heatmap:
    cells = go.Heatmap(
        z=values,
        zmin=-limit,
        zmax=limit,
        zmid=0,
        colorscale=[list(stop) for stop in DIVERGING],
        opacity=opacity,
        xgap=1,
        ygap=1,
        hoverinfo="skip",
        showscale=unit is not None,
    )
    if unit is not None:
        cells.colorbar = {
            "orientation": "h",
            "x": 0.5,
            "xpad": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "ypad": 5,
            "len": 1.0,
            "thickness": 6,
            "outlinewidth": 0,
            "showticklabels": False,
            "ticks": "",
        }
    return cells


def label_scale(figure: go.Figure, limit: float, meanings: tuple[str, str], unit: str) -> None:
    """Label the colour bar: meaning and value at both ends, zero and the unit in the middle."""
    ends = (
        (0.0, "left", f"{meanings[0]}  −{limit:.2g}", HELPS),
        (0.5, "center", f"0 {unit}".strip(), None),
        (1.0, "right", f"+{limit:.2g}  {meanings[1]}", HURTS),
    )
    for x, anchor, text, colour in ends:
        figure.add_annotation(
            x=x,
            y=1.0,
            xref="paper",
            yref="paper",
            yshift=20,
            xanchor=anchor,
            yanchor="middle",
            text=text,
            showarrow=False,
            font={"size": 11} if colour is None else {"size": 11, "color": colour},
        )


def marks(grid: Grid) -> list[go.Scatter]:
    """Mark heads that survive the false-discovery control, and heads beyond the colour scale.

    Survivors get a dot; heads beyond the scale a triangle, open unless they survive. White on strong colour and grey
    on weak colour are legible on light and dark pages.
    """
    size = np.abs(np.nan_to_num(grid.mean))
    clipped, strong = size > grid.limit * (1 + 1e-9), size > grid.limit / 2
    marked = np.zeros(grid.mean.shape, dtype=bool) if grid.marked is None else grid.marked
    dots = marked & ~clipped
    return [
        mark_cells(clipped & marked, "triangle-up", 7, "#ffffff"),
        mark_cells(clipped & ~marked, "triangle-up-open", 7, "#ffffff"),
        mark_cells(dots & strong, "circle", 4, "#ffffff"),
        mark_cells(dots & ~strong, "circle", 4, NEUTRAL),
    ]


def mark_cells(cells: Bool[np.ndarray, "layer head"], symbol: str, size: float, colour: str) -> go.Scatter:
    layers, heads = np.nonzero(cells)
    always = {"marker": {"opacity": 1}}
    return go.Scatter(
        x=heads,
        y=layers,
        mode="markers",
        hoverinfo="skip",
        marker={
            "symbol": symbol,
            "size": size,
            "color": colour,
            "line": {"width": 1 if symbol.endswith("open") else 0},
        },
        selected=always,
        unselected=always,
    )


def click_targets(grid: Grid, unit: str) -> go.Scatter:
    n_layers, n_heads = grid.mean.shape
    layers, heads = np.indices((n_layers, n_heads))
    invisible = {"marker": {"opacity": 0}}
    return go.Scatter(
        x=heads.ravel(),
        y=layers.ravel(),
        mode="markers",
        marker={"symbol": "square", "size": 8, "opacity": 0, "color": NEUTRAL},
        customdata=np.stack([layers.ravel(), heads.ravel()], axis=1),
        text=[
            grid.says(layer, head, unit) if grid.hover is None else grid.hover[layer][head]
            for layer in range(n_layers)
            for head in range(n_heads)
        ],
        hovertemplate="%{text}<extra></extra>",
        selected=invisible,
        unselected=invisible,
    )


def frame_cell(figure: go.Figure, layer: int, head: int) -> None:
    figure.add_shape(
        type="rect",
        x0=head - 0.5,
        x1=head + 0.5,
        y0=layer - 0.5,
        y1=layer + 0.5,
        line={"color": ACCENT, "width": 2.5},
    )
