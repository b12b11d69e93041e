"""A measure against sparsity, one line per criterion, with 95 % whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from scipy.optimize import isotonic_regression

from cap_viz.figures.accuracy import Marks, whisker_marks
from cap_viz.figures.theme import FAINT, NEUTRAL, blank, criterion_colour, criterion_glyph, display_order

HEIGHT = 392
TOP, BOTTOM, RIGHT = 14, 44, 172
LABEL_PIXELS = 16
# Offset between neighbouring criteria in points of sparsity, and the most all span as a share of the smallest gap.
DODGE, DODGE_SHARE = 0.55, 0.45
GREYED = 0.35
# Start of the leader of a line that spans the whole plot, as a share of the plot's width.
LEADER = 0.97


@dataclass(frozen=True)
class CurvePoint:
    """A criterion at a sparsity (a share of weights); value and limits are in the unit of the axis.

    `between`: the sparsity is not one that other criteria share, so the mark needs no room beside theirs and no tick.
    """

    criterion: str
    title: str
    sparsity: float
    value: float
    low: float
    high: float
    hover: str
    between: bool = False


@dataclass(frozen=True)
class Curves:
    """Content of the figure: `dense` is a value with its limits, `guess` the level of guessing and its name.

    Values are in `unit`: "%", or "nats" where less is better. `paper` are points that a paper reports, which have no
    interval.
    """

    measure: str
    unit: str
    dense: tuple[float, float, float]
    guess: tuple[str, float]
    points: Sequence[CurvePoint]
    paper: Sequence[CurvePoint] = ()
    greyed: bool = False

    def number(self, value: float) -> str:
        return f"{value:.1f} %" if self.unit == "%" else f"{value:.3f}"

    def in_words(self) -> str:
        """Describe the figure, for those who do not see it."""
        value, low, high = map(self.number, self.dense)
        said = [f"dense: {value} ({low} to {high})", f"{self.guess[0]}: {self.number(self.guess[1])}"]
        for point in self.points:
            value, low, high = map(self.number, (point.value, point.low, point.high))
            said.append(f"{point.title} at {100 * point.sparsity:.3g} %: {value} ({low} to {high})")
        return f"{self.measure} against sparsity. {'; '.join(said)}"


@dataclass(frozen=True)
class Label:
    """A label at the right edge for a line that ends at (`x`, `y`)."""

    text: str
    x: float
    y: float
    colour: str
    dash: str = "dot"


def curves(shown: Curves, *, height: int = HEIGHT) -> go.Figure:
    """Draw a line per criterion from the dense model at 0 %, with marks and whiskers side by side.

    Dense is dashed, with its interval as a band; guessing is dotted. Each line has a label at its right end, moved
    up or down where labels would collide.
    """
    figure = blank(height=height, left=52, right=RIGHT, top=TOP, bottom=BOTTOM)
    dense, low, high = shown.dense
    word, guess = shown.guess
    y_range = value_range(shown)
    x_end = 100 * max([0.1, *(point.sparsity for point in (*shown.points, *shown.paper))]) * 1.05
    figure.add_hrect(y0=low, y1=high, fillcolor=NEUTRAL, opacity=0.13, line_width=0)
    for y, dash in ((dense, "dash"), (guess, "dot")):
        figure.add_hline(y=y, line={"color": NEUTRAL, "width": 1.5, "dash": dash})
    labels = [
        Label(f"{name} {shown.number(value)}", LEADER * x_end, value, NEUTRAL)
        for name, value in (("dense", dense), (word, guess))
    ]
    criteria = display_order({point.criterion for point in shown.points})
    common = [point for point in shown.points if not point.between] or shown.points
    offsets = dodges(len(criteria), [100 * point.sparsity for point in common])
    for name, offset in zip(criteria, offsets, strict=True):
        marks = marks_of(name, shown, offset)
        figure.add_trace(line(marks, dense))
        figure.add_trace(whisker_marks(marks))
        labels.append(end_label(marks, shown))
    for name in display_order({point.criterion for point in shown.paper}):
        figure.add_trace(diamonds([point for point in shown.paper if point.criterion == name]))
    if shown.greyed:
        figure.update_traces(opacity=GREYED)
    name_lines(figure, labels, x_end, y_range, height - TOP - BOTTOM)
    measured = sorted({round(100 * point.sparsity, 6) for point in (*common, *shown.paper)})
    figure.update_xaxes(
        title="sparsity (share of weights set to zero)",
        tickvals=(places := [0.0, *readable_ticks(measured, x_end)]),
        ticktext=[f"{place:.3g} %" for place in places],
        range=[-0.02 * x_end, x_end],
        ticks="outside",
        ticklen=4,
        tickcolor=FAINT,
    )
    figure.update_yaxes(
        title=f"{shown.measure.lower()}{'' if shown.unit == '%' else f', {shown.unit}'}",
        ticksuffix=" %" if shown.unit == "%" else "",
        showgrid=True,
        gridcolor=FAINT,
        nticks=7,
        range=list(y_range),
    )
    return figure


def value_range(shown: Curves) -> tuple[float, float]:
    """Range of the y axis over all whiskers, guessing, dense and the paper's points, with padding."""
    limits = [*shown.dense, *(limit for point in shown.points for limit in (point.value, point.low, point.high))]
    values = [value for value in limits if np.isfinite(value)]
    values += [shown.guess[1], *(point.value for point in shown.paper)]
    room = 0.06 * (max(values) - min(values)) or 1.0
    return min(values) - room, max(values) + room


