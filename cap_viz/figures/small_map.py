"""Head map of an Overview card: small and without a colour bar, since its page shares and explains one scale."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from cap_viz.figures.head_grid import FADED_OPACITY, Grid, click_targets, flat_cells, marks, signed_cells, ticks
from cap_viz.figures.theme import blank

HEIGHT = 214
MARGIN_TOP, MARGIN_BOTTOM = 4, 24


def small_map(grid: Grid) -> go.Figure:
    """Plot layers from top to bottom and heads from left to right; hovering shows a head's effect."""
    n_layers, n_heads = grid.shape
    figure = blank(height=HEIGHT, left=26, right=4, top=MARGIN_TOP, bottom=MARGIN_BOTTOM)
    unclear = np.zeros(grid.mean.shape, dtype=bool) if grid.faded is None else grid.faded
    figure.add_trace(flat_cells(grid.mean.shape))
    figure.add_trace(signed_cells(np.where(unclear, np.nan, grid.mean), grid.limit))
    figure.add_trace(signed_cells(np.where(unclear, grid.mean, np.nan), grid.limit, opacity=FADED_OPACITY))
    figure.add_traces(marks(grid, scale=0.7))
    figure.add_trace(click_targets(grid))
    figure.update_xaxes(tickvals=ticks(n_heads, 12), range=[-0.5, n_heads - 0.5], ticks="", tickfont={"size": 10})
    rows = (HEIGHT - MARGIN_TOP - MARGIN_BOTTOM) // 22
    figure.update_yaxes(tickvals=ticks(n_layers, rows), range=[n_layers - 0.5, -0.5], ticks="", tickfont={"size": 10})
    figure.update_layout(hoverdistance=60)
    return figure
