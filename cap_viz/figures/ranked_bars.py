"""Bars of effects such as those of ranked heads, one head's effect on each example, and several heads together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from cap_viz.figures.theme import ACCENT, CLEAR, FAINT, HELPS, HURTS, NEUTRAL, blank, with_interval
from cap_viz.stats import HeadEstimate, JointEffect, mean_with_ci


def ranked_bars(
    estimate: HeadEstimate, *, top: int, selected: tuple[int, int], unit: str, quantity: str = "effect"
) -> go.Figure:
    """Plot the `top` heads by rank as bars of their effects; `selected`, if shown, is shaded.

    A click on a bar reports its layer and head.
    """
    shown = estimate.top_heads(top)
    layers, heads = np.array(shown).T
    mean, low, high = (values[layers, heads] for values in (estimate.mean, estimate.low, estimate.high))
    names = [f"L{layer} H{head}" for layer, head in shown]
    figure = effect_bars(names, mean, low, high, unit=unit, quantity=quantity)
    figure.update_traces(customdata=np.array(shown))
    if selected in shown:
        place = shown.index(selected)
        figure.add_shape(
            type="rect",
            xref="paper",
            x0=0,
            x1=1,
            y0=place - 0.5,
            y1=place + 0.5,
            line={"width": 0},
            fillcolor=ACCENT,
            opacity=0.13,
            layer="below",
        )
    return figure


def effect_bars(
    names: Sequence[str],
    mean: Float[np.ndarray, " bar"],
    low: Float[np.ndarray, " bar"],
    high: Float[np.ndarray, " bar"],
    *,
    unit: str,
    quantity: str = "effect",
) -> go.Figure:
    """Plot effects as horizontal bars with whiskers, the first on top, coloured by sign; no two names are the same."""
    longest = max(map(len, names), default=0)
    figure = blank(height=54 + 19 * max(3, len(names)), left=max(64, 12 + 7 * longest), top=6, bottom=40)
    always = {"marker": {"opacity": 1}}
    figure.add_trace(
        go.Bar(
            x=mean,
            y=list(names),
            orientation="h",
            marker={"color": [HURTS if value >= 0 else HELPS for value in mean]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": high - mean,
                "arrayminus": mean - low,
                "color": NEUTRAL,
                "thickness": 1.2,
                "width": 3,
            },
            text=[
                f"{name}: {value:+.3f} {unit} [{lower:+.3f}, {upper:+.3f}]"
                for name, value, lower, upper in zip(names, mean, low, high, strict=True)
            ],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            selected=always,
            unselected=always,
        )
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.update_yaxes(type="category", autorange="reversed", ticks="", tickfont={"size": 11})
    figure.update_xaxes(title=f"{quantity}, {unit}", showgrid=True, gridcolor=FAINT)
    return figure


def example_strip(
    effects: Float[np.ndarray, " example"],
    hover: Sequence[str],
    *,
    unit: str,
    selected: int | None = None,
) -> go.Figure:
    """Plot one head's effect on every example, mean and interval beneath; a click reports the example's index."""
    estimate = mean_with_ci(effects)
    mean, low, high = (float(value) for value in (estimate.mean, estimate.low, estimate.high))
    figure = blank(height=116, left=12, top=2, bottom=36)
    always = {"marker": {"opacity": 1}}
    colours = [HURTS if value >= 0 else HELPS for value in effects]
    widths = [2.5 if i == selected else 0.5 for i in range(len(effects))]
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.add_trace(
        go.Scatter(
            x=effects,
            y=spread(effects),
            mode="markers",
            marker={
                "size": 8,
                "color": colours,
                "line": {"width": widths, "color": [ACCENT if i == selected else CLEAR for i in range(len(effects))]},
            },
            customdata=np.arange(len(effects))[:, None],
            text=list(hover),
            hovertemplate="%{text}<extra></extra>",
            selected=always,
            unselected=always,
        )
    )
    if np.isfinite(low) and np.isfinite(high):
        figure.add_trace(
            go.Scatter(
                x=[low, high], y=[-1.25, -1.25], mode="lines", line={"color": NEUTRAL, "width": 2}, hoverinfo="skip"
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[mean],
            y=[-1.25],
            mode="markers",
            marker={"symbol": "diamond", "size": 9, "color": NEUTRAL},
            hovertemplate=f"mean {mean:+.3f} [{low:+.3f}, {high:+.3f}]<extra></extra>",
        )
    )
    figure.update_yaxes(visible=False, range=[-1.7, 1.25])
    figure.update_xaxes(title=f"effect per example, {unit}", showgrid=True, gridcolor=FAINT)
    return figure


def spread(values: Float[np.ndarray, " example"]) -> Float[np.ndarray, " example"]:
    """Return reproducible heights from -1 to 1 that keep neighbouring points apart (a golden-ratio sequence)."""
    places = np.empty(len(values))
    places[np.argsort(values, kind="stable")] = (np.arange(len(values)) * 0.618034) % 1
    return 2 * places - 1


def joint_effect(found: JointEffect, unit: str) -> go.Figure:
    """Plot three rows: the joint effect, the sum of the single effects, and the range of random sets."""
    figure = blank(height=170, left=110, top=8, bottom=42)
    for name, estimate, colour in (("together", found.joint, ACCENT), ("sum of singles", found.singles, NEUTRAL)):
        mean, low, high = (float(value) for value in (estimate.mean, estimate.low, estimate.high))
        figure.add_trace(
            go.Scatter(
                x=[mean],
                y=[name],
                mode="markers",
                marker={"size": 11, "color": colour},
                error_x={"type": "data", "array": [high - mean], "arrayminus": [mean - low], "color": colour},
                hovertemplate=f"{name}: {with_interval(mean, low, high, unit=unit)}<extra></extra>",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[found.random_low, found.random_high],
            y=["random sets"] * 2,
            mode="lines+markers",
            line={"color": NEUTRAL, "width": 6},
            marker={"size": 6, "color": NEUTRAL},
            hovertemplate="95 % of random sets: %{x:.3f}<extra></extra>",
        )
    )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.update_xaxes(title=f"effect, {unit}", showgrid=True, gridcolor=FAINT, zeroline=False)
    figure.update_yaxes(autorange="reversed", ticks="")
    return figure
