"""Figures of the Prune page: data in, Plotly figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from cap_viz.dashboard.prune.accuracy import AccuracyShare, Column, share_of
from cap_viz.dashboard.prune.setting import DENSE, title_of
from cap_viz.dashboard.prune.zeros import Outlier, Zeros
from cap_viz.figures.head_grid import ticks
from cap_viz.figures.theme import FAINT, NEUTRAL, blank, criterion_colour, criterion_symbol

PART_TITLES = {"attention": "attention", "mlp": "MLP"}
KIND_TITLES = {
    "q": "query",
    "k": "key",
    "v": "value",
    "o": "attention output",
    "gate": "MLP gate",
    "up": "MLP up",
    "down": "MLP down",
}
SEQUENTIAL = [[0.0, "rgba(97,100,240,0.05)"], [1.0, "rgba(97,100,240,1)"]]
ZEROS_HEIGHT = 350
ROW_PIXELS = 34
LABEL = {"color": NEUTRAL, "size": 11}


def symbol_of(column: str) -> str:
    return "circle" if column == DENSE else criterion_symbol(column)


def colour_of(column: str) -> str:
    return NEUTRAL if column == DENSE else criterion_colour(column)


# Zeros -----------------------------------------------------------------------------------------------------------


def zeros_by_layer(zeros: Sequence[Zeros], asked: float) -> go.Figure:
    """Share of zeros in every layer, attention beside MLP, one line per criterion; layers top to bottom."""
    parts = [part for part in PART_TITLES if any(part in one.parts for one in zeros)]
    figure = panels(len(parts), [f"zeros in {PART_TITLES[part]}" for part in parts])
    for place, part in enumerate(parts, start=1):
        for one in zeros:
            if part in one.parts:
                figure.add_trace(layer_line(one, part), row=1, col=place)
    figure.add_vline(x=100 * asked, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    highest = max((float(np.nanmax(one.by_layer(part))) for one in zeros for part in one.parts), default=asked)
    upper = min(101.0, max(5.0, 108 * max(highest, asked)))
    figure.update_xaxes(range=[0, upper], ticksuffix=" %", nticks=5, showgrid=True, gridcolor=FAINT)
    layers_down(figure, max(len(one.by_layer()) for one in zeros))
    return figure


def layer_line(zeros: Zeros, part: str) -> go.Scatter:
    share = 100 * zeros.by_layer(part)
    title, colour = title_of(zeros.criterion), colour_of(zeros.criterion)
    return go.Scatter(
        x=share,
        y=np.arange(len(share)),
        mode="lines+markers",
        name=title,
        line={"color": colour, "width": 1.5},
        marker={"color": colour, "size": 6, "symbol": symbol_of(zeros.criterion)},
        hovertemplate=(
            f"{title} sets %{{x:.1f}} % of the {PART_TITLES[part]} weights of layer %{{y}} to zero<extra></extra>"
        ),
    )


def zeros_by_matrix(zeros: Sequence[Zeros]) -> go.Figure:
    """Share of zeros in every single matrix: layers top to bottom, one panel per criterion, one common scale."""
    figure = panels(len(zeros), [title_of(one.criterion) for one in zeros], right=58)
    grids = [matrix_grid(one) for one in zeros]
    for place, (one, grid) in enumerate(zip(zeros, grids, strict=True), start=1):
        figure.add_trace(matrix_cells(title_of(one.criterion), grid), row=1, col=place)
    layers_down(figure, max(len(grid.share) for grid in grids))
    figure.update_xaxes(ticks="", tickfont={"size": 11}, tickangle=-45)
    common_scale(figure, max(float(np.nanmax(grid.share)) for grid in grids))
    return figure


def zeros_by_head(zeros: Mapping[str, Float[np.ndarray, "layer head"]]) -> go.Figure:
    """Share of zeros in the weights of every head: layers by heads, one panel per criterion, one common scale."""
    figure = panels(len(zeros), [title_of(name) for name in zeros], right=58)
    for place, (name, share) in enumerate(zeros.items(), start=1):
        figure.add_trace(head_cells(title_of(name), 100 * share), row=1, col=place)
    n_layers, n_heads = next(iter(zeros.values())).shape
    layers_down(figure, n_layers)
    figure.update_xaxes(title="head", title_standoff=2, tickvals=ticks(n_heads, 12), ticks="", tickfont={"size": 11})
    figure.update_layout(margin={"b": 48})
    common_scale(figure, max(100 * float(share.max()) for share in zeros.values()))
    return figure


def head_cells(title: str, percent: Float[np.ndarray, "layer head"]) -> go.Heatmap:
    return go.Heatmap(
        z=percent,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hovertemplate=f"{title} sets %{{z:.1f}} % of the weights of layer %{{y}}, head %{{x}} to zero<extra></extra>",
    )


def common_scale(figure: go.Figure, highest: float) -> None:
    """Set one colour scale of percentages for all panels."""
    figure.update_layout(
        coloraxis={
            "colorscale": SEQUENTIAL,
            "cmin": 0,
            "cmax": max(highest, 1.0),
            "colorbar": {"ticksuffix": " %", "thickness": 8, "outlinewidth": 0, "nticks": 5, "ticks": "", "xpad": 6},
        }
    )


def matrix_cells(title: str, grid: MatrixGrid) -> go.Heatmap:
    names = np.array([KIND_TITLES[kind] for kind in grid.kinds], dtype=object)
    return go.Heatmap(
        z=grid.share,
        x=list(grid.kinds),
        y=np.arange(len(grid.share)),
        customdata=np.broadcast_to(names, grid.share.shape),
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate=f"{title} sets %{{z:.1f}} % of layer %{{y}}’s %{{customdata}} matrix to zero<extra></extra>",
    )


def panels(count: int, titles: Sequence[str], *, right: int = 12) -> go.Figure:
    """Make panels side by side, with titles above and a shared layer axis."""
    return make_subplots(
        rows=1,
        cols=count,
        shared_yaxes=True,
        horizontal_spacing=0.07,
        subplot_titles=list(titles),
        figure=blank(height=ZEROS_HEIGHT, left=40, right=right, top=26, bottom=36),
    ).update_annotations(font={"size": 12})


def layers_down(figure: go.Figure, n_layers: int) -> None:
    figure.update_xaxes(fixedrange=True, zeroline=False)
    figure.update_yaxes(
        range=[n_layers - 0.5, -0.5],
        tickvals=ticks(n_layers, 16),
        ticks="",
        tickfont={"size": 11},
        fixedrange=True,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(title="layer", title_standoff=4, col=1)


@dataclass(frozen=True)
class MatrixGrid:
    """Share of zeros in percent per layer and kind of matrix; NaN where a layer lacks the kind."""

    kinds: tuple[str, ...]
    share: Float[np.ndarray, "layer kind"]


def matrix_grid(zeros: Zeros) -> MatrixGrid:
    matrices = zeros.counts.matrices
    kinds = tuple(kind for kind in KIND_TITLES if any(matrix.kind == kind for matrix in matrices))
    share = np.full((1 + max(matrix.layer for matrix in matrices), len(kinds)), np.nan)
    for matrix, value in zip(matrices, zeros.counts.share[0], strict=True):
        share[matrix.layer, kinds.index(matrix.kind)] = 100 * value
    return MatrixGrid(kinds=kinds, share=share)


# Accuracy --------------------------------------------------------------------------------------------------------


def accuracy_whiskers(columns: Sequence[Column], chance: float | None) -> go.Figure:
    """Accuracy with its Wilson interval, one row per column; hollow if interim or stale, chance as a dotted line."""
    measured = {column.name: share_of(column.report.correct) for column in columns if column.report is not None}
    left = 20 + 6 * max(len(column.title) for column in columns)
    figure = blank(height=44 + ROW_PIXELS * len(columns), left=left, right=16, top=18, bottom=26)
    for row, column in enumerate(columns):
        if column.name in measured:
            figure.add_trace(whisker(column, measured[column.name], row))
    if DENSE in measured:
        vertical(figure, 100 * measured[DENSE].value, "dash", "dense")
    limits = [limit for share in measured.values() for limit in (share.ci.low, share.ci.high)]
    if chance is not None:
        vertical(figure, 100 * chance, "dot", "chance")
        limits.append(chance)
    figure.update_xaxes(range=padded(limits), ticksuffix=" %", showgrid=True, gridcolor=FAINT, nticks=8)
    titles = [column.title for column in columns]
    figure.update_yaxes(
        tickvals=list(range(len(titles))), ticktext=titles, range=[len(titles) - 0.5, -0.5], ticks="", zeroline=False
    )
    return figure


def padded(limits: Sequence[float]) -> list[float]:
    """Axis range in per cent around shares, with padding; 0 to 100 when there are fewer than two."""
    if len(limits) < 2:
        return [0.0, 100.0]
    return [max(0.0, 100 * min(limits) - 4), min(100.0, 100 * max(limits) + 4)]


def vertical(figure: go.Figure, x: float, dash: str, label: str) -> None:
    figure.add_vline(x=x, line={"color": NEUTRAL, "width": 1, "dash": dash})
    figure.add_annotation(x=x, y=1, yref="paper", yanchor="bottom", text=label, showarrow=False, font=LABEL, yshift=-1)


def whisker(column: Column, share: AccuracyShare, row: int) -> go.Scatter:
    state = f", {share.n} items so far" if column.partial else f" ({column.stale})" if column.stale else ""
    colour = colour_of(column.name)
    return go.Scatter(
        x=[100 * share.value],
        y=[row],
        mode="markers",
        marker={
            "color": colour,
            "size": 10,
            "symbol": f"{symbol_of(column.name)}-open" if state else symbol_of(column.name),
            "line": {"width": 2, "color": colour},
        },
        opacity=0.6 if column.stale else 1.0,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (share.ci.high - share.value)],
            "arrayminus": [100 * (share.value - share.ci.low)],
            "color": colour,
            "thickness": 2,
            "width": 0,
        },
        hovertemplate=(
            f"{column.title}: {share.right} of {share.n} right, {100 * share.value:.1f} %, "
            f"95 % interval {100 * share.ci.low:.1f} to {100 * share.ci.high:.1f} %{state}<extra></extra>"
        ),
    )


# Importance ------------------------------------------------------------------------------------------------------


def importance_histogram(importance: Float[np.ndarray, "layer head"], outlier: Outlier) -> go.Figure:
    """Histogram of the heads' importance I on CAP's fixed scale from 1 to 10; median and outlier are marked."""
    edges = np.linspace(1, 10, 46)
    counts, _ = np.histogram(importance, bins=edges)
    figure = blank(height=220, left=40, top=18, bottom=38)
    figure.add_trace(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=np.diff(edges) * 0.9,
            marker={"color": criterion_colour("cap"), "line": {"width": 0}},
            customdata=np.stack([edges[:-1], edges[1:]], axis=1),
            hovertemplate="%{y} heads have I from %{customdata[0]:.1f} to %{customdata[1]:.1f}<extra></extra>",
        )
    )
    middle = float(np.median(importance))
    vertical(figure, middle, "dash", f"median {middle:.1f}")
    figure.add_annotation(
        x=outlier.importance,
        y=0,
        text=f"L{outlier.layer} H{outlier.head}",
        ax=0,
        ay=-34,
        arrowcolor=NEUTRAL,
        arrowwidth=1,
        arrowhead=0,
        font=LABEL,
    )
    figure.update_xaxes(title="importance I of a head", range=[0.7, 10.3], tickvals=list(range(1, 11)))
    figure.update_yaxes(title="heads", showgrid=True, gridcolor=FAINT, nticks=5, ticks="")
    return figure
