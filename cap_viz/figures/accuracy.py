"""Accuracies with their 95 % intervals: one as a strip, those of criteria as marks with whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from cap_viz.figures.theme import ACCENT, criterion_colour, criterion_symbol


def accuracy_strip(accuracy: float, interval: tuple[float, float], chance: float) -> str:
    """Return an SVG of accuracy from 0 to 100 %: the interval as a bar, the accuracy on it, guessing as a line."""
    x, low, high, guess = (160 * share for share in (accuracy, *interval, chance))
    return f"""<svg width="100%" viewBox="-4 0 168 34" role="img" aria-label="Accuracy {accuracy:.1%}, guessing {chance:.1%}"
fill="currentColor" font-size="10"><rect x="0" y="9" width="160" height="2" opacity="0.3"/>
<rect x="{guess:.1f}" y="7" width="{max(0.0, x - guess):.1f}" height="6" fill="{ACCENT}" opacity="0.35"/>
<rect x="{low:.1f}" y="6" width="{high - low:.1f}" height="8" fill="{ACCENT}"/>
<rect x="{guess - 0.75:.1f}" y="3" width="1.5" height="14"/><circle cx="{x:.1f}" cy="10" r="3.5"/>
<text x="{guess:.1f}" y="29" text-anchor="middle">guessing</text></svg>"""


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
