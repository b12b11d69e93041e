"""Where zeros are, accuracies with their intervals, and the importance of heads behind CAP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from cap_viz.figures.head_grid import ticks
from cap_viz.figures.theme import FAINT, NEUTRAL, blank, criterion_colour, criterion_symbol
from cap_viz.stats import Outlier

# What the unpruned model is called among criteria.
DENSE = "dense"
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


@dataclass(frozen=True)
class LayerShares:
    """Share of zeros in every layer of each part (attention, mlp) that a criterion prunes."""

    criterion: str
    title: str
    parts: Mapping[str, Float[np.ndarray, " layer"]]


def zeros_by_layer(shares: Sequence[LayerShares], asked: float) -> go.Figure:
    """Share of zeros in every layer, attention beside MLP, one line per criterion; layers top to bottom."""
    parts = [part for part in PART_TITLES if any(part in one.parts for one in shares)]
    figure = panels(len(parts), [f"zeros in {PART_TITLES[part]}" for part in parts])
    for place, part in enumerate(parts, start=1):
        for one in shares:
            if part in one.parts:
                figure.add_trace(layer_line(one, part), row=1, col=place)
    figure.add_vline(x=100 * asked, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    highest = max((float(np.nanmax(share)) for one in shares for share in one.parts.values()), default=asked)
    upper = min(101.0, max(5.0, 108 * max(highest, asked)))
    # No number at the right end, where it would meet the zero of the next panel.
    step = next(step for step in (1, 2, 5, 10, 20, 25) if upper / step <= 6)
    marks = [at for at in range(0, 101, step) if at < 0.9 * upper]
    labels = [f"{at} %" for at in marks]
    figure.update_xaxes(range=[0, upper], tickvals=marks, ticktext=labels, showgrid=True, gridcolor=FAINT)
    layers_down(figure, max(len(share) for one in shares for share in one.parts.values()))
    return figure


def layer_line(shares: LayerShares, part: str) -> go.Scatter:
    share, colour = 100 * shares.parts[part], colour_of(shares.criterion)
    return go.Scatter(
        x=share,
        y=np.arange(len(share)),
        mode="lines+markers",
        name=shares.title,
        line={"color": colour, "width": 1.5},
        marker={"color": colour, "size": 6, "symbol": symbol_of(shares.criterion)},
        hovertemplate=(
            f"{shares.title} sets %{{x:.1f}} % of the {PART_TITLES[part]} weights of layer %{{y}} to zero"
            "<extra></extra>"
        ),
    )


def zeros_by_matrix(shares: Mapping[str, tuple[Sequence[str], Float[np.ndarray, "layer kind"]]]) -> go.Figure:
    """Share of zeros in every single matrix, by titles: layers by kinds, a panel each, one common scale.

    NaN stands where a layer lacks a kind.
    """
    figure = panels(len(shares), list(shares), right=58)
    for place, (title, (kinds, share)) in enumerate(shares.items(), start=1):
        figure.add_trace(matrix_cells(title, kinds, 100 * share), row=1, col=place)
    layers_down(figure, max(len(share) for _, share in shares.values()))
    figure.update_xaxes(ticks="", tickfont={"size": 11}, tickangle=-45)
    common_scale(figure, max(100 * float(np.nanmax(share)) for _, share in shares.values()))
    return figure


def zeros_by_head(shares: Mapping[str, Float[np.ndarray, "layer head"]]) -> go.Figure:
    """Share of zeros in the weights of every head, by titles: layers by heads, a panel each, one common scale."""
    figure = panels(len(shares), list(shares), right=58)
    for place, (title, share) in enumerate(shares.items(), start=1):
        figure.add_trace(head_cells(title, 100 * share), row=1, col=place)
    n_layers, n_heads = next(iter(shares.values())).shape
    layers_down(figure, n_layers)
    figure.update_xaxes(title="head", title_standoff=2, tickvals=ticks(n_heads, 12), ticks="", tickfont={"size": 11})
    figure.update_layout(margin={"b": 48})
    common_scale(figure, max(100 * float(share.max()) for share in shares.values()))
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


def matrix_cells(title: str, kinds: Sequence[str], percent: Float[np.ndarray, "layer kind"]) -> go.Heatmap:
    names = np.array([KIND_TITLES[kind] for kind in kinds], dtype=object)
    return go.Heatmap(
        z=percent,
        x=list(kinds),
        y=np.arange(len(percent)),
        customdata=np.broadcast_to(names, percent.shape),
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


# Accuracy --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AccuracyRow:
    """Accuracy of one column with its interval, None while nothing is known; `state` says if interim or stale."""

    name: str
    title: str
    share: tuple[float, float, float] | None
    hover: str = ""
    state: Literal["", "interim", "stale"] = ""


def accuracy_whiskers(rows: Sequence[AccuracyRow], chance: float | None) -> go.Figure:
    """Accuracy with its interval, one row per column; hollow if interim or stale, chance as a dotted line."""
    known = [(place, row, row.share) for place, row in enumerate(rows) if row.share is not None]
    left = 20 + 6 * max(len(row.title) for row in rows)
    figure = blank(height=44 + ROW_PIXELS * len(rows), left=left, right=16, top=18, bottom=26)
    for place, row, share in known:
        figure.add_trace(whisker(row, share, place))
    for _, row, share in known:
        if row.name == DENSE:
            vertical(figure, 100 * share[0], "dash", "dense")
    limits = [limit for _, _, share in known for limit in share[1:]]
    if chance is not None:
        vertical(figure, 100 * chance, "dot", "chance")
        limits.append(chance)
    figure.update_xaxes(range=padded(limits), ticksuffix=" %", showgrid=True, gridcolor=FAINT, nticks=8)
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=[row.title for row in rows],
        range=[len(rows) - 0.5, -0.5],
        ticks="",
        zeroline=False,
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


def whisker(row: AccuracyRow, share: tuple[float, float, float], place: int) -> go.Scatter:
    colour, symbol = colour_of(row.name), symbol_of(row.name)
    value, low, high = share
    return go.Scatter(
        x=[100 * value],
        y=[place],
        mode="markers",
        marker={
            "color": colour,
            "size": 10,
            "symbol": f"{symbol}-open" if row.state else symbol,
            "line": {"width": 2, "color": colour},
        },
        opacity=0.6 if row.state == "stale" else 1.0,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (high - value)],
            "arrayminus": [100 * (value - low)],
            "color": colour,
            "thickness": 2,
            "width": 0,
        },
        hovertemplate=f"{row.hover}<extra></extra>",
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
