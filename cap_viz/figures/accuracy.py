"""Accuracies with their 95 % intervals: one as a strip, those of criteria as marks with whiskers, by sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from cap_viz.figures.theme import ACCENT, FAINT, NEUTRAL, blank, criterion_colour, criterion_symbol, display_order


def accuracy_strip(accuracy: float, interval: tuple[float, float], chance: float) -> str:
    """Return HTML of accuracy from 0 to 100 %: the interval as a bar, the accuracy as a line in it, guessing below."""
    low, high = interval
    parts = (
        (0, 1, 9, 2, NEUTRAL),
        (chance, max(0.0, accuracy - chance), 7, 6, FAINT),
        (low, high - low, 5, 10, ACCENT),
        (accuracy, 0, 2, 16, "currentColor"),
        (chance, 0, 2, 16, NEUTRAL),
    )
    bars = "".join(
        f'<i style="position:absolute;left:{left:.1%};width:max(2px,{width:.1%});top:{top}px;height:{height}px;'
        f'background:{colour}"></i>'
        for left, width, top, height, colour in parts
    )
    return (
        f'<div role="img" aria-label="Accuracy {accuracy:.1%}, guessing {chance:.1%}" style="position:relative;'
        f'height:34px;font-size:11px">{bars}<span style="position:absolute;top:18px;left:{chance:.1%};'
        'transform:translateX(-50%)">guessing</span></div>'
    )


@dataclass(frozen=True)
class Marks:
    """The marks of one criterion, in the units of the axes; without `hollow` all are filled."""

    criterion: str
    title: str
    x: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    hover: Sequence[str]
    hollow: Sequence[bool] = ()


def whisker_marks(marks: Marks) -> go.Scatter:
    """Draw a criterion's marks with their 95 % whiskers, in its colour and symbol."""
    colour, symbol = criterion_colour(marks.criterion), criterion_symbol(marks.criterion)
    hollow = marks.hollow or [False] * len(marks.x)
    return go.Scatter(
        name=marks.title,
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


@dataclass(frozen=True)
class AccuracyPoint:
    """Accuracy of one criterion at one sparsity. `differs`: clearly different from dense on the same questions."""

    criterion: str
    title: str
    sparsity: float
    accuracy: float
    low: float
    high: float
    differs: bool
    hover: str


def accuracy_by_sparsity(
    points: Sequence[AccuracyPoint], *, dense: tuple[float, float, float], chance: float, height: int = 330
) -> go.Figure:
    """Plot accuracy with whiskers per criterion, side by side at each sparsity; hollow where within noise of dense.

    `dense` is accuracy with its limits, drawn as a dashed line in a band; `chance` is a dotted line.
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
        title=points[0].title,
        x=x,
        value=[100 * point.accuracy for point in points],
        low=[100 * point.low for point in points],
        high=[100 * point.high for point in points],
        hover=[point.hover for point in points],
        hollow=[not point.differs for point in points],
    )
    return whisker_marks(marks)
