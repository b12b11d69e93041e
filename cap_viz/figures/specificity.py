"""Scatters of all heads: effects on a task against effects on a control text, or against an attention measure."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from cap_viz.figures.theme import ACCENT, CLEAR, FAINT, HELPS, HURTS, NEUTRAL, blank


def effect_scatter(
    task: Float[np.ndarray, "layer head"],
    control: Float[np.ndarray, "layer head"],
    survives: Bool[np.ndarray, "layer head"],
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
        figure.add_trace(head_points(task, control, chosen, names, colour, opacity))
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
    names: tuple[str, str],
    colour: str,
    opacity: float,
) -> go.Scatter:
    layers, heads = np.nonzero(chosen)
    always = {"marker": {"opacity": opacity}}
    return go.Scatter(
        x=np.round(control[chosen], 3),
        y=np.round(task[chosen], 3),
        mode="markers",
        marker={"size": 7, "color": colour, "opacity": opacity},
        customdata=np.stack([layers, heads], axis=1),
        hovertemplate="Layer %{customdata[0]}, head %{customdata[1]}: "
        f"{names[0]} %{{y:+.2f}}, {names[1]} %{{x:+.2f}} "
        "SD over heads<extra></extra>",
        selected=always,
        unselected=always,
    )


def role_scatter(
    effect: Float[np.ndarray, "layer head"],
    values: Float[np.ndarray, "layer head"],
    unclear: Bool[np.ndarray, "layer head"],
    *,
    title: str,
    unit: str,
    selected: tuple[int, int],
) -> go.Figure:
    """Plot every head's effect against an attention measure, faint where the effect is unclear.

    A click on a point reports its layer and head.
    """
    figure = blank(height=300, left=56, top=8, bottom=42)
    layers, heads = (axis.ravel() for axis in np.indices(effect.shape))
    chosen = (layers == selected[0]) & (heads == selected[1])
    always = {"marker": {"opacity": 1}}
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    figure.add_trace(
        go.Scatter(
            x=np.round(values.ravel(), 4),
            y=np.round(effect.ravel(), 4),
            mode="markers",
            marker={
                "size": np.where(chosen, 11, 6).tolist(),
                "color": np.where(unclear.ravel(), FAINT, np.where(effect.ravel() > 0, HURTS, HELPS)).tolist(),
                "line": {
                    "width": np.where(chosen, 2, 0.5).tolist(),
                    "color": np.where(chosen, ACCENT, CLEAR).tolist(),
                },
            },
            customdata=np.stack([layers, heads], axis=1),
            hovertemplate=f"Layer %{{customdata[0]}}, head %{{customdata[1]}}: {title} %{{x:.2f}}, effect %{{y:+.3f}}"
            "<extra></extra>",
            selected=always,
            unselected=always,
        )
    )
    figure.update_xaxes(title=title, showgrid=True, gridcolor=FAINT, zeroline=False)
    figure.update_yaxes(title=f"effect, {unit}", showgrid=True, gridcolor=FAINT, zeroline=False)
    return figure
