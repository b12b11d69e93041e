"""Figures of heads that act together: pair effects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from cap_viz.figures.head_grid import DIVERGING, colour_limit
from cap_viz.figures.theme import NEUTRAL, blank, signed
from cap_viz.stats import HeadEstimate

CELL = 30


def pair_matrix(
    heads: Sequence[tuple[int, int]],
    pairs: Sequence[tuple[int, int]],
    estimate: HeadEstimate,
    kinds: Sequence[str],
    *,
    unit: str,
) -> go.Figure:
    """Plot the effect of every pair of heads, on both sides of the diagonal; a pair that is not shown has no number.

    `pairs` are places in `heads`; `estimate` and `kinds` (see `PairScores.kinds`) have an entry for each pair.
    """
    n, names = len(heads), [f"L{layer} H{head}" for layer, head in heads]
    values, texts, hovers = (
        np.full((n, n), np.nan),
        np.full((n, n), "", dtype=object),
        np.full((n, n), "", dtype=object),
    )
    for number, (first, second) in enumerate(pairs):
        mean, low, high = (float(getattr(estimate, name)[number]) for name in ("mean", "low", "high"))
        for place in ((first, second), (second, first)):
            values[place] = mean
            texts[place] = signed(mean, 2) if estimate.survives[number] else ""
            hovers[place] = (
                f"<b>{names[first]} and {names[second]}</b><br>{signed(mean)} {unit} [{signed(low)}, {signed(high)}]"
                f"<br>{kinds[number]}"
            )
    limit, height = colour_limit(values), 90 + CELL * n
    figure = blank(height=height, left=64, right=12, top=12, bottom=64)
    figure.add_trace(
        go.Heatmap(
            z=values,
            zmin=-limit,
            zmax=limit,
            colorscale=[[at, colour] for at, colour in DIVERGING],
            colorbar={"title": unit, "thickness": 10, "outlinewidth": 0},
            text=texts,
            texttemplate="%{text}",
            hovertext=hovers,
            hovertemplate="%{hovertext}<extra></extra>",
            hoverongaps=False,
            xgap=2,
            ygap=2,
        )
    )
    labels = {"tickvals": list(range(n)), "ticktext": names, "ticks": "", "tickfont": {"size": 12, "color": NEUTRAL}}
    figure.update_xaxes(tickangle=-45, range=[-0.5, n - 0.5], **labels)
    figure.update_yaxes(range=[n - 0.5, -0.5], **labels)
    return figure
