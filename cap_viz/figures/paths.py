"""Effects of paths between heads, as a matrix of senders and receivers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from cap_viz.figures.head_grid import Grid, colour_limit, named_grid
from cap_viz.figures.theme import with_interval
from cap_viz.stats import HeadEstimate

ENDS = ("cutting it helps", "cutting it hurts")


def path_matrix(
    estimate: HeadEstimate,
    cells: Mapping[int, tuple[int, int]],
    *,
    senders: Sequence[str],
    receivers: Sequence[str],
    unit: str,
) -> go.Figure:
    """Plot senders × receivers: `cells` gives row and column of the paths to draw, by their number in the estimate.

    Paths whose interval includes zero are faded, those that survive the false-discovery control have a dot.
    """
    shape = (len(senders), len(receivers))
    drawn, (rows, columns) = list(cells), np.array(list(cells.values()), dtype=np.int64).reshape(-1, 2).T

    def placed(values: np.ndarray, empty: float | bool) -> np.ndarray:
        whole = np.full(shape, empty, dtype=np.result_type(values.dtype, type(empty)))
        whole[rows, columns] = values[drawn]
        return whole

    mean, low, high = (placed(values, np.nan) for values in (estimate.mean, estimate.low, estimate.high))
    grid = Grid(
        mean,
        colour_limit(mean),
        ENDS,
        hover=hover_texts(mean, low, high, senders=senders, receivers=receivers, unit=unit),
        faded=placed(estimate.unclear, False),
        marked=placed(estimate.survives, False),
    )
    return named_grid(grid, unit=unit, rows=senders, columns=receivers, titles=("written by", "read by"))


def hover_texts(
    mean: Float[np.ndarray, "sender receiver"],
    low: Float[np.ndarray, "sender receiver"],
    high: Float[np.ndarray, "sender receiver"],
    *,
    senders: Sequence[str],
    receivers: Sequence[str],
    unit: str,
) -> list[list[str]]:
    def text(row: int, column: int) -> str:
        name = f"<b>{senders[row]} → {receivers[column]}</b>"
        if np.isnan(mean[row, column]):
            return f"{name}<br>no path measured"
        return f"{name}<br>{with_interval(*(float(values[row, column]) for values in (mean, low, high)), unit=unit)}"

    return [[text(row, column) for column in range(len(receivers))] for row in range(len(senders))]