def dodges(count: int, sparsities: Sequence[float]) -> list[float]:
    """Offsets of the criteria around a sparsity, in its unit; together at most `DODGE_SHARE` of the smallest gap."""
    places = sorted({0.0, *sparsities})
    smallest = min((second - first for first, second in pairwise(places)), default=10.0)
    step = min(DODGE, DODGE_SHARE * smallest / max(1, count - 1))
    return [step * (place - (count - 1) / 2) for place in range(count)]


def readable_ticks(measured: Sequence[float], x_end: float) -> list[float]:
    """Select the measured sparsities that have room for a label; larger ones take precedence."""
    kept: list[float] = []
    for value in sorted(measured, reverse=True):
        if value >= 0.05 * x_end and all(abs(value - other) >= 0.07 * x_end for other in kept):
            kept.append(value)
    return sorted(kept)


def marks_of(name: str, shown: Curves, offset: float) -> Marks:
    points = sorted((point for point in shown.points if point.criterion == name), key=lambda point: point.sparsity)
    return Marks(
        criterion=name,
        title=points[0].title,
        x=[100 * point.sparsity + (0.0 if point.between else offset) for point in points],
        value=[point.value for point in points],
        low=[point.low for point in points],
        high=[point.high for point in points],
        hover=[point.hover for point in points],
    )


def line(marks: Marks, dense: float) -> go.Scatter:
    """The line from the dense model through a criterion's marks."""
    return go.Scatter(
        x=[0.0, *marks.x],
        y=[dense, *marks.value],
        mode="lines",
        line={"color": criterion_colour(marks.criterion), "width": 2},
        hoverinfo="skip",
    )


def end_label(marks: Marks, shown: Curves) -> Label:
    colour = criterion_colour(marks.criterion)
    glyph = criterion_glyph(marks.criterion)
    text = f'<span style="color:{colour}">{glyph}</span> {marks.title} {shown.number(marks.value[-1])}'
    return Label(text, marks.x[-1], marks.value[-1], colour)


def diamonds(points: Sequence[CurvePoint]) -> go.Scatter:
    """Draw the paper's points of one criterion as hollow diamonds, without whiskers because it reports none."""
    return go.Scatter(
        name=f"paper: {points[0].title}",
        x=[100 * point.sparsity for point in points],
        y=[point.value for point in points],
        mode="markers",
        marker={
            "symbol": "diamond-open",
            "size": 11,
            "color": criterion_colour(points[0].criterion),
            "line": {"width": 1.5},
        },
        text=[point.hover for point in points],
        hovertemplate="%{text}<extra></extra>",
    )


def name_lines(
    figure: go.Figure, labels: Sequence[Label], x_end: float, y_range: tuple[float, float], pixels: float
) -> None:
    """Write the labels beside the plot, with a thin leader from each line's end to its label."""
    gap = LABEL_PIXELS * (y_range[1] - y_range[0]) / pixels
    places = spread_labels(np.array([label.y for label in labels]), gap, *y_range)
    for label, place in zip(labels, places.tolist(), strict=True):
        figure.add_shape(
            type="line",
            x0=label.x,
            y0=label.y,
            x1=x_end,
            y1=place,
            line={"color": label.colour, "width": 1, "dash": label.dash},
            opacity=0.6,
            layer="below",
        )
        figure.add_annotation(
            x=1,
            xref="paper",
            y=place,
            text=label.text,
            showarrow=False,
            xanchor="left",
            xshift=6,
            yanchor="middle",
            align="left",
            font={"size": 12},
        )


def spread_labels(
    wanted: Float[np.ndarray, " label"], gap: float, low: float, high: float
) -> Float[np.ndarray, " label"]:
    """Return heights at least `gap` apart, in the same order, as close to the wanted ones as possible (least squares).

    The gap shrinks where the labels would not fit between `low` and `high` otherwise.
    """
    count = len(wanted)
    gap = min(gap, (high - low) / max(1, count - 1))
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(count)
    packed = isotonic_regression(wanted[order] - steps).x
    places = np.empty(count)
    places[order] = np.clip(packed, low, high - gap * (count - 1)) + steps
    return places


def figure_html(figure: go.Figure, title: str) -> bytes:
    """Standalone page that needs no network: the figure on white, with its title and Plotly inside."""
    page = go.Figure(figure)
    margin = page.to_dict()["layout"]["margin"]
    page.update_layout(
        template="plotly_white",
        title={"text": title, "font": {"size": 15}, "x": 0, "xref": "paper"},
        paper_bgcolor="#ffffff",
        plot_bgcolor="#ffffff",
        # The browser's own font is wider than the dashboard's.
        margin={**margin, "t": margin["t"] + 40, "r": margin["r"] + 40},
        height=560,
    )
    return page.to_html(include_plotlyjs=True, full_html=True).encode()
