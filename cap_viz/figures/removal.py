"""Head-removal curves: loss above the whole model's against the share of heads removed, with bands."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from cap_viz.figures.theme import FAINT, HELPS, HURTS, NEUTRAL, blank, with_interval

# Curves that are drawn, with their labels, colours and the fill of their bands.
CURVES = {
    "random": ("random orders", NEUTRAL, "rgba(128,134,148,0.16)"),
    "most first": ("most important first", HURTS, "rgba(18,136,123,0.18)"),
    "least first": ("least important first", HELPS, "rgba(181,105,28,0.18)"),
}


def removal_curves(table: pd.DataFrame, *, unit: str) -> go.Figure:
    """Plot the curves of a table as `RemovalCurve.rows` makes it.

    Bands are 95 % intervals over questions, for random orders all of them.
    """
    figure = blank(height=340, left=60, right=150, top=14, bottom=44)
    figure.add_hline(y=0, line={"color": FAINT, "width": 1})
    for name, (label, colour, fill) in CURVES.items():
        rows = table.loc[table["curve"] == name]
        x = [0.0, *(100 * rows["share"])]
        low, middle, high = ([0.0, *rows[column]] for column in ("ci_low", "effect", "ci_high"))
        band = go.Scatter(x=[*x, *x[::-1]], y=[*low, *high[::-1]], fill="toself", fillcolor=fill, hoverinfo="skip")
        figure.add_trace(band.update(mode="lines", line={"width": 0}))
        texts = ["<b>no head removed</b>"] + [hover(label, row, unit) for row in rows.to_dict("records")]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=middle,
                mode="lines+markers",
                line={"color": colour, "width": 2},
                marker={"color": colour, "size": 6},
                text=texts,
                hovertemplate="%{text}<extra></extra>",
            )
        )
        at = {"x": x[-1], "y": middle[-1], "xanchor": "left", "xshift": 8, "showarrow": False}
        figure.add_annotation(text=label, font={"color": colour, "size": 12}, **at)
    figure.update_xaxes(title="heads removed, % of all", ticks="outside", tickcolor=FAINT)
    figure.update_yaxes(title=f"loss above the whole model's, {unit}", showgrid=True, gridcolor=FAINT)
    return figure


def hover(label: str, row: Mapping[Hashable, Any], unit: str) -> str:
    said = with_interval(row["effect"], row["ci_low"], row["ci_high"], unit=unit)
    return f"<b>{label}, {row['heads']} removed</b><br>{said}"
