"""Effects of heads by position, as a matrix of heads and spans of the prompt or steps of a solution."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from cap_viz.figures.head_grid import Grid, colour_limit, named_grid
from cap_viz.figures.results import ENDS
from cap_viz.figures.theme import with_interval
from cap_viz.stats import HeadEstimate

TITLES = {"span": "replaced at", "step": "loss of"}


def position_map(
    estimate: HeadEstimate,
    drawn: Sequence[int],
    *,
    heads: Sequence[str],
    parts: Sequence[str],
    unit: str,
    by: str,
) -> go.Figure:
    """Plot heads × parts for the heads in `drawn`, by their number in the estimate [head, part].

    Effects whose interval includes zero are faded, those that survive the false-discovery control have a dot.
    """
    rows = list(drawn)
    mean, low, high = (values[rows] for values in (estimate.mean, estimate.low, estimate.high))

    def hover(row: int, part: int) -> str:
        said = with_interval(*(float(values[row, part]) for values in (mean, low, high)), unit=unit)
        return f"<b>{heads[rows[row]]}, {parts[part]}</b><br>{said}"

    grid = Grid(
        mean,
        colour_limit(mean),
        ENDS,
        hover=[[hover(row, part) for part in range(len(parts))] for row in range(len(rows))],
        faded=estimate.unclear[rows],
        marked=estimate.survives[rows],
    )
    names = [heads[row] for row in rows]
    return named_grid(grid, unit=unit, rows=names, columns=parts, titles=("head", TITLES[by]))
