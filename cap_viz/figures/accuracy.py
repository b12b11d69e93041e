"""Accuracies with their 95 % intervals: one as a strip, those of criteria as marks with whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from cap_viz.figures.theme import ACCENT, FAINT, NEUTRAL, criterion_colour, criterion_symbol


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
