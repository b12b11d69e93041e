"""Figures of heads that act together: the graph of their paths, and the matrix of their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from cap_viz.figures.head_grid import Grid, colour_limit, named_grid
from cap_viz.figures.theme import ACCENT, CLEAR, HELPS, HURTS, NEUTRAL, blank, with_interval
from cap_viz.stats import HeadEstimate

PAIR_ENDS = ("overlap", "back-up")
Head = tuple[int, int]
# Pixels of the graph: the least height, a layer, the widest path, the smallest head and how much larger the largest is.
LEAST_HEIGHT, LAYER, WIDEST, DOT, MORE = 430, 17, 9, 13, 17
FADED, DULL = 0.16, 0.5
# Points on the line of a path, whose middle is hovered and clicked.
STEPS = np.linspace(0, 1, 25)


@dataclass(frozen=True)
class Mark:
    """What is drawn of a head or a path: `name` is what a click on it reports, `hover` what is said of it."""

    name: str
    effect: float
    unclear: bool
    hover: str


@dataclass(frozen=True)
class HeadMark(Mark):
    """A head (layer, head)."""

    head: Head


@dataclass(frozen=True)
class PathMark(Mark):
    """A path from a head to a later head, to the MLP of a layer (its number), or to the answer (None)."""

    sender: Head
    receiver: Head | int | None


def circuit_graph(
    heads: Sequence[HeadMark], paths: Sequence[PathMark], shape: tuple[int, int], *, selected: str = "", text: int = 12
) -> go.Figure:
    """Plot heads where the head map has them, layers downwards, and paths as wide as their effects are large.

    MLPs stand right of their layer, the answer below the last one. What may be zero is faded; the selected head or path
    stands out, a head with its paths. `text` is the size of names and numbers.
    """
    n_layers, n_heads = shape
    figure = blank(height=max(LEAST_HEIGHT, 80 + LAYER * n_layers), left=50, right=8, top=24, bottom=8)
    widest = max((abs(path.effect) for path in paths), default=0.0) or 1.0
    chosen = [one.head for one in heads if one.name == selected]
    middles = []
    # Large ones last, on top of the others.
    for path in sorted(paths, key=lambda one: abs(one.effect)):
        x, y = path_curve(place(path.sender, shape), place(path.receiver, shape))
        middles.append((path, x[len(x) // 2], y[len(y) // 2]))
        stands_out = not selected or path.name == selected or path.sender in chosen or path.receiver in chosen
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": HURTS if path.effect > 0 else HELPS, "width": 1 + (WIDEST - 1) * abs(path.effect) / widest},
            opacity=FADED if path.unclear else 0.95 if stands_out else DULL,
            hoverinfo="skip",
        )
    read = sorted({path.receiver for path in paths if isinstance(path.receiver, int)})
    named = [(f"MLP {layer}", place(layer, shape)) for layer in read] + [("answer", place(None, shape))]
    figure.add_scatter(
        x=[x for _, (x, _) in named],
        y=[y for _, (_, y) in named],
        mode="markers+text",
        marker={"symbol": "square", "size": 11, "color": NEUTRAL},
        text=[name for name, _ in named],
        textposition="middle right",
        textfont={"size": text},
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure.add_trace(clickable([(path, x, y) for path, x, y in middles], size=15, color=CLEAR))
    largest = max((abs(one.effect) for one in heads), default=0.0) or 1.0
    dots = clickable(
        [(one, *place(one.head, shape)) for one in heads],
        size=[DOT + MORE * (abs(one.effect) / largest) ** 0.5 for one in heads],
        color=[HURTS if one.effect > 0 else HELPS for one in heads],
        line={"color": [ACCENT if one.name == selected else CLEAR for one in heads], "width": 3},
    )
    # Names of the first layer's heads stand above the axes.
    dots.update(mode="markers+text", text=[one.name for one in heads], textposition="top center", cliponaxis=False)
    dots.update(textfont={"size": text})
    figure.add_trace(dots)
    figure.update_xaxes(visible=False, range=[-0.7, n_heads + 1.9])
    figure.update_yaxes(
        title={"text": "layer", "font": {"size": text}},
        tickfont={"size": text},
        range=[n_layers + 0.9, -0.9],
        tickvals=list(range(0, n_layers, 1 + n_layers // 16)),
    )
    return figure


def place(at: Head | int | None, shape: tuple[int, int]) -> tuple[float, float]:
    """Return where a head, an MLP (by its layer) or the answer stands; an MLP reads after the heads of its layer."""
    n_layers, n_heads = shape
    if at is None:
        return (n_heads - 1) / 2, n_layers + 0.3
    return (n_heads + 0.1, at + 0.5) if isinstance(at, int) else (at[1], at[0])


def path_curve(start: tuple[float, float], end: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a curve that leaves downwards; one that stays in its column bends past what is between."""
    (x0, y0), (x1, y1) = start, end
    bend = 0.8 if abs(x1 - x0) < 0.5 and y1 - y0 > 1 else 0.0
    x2, y2 = x0 + 0.15 * (x1 - x0) + bend, y0 + 0.6 * (y1 - y0)
    near, mid, far = (1 - STEPS) ** 2, 2 * STEPS * (1 - STEPS), STEPS**2
    return near * x0 + mid * x2 + far * x1, near * y0 + mid * y2 + far * y1


def clickable(marks: Sequence[tuple[Mark, float, float]], **marker: object) -> go.Scatter:
    always = {"marker": {"opacity": 1}}
    return go.Scatter(
        x=[x for _, x, _ in marks],
        y=[y for _, _, y in marks],
        mode="markers",
        marker={"opacity": 1, **marker},
        customdata=[[one.name] for one, _, _ in marks],
        hovertext=[one.hover for one, _, _ in marks],
        hovertemplate="%{hovertext}<extra></extra>",
        selected=always,
        unselected=always,
    )


def pair_matrix(
    heads: Sequence[tuple[int, int]],
    pairs: Sequence[tuple[int, int]],
    estimate: HeadEstimate,
    kinds: Sequence[str],
    *,
    unit: str,
) -> go.Figure:
    """Plot the effect of every pair of heads, on both sides of the diagonal.

    Pairs whose interval includes zero are faded, those that survive the false-discovery control have a dot.
    `pairs` are places in `heads`; `estimate` and `kinds` (see `PairScores.kinds`) have an entry for each pair.
    """
    n, names = len(heads), [f"L{layer}H{head}" for layer, head in heads]
    mean, faded, marked = np.full((n, n), np.nan), np.zeros((n, n), bool), np.zeros((n, n), bool)
    hover = [["" for _ in heads] for _ in heads]
    for number, (first, second) in enumerate(pairs):
        value, low, high = (float(getattr(estimate, name)[number]) for name in ("mean", "low", "high"))
        interval = with_interval(value, low, high, unit=unit)
        for row, column in ((first, second), (second, first)):
            mean[row, column] = value
            faded[row, column], marked[row, column] = estimate.unclear[number], estimate.survives[number]
            hover[row][column] = f"<b>{names[first]} and {names[second]}</b><br>{interval}<br>{kinds[number]}"
    grid = Grid(mean, colour_limit(mean), PAIR_ENDS, hover=hover, faded=faded, marked=marked)
    return named_grid(grid, unit=unit, rows=names, columns=names, titles=("head", "removed with"))
