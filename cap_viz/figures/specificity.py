"""Scatter of head effects on a task against effects on a control text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from cap_viz.figures.theme import ACCENT, FAINT, HELPS, HURTS, NEUTRAL, blank


def effect_scatter(
    task: Float[np.ndarray, "layer head"],
    control: Float[np.ndarray, "layer head"],
    survives: Bool[np.ndarray, "layer head"],
    hover: Sequence[Sequence[str]],
    *,
    names: tuple[str, str],
    selected: tuple[int, int] | None,
    height: int = 300,
) -> go.Figure:
    """Plot one point per head, coloured where the two effects differ beyond noise; on the dotted line they are equal.

    `names` labels the task and the control text. A click on a point reports its layer and head.
    """
    figure = blank(height=height, left=52, top=10, bottom=44)
    low = float(min(task.min(), control.min()))
    high = float(max(task.max(), control.max()))
    room = 0.05 * (high - low or 1.0)
    ends = [low - room, high + room]
    figure.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", line={"color": NEUTRAL, "width": 1, "dash": "dot"}, hoverinfo="skip")
    )
    for chosen, colour, opacity in (
        (~survives, NEUTRAL, 0.55),
        (survives & (task > control), HURTS, 0.95),
        (survives & (task <= control), HELPS, 0.95),
    ):
        figure.add_trace(head_points(task, control, chosen, hover, colour, opacity))
    if selected is not None:
        figure.add_trace(
            go.Scatter(
                x=[control[selected]],
                y=[task[selected]],
                mode="markers",
                marker={"size": 14, "color": "rgba(0,0,0,0)", "line": {"color": ACCENT, "width": 2.5}},
                hoverinfo="skip",
                selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 1}},
            )
        )
    figure.update_xaxes(title=f"{names[1]}, standardised effect", range=ends, showgrid=True, gridcolor=FAINT)
    figure.update_yaxes(title=f"{names[0]}, standardised effect", range=ends, showgrid=True, gridcolor=FAINT)
    return figure


def head_points(
    task: Float[np.ndarray, "layer head"],
    control: Float[np.ndarray, "layer head"],
    chosen: Bool[np.ndarray, "layer head"],
    hover: Sequence[Sequence[str]],
    colour: str,
    opacity: float,
) -> go.Scatter:
    layers, heads = np.nonzero(chosen)
    always = {"marker": {"opacity": opacity}}
    return go.Scatter(
        x=control[chosen],
        y=task[chosen],
        mode="markers",
        marker={"size": 7, "color": colour, "opacity": opacity},
        customdata=np.stack([layers, heads], axis=1),
        text=[hover[layer][head] for layer, head in zip(layers.tolist(), heads.tolist(), strict=True)],
        hovertemplate="%{text}<extra></extra>",
        selected=always,
        unselected=always,
    )
