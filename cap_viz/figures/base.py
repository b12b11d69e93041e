"""Data in, Plotly figure out. No Streamlit here, no reading of files.

Every figure has a transparent background and colours that hold on both themes, because a theme switch repaints
without running the page again. Show them with `st.plotly_chart(figure, config=CONFIG)`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int

from cap_viz.pruning import CRITERIA

# After Okabe-Ito, fixed per criterion on every page; controls are greys. Each has a contrast of 3:1 on the page in both
# themes, which makes some darker than the original (tests/test_setup.py).
CRITERION_COLOURS = {
    "cap": "#0072B2",
    "wanda": "#C98600",
    "wanda_oneshot": "#9C6A1A",
    "cap_fine": "#D55E00",
    "sparsegpt": "#009E73",
    "ria": "#CC79A7",
    "taylor": "#3A95CC",
    "gblm": "#968A00",
    "head": "#7D63C2",
    "shuffled_cap": "#8D7B6E",
    "random": "#9A9087",
    "magnitude": "#8B92A0",
    "global_magnitude": "#6F7685",
}
# A shape of its own for each, since greys and neighbouring hues are hard to tell apart.
CRITERION_SYMBOLS = {
    "cap": "circle",
    "cap_fine": "diamond-wide",
    "wanda": "square",
    "wanda_oneshot": "square-cross",
    "sparsegpt": "pentagon",
    "ria": "triangle-down",
    "taylor": "star",
    "gblm": "hexagon",
    "head": "circle-x",
    "shuffled_cap": "cross",
    "random": "x",
    "magnitude": "triangle-up",
    "global_magnitude": "diamond",
}
# The same shapes as characters, for legends in text.
SYMBOL_GLYPHS = {
    "circle": "●",
    "square": "■",
    "square-cross": "⊞",
    "pentagon": "⬟",
    "triangle-down": "▼",
    "star": "★",
    "hexagon": "⬢",
    "circle-x": "⊗",
    "cross": "✚",
    "x": "✖",
    "triangle-up": "▲",
    "diamond": "◆",
    "diamond-wide": "◈",
}
OTHER_CRITERION = "#6F7685"
# Signed head effects: teal where ablating the head hurts, brown where it helps.
HURTS, HELPS = "#12887B", "#B5691C"
ACCENT = "#6164F0"
NEUTRAL = "#808694"
FAINT = "rgba(128,134,148,0.28)"
GHOST = "rgba(128,134,148,0.09)"
CLEAR = "rgba(0,0,0,0)"
FADED_OPACITY = 0.38
GRID_MARGINS = 72

# The one button, shown on hover, saves a figure as SVG: sharp in a paper, and editable.
CONFIG = {
    "displayModeBar": "hover",
    "modeBarButtons": [["toImage"]],
    "displaylogo": False,
    "toImageButtonOptions": {"format": "svg", "filename": "cap-viz"},
    "scrollZoom": False,
    "doubleClick": False,
}

DIVERGING = (
    (0.0, "rgba(181,105,28,1)"),
    (0.4999, "rgba(181,105,28,0)"),
    (0.5, "rgba(128,128,128,0)"),
    (0.5001, "rgba(18,136,123,0)"),
    (1.0, "rgba(18,136,123,1)"),
)


def criterion_colour(name: str) -> str:
    return CRITERION_COLOURS.get(name, OTHER_CRITERION)


def criterion_symbol(name: str) -> str:
    return CRITERION_SYMBOLS.get(name, "circle")


def criterion_glyph(name: str) -> str:
    """A criterion's mark as text, for legends outside a figure."""
    return SYMBOL_GLYPHS[criterion_symbol(name)]


def criterion_name(name: str) -> str:
    return CRITERIA[name].title if name in CRITERIA else name


def display_order(names: Collection[str]) -> list[str]:
    """Criteria in the order of their fixed colours, then those without one by name."""
    known = [name for name in CRITERION_COLOURS if name in names]
    return [*known, *sorted(set(names) - set(known))]


def blank(*, height: int, left: int = 40, right: int = 12, top: int = 12, bottom: int = 34) -> go.Figure:
    """An empty figure with the layout all figures share."""
    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": left, "r": right, "t": top, "b": bottom},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"size": 12},
        showlegend=False,
        hovermode="closest",
        dragmode=False,
        bargap=0.3,
        hoverlabel={"align": "left", "font": {"size": 12}},
        modebar={"remove": ["select", "lasso"]},
    )
    figure.update_xaxes(showgrid=False, zeroline=False, fixedrange=True, automargin=False, title_standoff=6)
    figure.update_yaxes(showgrid=False, zeroline=False, fixedrange=True, automargin=False, title_standoff=6)
    return figure


