"""Figures of the lesson, few marks in large type. What would give an answer away is left out until `revealed`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots

from cap_viz.figures.head_grid import ticks
from cap_viz.figures.theme import ACCENT, FAINT, NEUTRAL, blank, signed
from cap_viz.stats import HeadEstimate

NATS = "nats per token"
UNKNOWN = "<span style='font-size: 2em'>?</span>"
OPTION_CHARACTERS = 44
SQUARES_PER_ROW = 24


@dataclass(frozen=True)
class Canvas:
    """Height of a figure and size of its text, in pixels."""

    height: int
    text: int

    def figure(self, *, left: float = 1.0, right: float = 1.0, top: float = 1.0, bottom: float = 3.0) -> go.Figure:
        """Return an empty figure; the margins are in lines of text."""
        sides = {"left": left, "right": right, "top": top, "bottom": bottom}
        figure = blank(height=self.height, **{side: round(lines * self.text) for side, lines in sides.items()})
        figure.update_layout(font={"size": self.text}, hoverlabel={"font": {"size": self.text}})
        return figure

    def finished(self, figure: go.Figure) -> go.Figure:
        """Give all text of a figure the size of the canvas."""
        figure.update_xaxes(tickfont={"size": self.text}, title_font={"size": self.text}, ticks="")
        figure.update_yaxes(tickfont={"size": self.text}, title_font={"size": self.text}, ticks="")
        figure.update_annotations(font={"size": self.text})
        return figure


def above(figure: go.Figure, text: str) -> None:
    figure.add_annotation(
        x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom", text=text, showarrow=False
    )


# Answers ---------------------------------------------------------------------------------------------------------


def answers_before_after(
    options: Sequence[str],
    right: int,
    shares: Sequence[Float[np.ndarray, " option"]],
    changed: Bool[np.ndarray, " example"],
    canvas: Canvas,
    *,
    revealed: bool,
) -> go.Figure:
    """Plot the probabilities of a question's options, intact and without a head; below, a square per question.

    A square is filled where the answer changes.
    """
    names = [f"{cut(option)} ✓" if place == right else cut(option) for place, option in enumerate(options)]
    empty = canvas.figure(left=0.2, top=2, bottom=0.5)
    figure = make_subplots(rows=2, cols=1, row_heights=[0.86, 0.14], vertical_spacing=0.08, figure=empty)
    kinds = [("intact", NEUTRAL), ("without the head", ACCENT)][: 1 + revealed]
    for (name, colour), share in zip(kinds, shares, strict=False):
        bars = go.Bar(
            x=100 * share,
            y=list(range(len(names))),
            orientation="h",
            name=name,
            marker={"color": colour},
            text=[f"{100 * value:.0f} %" for value in share],
            textposition="outside",
            constraintext="none",
            textfont={"size": canvas.text},
            cliponaxis=False,
            hovertemplate=f"{name}: %{{x:.1f}} %<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=1)
    figure.update_layout(barmode="group", bargap=0.44, bargroupgap=0.08)
    figure.update_xaxes(range=[0, 116], showticklabels=False, row=1, col=1)
    figure.update_yaxes(range=[len(names) - 0.65, -0.75], visible=False, row=1, col=1)
    for place, name in enumerate(names):
        figure.add_annotation(x=0, y=place - 0.28, text=name, xanchor="left", yanchor="bottom", showarrow=False)
    above(figure, " · ".join(f"<span style='color:{colour}'><b>{name}</b></span>" for name, colour in kinds))
    filled = np.full(-(-len(changed) // SQUARES_PER_ROW) * SQUARES_PER_ROW, np.nan)
    filled[: len(changed)] = changed & revealed
    squares = go.Heatmap(
        z=filled.reshape(-1, SQUARES_PER_ROW),
        zmin=0,
        zmax=1,
        colorscale=[[0, FAINT], [1, ACCENT]],
        showscale=False,
        xgap=2,
        ygap=2,
        hoverinfo="skip",
    )
    figure.add_trace(squares, row=2, col=1)
    figure.update_xaxes(visible=False, row=2, col=1)
    figure.update_yaxes(visible=False, autorange="reversed", row=2, col=1)
    return canvas.finished(figure)


def cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= OPTION_CHARACTERS else f"{text[: OPTION_CHARACTERS - 1].rstrip()}…"


# Pruning ---------------------------------------------------------------------------------------------------------


def zeros_by_layer(
    shares: Mapping[str, Float[np.ndarray, " layer"]], overall: float, canvas: Canvas, *, revealed: bool
) -> go.Figure:
    """Plot the share of weights removed per layer, a line for each of two parts beside the overall share."""
    figure = canvas.figure(left=4, right=6.5, top=1.8)
    figure.add_hline(y=100 * overall, line={"color": NEUTRAL, "width": 2, "dash": "dot"})
    n_layers = len(next(iter(shares.values())))
    last = [float(share[-1]) if revealed else overall for share in shares.values()]
    # The labels stand apart, the larger share above.
    anchors = ("bottom", "top") if last[0] >= last[1] else ("top", "bottom")
    for (part, share), colour, end, anchor in zip(shares.items(), (ACCENT, NEUTRAL), last, anchors, strict=True):
        line = go.Scatter(
            x=list(range(n_layers)),
            y=100 * share if revealed else [None] * n_layers,
            name=part,
            mode="lines+markers",
            line={"color": colour, "width": 4},
            marker={"size": 8},
            hovertemplate=f"{part}, layer %{{x}}: %{{y:.1f}} % removed<extra></extra>",
        )
        figure.add_trace(line)
        figure.add_annotation(
            x=n_layers - 0.7,
            y=100 * end,
            text=f"<span style='color:{colour}'><b>{part}{'' if revealed else ' ?'}</b></span>",
            xanchor="left",
            yanchor=anchor,
            showarrow=False,
        )
    highest = 100 * max(float(np.nanmax(share)) for share in shares.values())
    figure.update_xaxes(title="layer", range=[-0.5, n_layers - 0.5], tickvals=ticks(n_layers, 260 // canvas.text))
    figure.update_yaxes(ticksuffix=" %", range=[0, 1.1 * highest], nticks=6, showgrid=True, gridcolor=FAINT)
    above(figure, f"weights removed per layer (dotted: {100 * overall:.0f} % overall)")
    return canvas.finished(figure)


@dataclass(frozen=True)
class Bar:
    """A value with its interval."""

    title: str
    value: float
    low: float
    high: float
    colour: str = NEUTRAL

    @classmethod
    def percent(cls, title: str, value: float, low: float, high: float, colour: str) -> Self:
        return cls(title, 100 * value, 100 * low, 100 * high, colour)


def accuracy_bars(bars: Sequence[Bar], chance: float, canvas: Canvas, *, revealed: bool) -> go.Figure:
    """Plot accuracies, until the guess only the first of them; chance as a dotted line."""
    figure = canvas.figure(left=4, right=5, top=1.8, bottom=2)
    add_bars(figure, bars if revealed else bars[:1], "%{x}: %{y:.1f} %")
    for place, bar in enumerate(bars):
        known = revealed or place == 0
        label(figure, bar.title, bar.high if known else bars[0].value / 2, f"{bar.value:.1f} %" if known else UNKNOWN)
    guessing = {"text": "guessing", "x": 1, "xanchor": "left", "yanchor": "middle"}
    figure.add_hline(y=chance, line={"color": NEUTRAL, "width": 2, "dash": "dot"}, annotation=guessing)
    names = [bar.title for bar in bars]
    figure.update_xaxes(categoryorder="array", categoryarray=names, range=[-0.6, len(names) - 0.4])
    top = 1.15 * max(bar.high for bar in bars)
    figure.update_yaxes(ticksuffix=" %", range=[0, top], nticks=5, showgrid=True, gridcolor=FAINT)
    above(figure, "questions answered right")
    return canvas.finished(figure)


def joint_bars(names: Sequence[str], singles: HeadEstimate, joint: HeadEstimate, canvas: Canvas) -> go.Figure:
    """Plot the effects of single heads, their sum and the effect of all of them together, with intervals."""
    figure = canvas.figure(left=3.5, top=1.8, bottom=2)
    one_by_one = zip(names, singles.mean, singles.low, singles.high, strict=True)
    total = float(singles.mean.sum())
    bars = [
        *(Bar(name, float(mean), float(low), float(high)) for name, mean, low, high in one_by_one),
        Bar("sum", total, total, total),
        Bar("together", float(joint.mean), float(joint.low), float(joint.high), ACCENT),
    ]
    add_bars(figure, bars, "%{x}: %{y:.2f}")
    for bar in bars[-2:]:
        label(figure, bar.title, bar.high, signed(bar.value, 2))
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    low, high = min(0.0, *(bar.low for bar in bars)), max(0.0, *(bar.high for bar in bars))
    figure.update_yaxes(range=[1.1 * low, 1.15 * high], nticks=5, showgrid=True, gridcolor=FAINT)
    above(figure, f"effect of removing them, {NATS}")
    return canvas.finished(figure)


def add_bars(figure: go.Figure, bars: Sequence[Bar], hover: str) -> None:
    whiskers = {
        "type": "data",
        "symmetric": False,
        "array": [bar.high - bar.value for bar in bars],
        "arrayminus": [bar.value - bar.low for bar in bars],
        "thickness": 2.5,
        "width": 8,
        "color": NEUTRAL,
    }
    figure.add_trace(
        go.Bar(
            x=[bar.title for bar in bars],
            y=[bar.value for bar in bars],
            marker={"color": [bar.colour for bar in bars]},
            error_y=whiskers,
            hovertemplate=f"{hover}<extra></extra>",
        )
    )


def label(figure: go.Figure, x: str, y: float, text: str) -> None:
    figure.add_annotation(x=x, y=y, text=f"<b>{text}</b>", yanchor="bottom", yshift=2, showarrow=False)