def colour_limit(*means: Float[np.ndarray, "layer head"]) -> float:
    """The shared end of the colour scale: the 98th percentile of the absolute effects, so that few are clipped.

    1 where there are no effects, or none but zeros.
    """
    values = np.concatenate([np.zeros(0), *(np.abs(mean[np.isfinite(mean)]).ravel() for mean in means)])
    if not values.size or not values.max() > 0:
        return 1.0
    return float(np.quantile(values, 0.98)) or float(values.max())


@dataclass(frozen=True)
class Grid:
    """A layer x head map of signed effects. NaN cells are empty; `faded` and `marked` may be left out.

    `ends` says what the negative and the positive end of the colour scale mean.
    """

    mean: Float[np.ndarray, "layer head"]
    limit: float
    hover: Sequence[Sequence[str]]
    ends: tuple[str, str]
    faded: Bool[np.ndarray, "layer head"] | None = None
    marked: Bool[np.ndarray, "layer head"] | None = None
    selected: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.mean.shape[0], self.mean.shape[1]


def grid_height(n_layers: int, tallest: int = 480) -> int:
    return min(tallest, GRID_MARGINS + 34 * n_layers)


def grid_width(n_layers: int, n_heads: int, tallest: int = 480) -> int:
    """Keeps cells at most 4:1 wide."""
    cell = (grid_height(n_layers, tallest) - GRID_MARGINS) / n_layers
    return max(260, int(4 * cell * n_heads) + 60)


def head_grid(grid: Grid, *, unit: str, tallest: int = 480) -> go.Figure:
    """The signed heatmap. An invisible scatter takes clicks: heatmaps report no selection (plotly.py #5026)."""
    n_layers, n_heads = grid.shape
    figure = blank(height=grid_height(n_layers, tallest), left=44, right=10, top=32, bottom=40)
    unclear = np.zeros(grid.mean.shape, dtype=bool) if grid.faded is None else grid.faded
    figure.add_trace(flat_cells(grid.mean.shape))
    figure.add_trace(signed_cells(np.where(unclear, np.nan, grid.mean), grid.limit, unit=unit))
    figure.add_trace(signed_cells(np.where(unclear, grid.mean, np.nan), grid.limit, opacity=FADED_OPACITY))
    for mark in marks(grid):
        figure.add_trace(mark)
    figure.add_trace(click_targets(grid))
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


def ticks(n: int, room: int) -> list[int]:
    """Labels 0, k, 2k … with the smallest k at which `room` labels suffice."""
    return list(range(0, n, max(1, ceil(n / max(1, room)))))


def flat_cells(shape: tuple[int, ...]) -> go.Heatmap:
    """A faint cell everywhere, so that a head with no effect is still a cell."""
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
    """Both ends of the colour bar in words and numbers, zero and the unit in its middle."""
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


def marks(grid: Grid, scale: float = 1.0) -> list[go.Scatter]:
    """Dots on heads that survive the false-discovery control; triangles, open on the others, beyond the colour scale.

    White on strong colour, grey on weak colour: both hold on a light and on a dark page.
    """
    size = np.abs(np.nan_to_num(grid.mean))
    clipped, strong = size > grid.limit * (1 + 1e-9), size > grid.limit / 2
    marked = np.zeros(grid.mean.shape, dtype=bool) if grid.marked is None else grid.marked
    dots = marked & ~clipped
    return [
        mark_cells(clipped & marked, "triangle-up", 7 * scale, "#ffffff"),
        mark_cells(clipped & ~marked, "triangle-up-open", 7 * scale, "#ffffff"),
        mark_cells(dots & strong, "circle", 4 * scale, "#ffffff"),
        mark_cells(dots & ~strong, "circle", 4 * scale, NEUTRAL),
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


def click_targets(grid: Grid) -> go.Scatter:
    n_layers, n_heads = grid.mean.shape
    layers, heads = np.indices((n_layers, n_heads))
    invisible = {"marker": {"opacity": 0}}
    return go.Scatter(
        x=heads.ravel(),
        y=layers.ravel(),
        mode="markers",
        marker={"symbol": "square", "size": 8, "opacity": 0, "color": NEUTRAL},
        customdata=np.stack([layers.ravel(), heads.ravel()], axis=1),
        text=[grid.hover[layer][head] for layer in range(n_layers) for head in range(n_heads)],
        hovertemplate="%{text}<extra></extra>",
        selected=invisible,
        unselected=invisible,
    )


def frame_cell(figure: go.Figure, layer: int, head: int, *, width: float = 2.5) -> None:
    figure.add_shape(
        type="rect",
        x0=head - 0.5,
        x1=head + 0.5,
        y0=layer - 0.5,
        y1=layer + 0.5,
        line={"color": ACCENT, "width": width},
    )


@dataclass(frozen=True)
class Bars:
    """Heads in the order shown, with whiskers. `low` and `high` are NaN where there is no interval."""

    labels: Sequence[str]
    mean: Float[np.ndarray, " head"]
    low: Float[np.ndarray, " head"]
    high: Float[np.ndarray, " head"]
    address: Int[np.ndarray, "head layer_and_head"]
    selected: int | None = None


def ranked_bars(bars: Bars, *, unit: str, quantity: str = "effect") -> go.Figure:
    """Horizontal bars from zero, largest on top, coloured by sign; a click on one reports its layer and head."""
    figure = blank(height=54 + 19 * max(3, len(bars.labels)), left=64, top=6, bottom=40)
    always = {"marker": {"opacity": 1}}
    figure.add_trace(
        go.Bar(
            x=bars.mean,
            y=list(bars.labels),
            orientation="h",
            marker={"color": [HURTS if value >= 0 else HELPS for value in bars.mean]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": bars.high - bars.mean,
                "arrayminus": bars.mean - bars.low,
                "color": NEUTRAL,
                "thickness": 1.2,
                "width": 3,
            },
            customdata=bars.address,
            text=[
                f"{label}: {mean:+.3f} {unit} [{low:+.3f}, {high:+.3f}]"
                for label, mean, low, high in zip(bars.labels, bars.mean, bars.low, bars.high, strict=True)
            ],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            selected=always,
            unselected=always,
        )
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    if bars.selected is not None:
        figure.add_shape(
            type="rect",
            xref="paper",
            x0=0,
            x1=1,
            y0=bars.selected - 0.5,
            y1=bars.selected + 0.5,
            line={"width": 0},
            fillcolor=ACCENT,
            opacity=0.13,
            layer="below",
        )
    figure.update_yaxes(type="category", autorange="reversed", ticks="", tickfont={"size": 11})
    figure.update_xaxes(title=f"{quantity}, {unit}", showgrid=True, gridcolor=FAINT)
    return figure


def example_strip(
    effects: Float[np.ndarray, " example"],
    ids: Sequence[str],
    hover: Sequence[str],
    *,
    mean: float,
    low: float,
    high: float,
    unit: str,
    selected: int | None = None,
) -> go.Figure:
    """Effect of one head on every example, with mean and interval beneath; a click on a point reports its number."""
    figure = blank(height=168, left=12, top=6, bottom=38)
    always = {"marker": {"opacity": 1}}
    colours = [HURTS if value >= 0 else HELPS for value in effects]
    widths = [2.5 if i == selected else 0.5 for i in range(len(ids))]
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.add_trace(
        go.Scatter(
            x=effects,
            y=spread(effects),
            mode="markers",
            marker={
                "size": 8,
                "color": colours,
                "line": {"width": widths, "color": [ACCENT if i == selected else CLEAR for i in range(len(ids))]},
            },
            customdata=np.arange(len(ids))[:, None],
            text=list(hover),
            hovertemplate="%{text}<extra></extra>",
            selected=always,
            unselected=always,
        )
    )
    if np.isfinite(low) and np.isfinite(high):
        figure.add_trace(
            go.Scatter(
                x=[low, high], y=[-1.25, -1.25], mode="lines", line={"color": NEUTRAL, "width": 2}, hoverinfo="skip"
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[mean],
            y=[-1.25],
            mode="markers",
            marker={"symbol": "diamond", "size": 9, "color": NEUTRAL},
            hovertemplate=f"mean {mean:+.3f} [{low:+.3f}, {high:+.3f}]<extra></extra>",
        )
    )
    figure.update_yaxes(visible=False, range=[-1.7, 1.25])
    figure.update_xaxes(title=f"effect per example, {unit}", showgrid=True, gridcolor=FAINT)
    return figure


def spread(values: Float[np.ndarray, " example"]) -> Float[np.ndarray, " example"]:
    """Heights between -1 and 1 that keep neighbouring points apart, the same every time: a golden-ratio sequence."""
    places = np.empty(len(values))
    places[np.argsort(values, kind="stable")] = (np.arange(len(values)) * 0.618034) % 1
    return 2 * places - 1


@dataclass(frozen=True)
class AccuracyPoint:
    """Accuracy of one criterion at one sparsity. `differs`: clearly different from dense on the same questions."""

    criterion: str
    sparsity: float
    accuracy: float
    low: float
    high: float
    differs: bool
    hover: str


def accuracy_by_sparsity(
    points: Sequence[AccuracyPoint], *, dense: tuple[float, float, float], chance: float, height: int = 330
) -> go.Figure:
    """Dots with whiskers per criterion, side by side at each sparsity; hollow where within noise of dense.

    `dense` is accuracy with its limits, drawn as a dashed line in its band; `chance` a dotted line.
    """
    figure = blank(height=height, left=46, right=54, top=10, bottom=40)
    sparsities = sorted({point.sparsity for point in points})
    criteria = display_order({point.criterion for point in points})
    figure.add_hrect(y0=100 * dense[1], y1=100 * dense[2], fillcolor=NEUTRAL, opacity=0.13, line_width=0)
    horizontal(figure, 100 * dense[0], "dash", "dense")
    horizontal(figure, 100 * chance, "dot", "chance")
    for place, name in enumerate(criteria):
        shown = [point for point in points if point.criterion == name]
        offset = 0.17 * (place - (len(criteria) - 1) / 2)
        figure.add_trace(whiskers(shown, [sparsities.index(point.sparsity) + offset for point in shown]))
    figure.update_xaxes(
        tickvals=list(range(len(sparsities))),
        ticktext=[f"{100 * sparsity:.0f} %" for sparsity in sparsities],
        range=[-0.5, len(sparsities) - 0.5],
        title="sparsity (share of weights set to zero)",
        ticks="",
    )
    lowest = min([chance, dense[1], *(point.low for point in points)])
    highest = max([dense[2], *(point.high for point in points)])
    figure.update_yaxes(
        ticksuffix=" %", showgrid=True, gridcolor=FAINT, nticks=6, range=[100 * lowest - 3, 100 * highest + 2]
    )
    return figure


def horizontal(figure: go.Figure, y: float, dash: str, label: str) -> None:
    figure.add_hline(
        y=y,
        line={"color": NEUTRAL, "width": 1.5, "dash": dash},
        annotation={"text": label, "x": 1, "xanchor": "left", "yanchor": "middle", "font": {"size": 11}},
    )


def whiskers(points: Sequence[AccuracyPoint], x: Sequence[float]) -> go.Scatter:
    marks = Marks(
        criterion=points[0].criterion,
        x=x,
        value=[100 * point.accuracy for point in points],
        low=[100 * point.low for point in points],
        high=[100 * point.high for point in points],
        hover=[point.hover for point in points],
        hollow=[not point.differs for point in points],
    )
    return whisker_marks(marks)


@dataclass(frozen=True)
class Marks:
    """The marks of one criterion, in the units of the axes; `hollow` marks are all False where it is left out."""

    criterion: str
    x: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    hover: Sequence[str]
    hollow: Sequence[bool] = ()


def whisker_marks(marks: Marks) -> go.Scatter:
    """A criterion's marks with their 95 % whiskers, in its colour and symbol."""
    colour, symbol = criterion_colour(marks.criterion), criterion_symbol(marks.criterion)
    hollow = marks.hollow or [False] * len(marks.x)
    return go.Scatter(
        name=criterion_name(marks.criterion),
        x=list(marks.x),
        y=list(marks.value),
        mode="markers",
        marker={
            "size": 10,
            "symbol": [f"{symbol}-open" if empty else symbol for empty in hollow],
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [high - value for high, value in zip(marks.high, marks.value, strict=True)],
            "arrayminus": [value - low for low, value in zip(marks.low, marks.value, strict=True)],
            "color": colour,
            "thickness": 1.5,
            "width": 0,
        },
        text=list(marks.hover),
        hovertemplate="%{text}<extra></extra>",
    )
