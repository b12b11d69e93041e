"""Figures of the Tasks page: head maps of all tasks, their agreement matrix, and one head on every task.

The maps are one heatmap with empty cells between them: nine separate maps would need nine times the traces and could
not be clicked as one figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int

from cap_viz.figures.head_grid import FADED_OPACITY, GHOST, Grid, frame_cell, label_scale, marks, signed_cells, ticks
from cap_viz.figures.theme import FAINT, HELPS, HURTS, NEUTRAL, blank

# Empty cells between maps: rows above each map for its title, a narrow gap beside it.
TITLE_ROWS, GAP_COLUMNS = 5, 1
MAPS_HEIGHT = 500
MATRIX_LOW = "rgba(97,100,240,0.04)"
MATRIX_HIGH = "rgba(97,100,240,0.72)"
# The themes' text colours (.streamlit/config.toml).
INK, INK_ON_DARK = "#11151d", "#e5e7ec"


@dataclass(frozen=True)
class TaskMap:
    """One task's map in the mosaic: task name, heading, and each head's value, rank and marks."""

    name: str
    heading: str
    values: Float[np.ndarray, "layer head"]
    rank: Int[np.ndarray, "layer head"]
    faded: Bool[np.ndarray, "layer head"]
    marked: Bool[np.ndarray, "layer head"]


@dataclass(frozen=True)
class Mosaic:
    """Layout of `n_maps` equally shaped maps in one grid."""

    n_maps: int
    n_layers: int
    n_heads: int
    columns: int

    @property
    def rows(self) -> int:
        return -(-self.n_maps // self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        width = self.columns * (self.n_heads + GAP_COLUMNS) - GAP_COLUMNS
        return self.rows * (self.n_layers + TITLE_ROWS), width

    def corner(self, place: int) -> tuple[int, int]:
        """Return row and column of the first cell of map `place`."""
        row, column = divmod(place, self.columns)
        return row * (self.n_layers + TITLE_ROWS) + TITLE_ROWS, column * (self.n_heads + GAP_COLUMNS)

    def head_at(self, row: int, column: int) -> tuple[int, int] | None:
        """Return layer and head of a cell in any map; None for a cell between maps."""
        layer = row % (self.n_layers + TITLE_ROWS) - TITLE_ROWS
        head = column % (self.n_heads + GAP_COLUMNS)
        return (layer, head) if layer >= 0 and head < self.n_heads else None


def mosaic_of(maps: Sequence[TaskMap], columns: int) -> Mosaic:
    n_layers, n_heads = maps[0].values.shape
    return Mosaic(len(maps), n_layers, n_heads, min(columns, len(maps)))


def task_maps(
    maps: Sequence[TaskMap],
    *,
    limit: float,
    unit: str,
    ends: tuple[str, str],
    columns: int,
    selected: tuple[int, int] | None,
) -> go.Figure:
    """Plot every task's map on one colour scale, the selected head framed in all. A click reports a cell (x, y)."""
    place = mosaic_of(maps, columns)
    mean, faded, marked = (np.full(place.shape, empty) for empty in (np.nan, False, False))
    for i, one in enumerate(maps):
        part = cells_of(place, i)
        mean[part], faded[part], marked[part] = one.values, one.faded, one.marked
    grid = Grid(mean=mean, limit=limit, hover=(), ends=ends, faded=faded, marked=marked)
    figure = blank(height=MAPS_HEIGHT, left=30, right=8, top=26, bottom=26)
    figure.add_trace(
        go.Heatmap(
            z=np.where(np.isnan(mean), np.nan, 0).astype(np.float32),
            colorscale=[[0, GHOST], [1, GHOST]],
            showscale=False,
            hoverinfo="skip",
            xgap=1,
            ygap=1,
        )
    )
    clear, pale = np.where(faded, np.nan, mean), np.where(faded, mean, np.nan)
    figure.add_trace(signed_cells(clear.astype(np.float32), limit, unit=unit))
    figure.add_trace(signed_cells(pale.astype(np.float32), limit, opacity=FADED_OPACITY))
    figure.add_traces(marks(grid, scale=0.7))
    for i, one in enumerate(maps):
        figure.add_trace(targets(place, i, one))
        name_map(figure, place, i, one.heading)
        if selected is not None:
            row, column = place.corner(i)
            frame_cell(figure, row + selected[0], column + selected[1], width=1.4)
    label_axes(figure, place)
    label_scale(figure, limit, ends, unit)
    figure.update_layout(hoverdistance=60)
    return figure


def cells_of(place: Mosaic, i: int) -> tuple[slice, slice]:
    row, column = place.corner(i)
    return slice(row, row + place.n_layers), slice(column, column + place.n_heads)


def targets(place: Mosaic, i: int, one: TaskMap) -> go.Scatter:
    """Draw an invisible point on every cell of a map: heatmaps report no selection.

    The browser composes the hover text from numbers; a sentence per cell would take up most of the figure's size.
    """
    layers, heads = (axis.ravel() for axis in np.indices((place.n_layers, place.n_heads)))
    row, column = place.corner(i)
    invisible = {"marker": {"opacity": 0}}
    return go.Scatter(
        x=(column + heads).astype(np.int16),
        y=(row + layers).astype(np.int16),
        mode="markers",
        marker={"symbol": "square", "size": 6, "opacity": 0, "color": NEUTRAL},
        customdata=np.stack([layers, heads, one.values.ravel(), one.rank.ravel()], axis=1).astype(np.float32),
        hovertemplate=(
            f"{one.name}, layer %{{customdata[0]}}, head %{{customdata[1]}}: %{{customdata[2]:+.2f}}, "
            "rank %{customdata[3]}<extra></extra>"
        ),
        selected=invisible,
        unselected=invisible,
    )


def name_map(figure: go.Figure, place: Mosaic, i: int, title: str) -> None:
    row, column = place.corner(i)
    figure.add_annotation(
        x=column - 0.5,
        y=row - 0.8,
        xanchor="left",
        yanchor="bottom",
        text=title,
        showarrow=False,
        font={"size": 11},
        borderpad=0,
    )


def label_axes(figure: go.Figure, place: Mosaic) -> None:
    """Put head numbers below the last row of maps and layer numbers left of the first column."""
    height, width = place.shape
    layers, heads = ticks(place.n_layers, 4), ticks(place.n_heads, 4)
    rows = [place.corner(row * place.columns)[0] for row in range(place.rows)]
    columns = [place.corner(column)[1] for column in range(place.columns)]
    figure.update_xaxes(
        tickvals=[start + head for start in columns for head in heads],
        ticktext=[str(head) for _ in columns for head in heads],
        range=[-0.5, width - 0.5],
        ticks="",
        tickfont={"size": 10},
    )
    figure.update_yaxes(
        tickvals=[start + layer for start in rows for layer in layers],
        ticktext=[str(layer) for _ in rows for layer in layers],
        range=[height - 0.5, 0],
        ticks="",
        tickfont={"size": 10},
    )


@dataclass(frozen=True)
class AgreementMatrix:
    """Agreement of every pair of tasks, coloured from 0 to 1; `text` is shown in a cell, `hover` explains it.

    Rank correlations are below the diagonal, shares of the top k above it, each ranking's reliability on it.
    """

    names: Sequence[str]
    values: Float[np.ndarray, "task task"]
    text: Sequence[Sequence[str]]
    hover: Sequence[Sequence[str]]
    selected: tuple[int, int] | None = None


def agreement_matrix(matrix: AgreementMatrix, *, height: int, dark: bool) -> go.Figure:
    """Plot tasks against tasks; a click on a cell reports the pair (x, y). `dark`: the page has the dark theme."""
    n = len(matrix.names)
    figure = blank(height=height, left=104, right=40, top=84, bottom=8)
    figure.add_trace(
        go.Heatmap(
            z=np.clip(matrix.values, 0, 1),
            zmin=0,
            zmax=1,
            colorscale=[[0, MATRIX_LOW], [1, MATRIX_HIGH]],
            showscale=False,
            hoverinfo="skip",
            xgap=2,
            ygap=2,
        )
    )
    rows, columns = (axis.ravel() for axis in np.indices((n, n)))
    # Heatmap text would get a colour chosen for a white page, unreadable on the dark theme.
    figure.add_trace(
        go.Scatter(
            x=columns,
            y=rows,
            mode="text",
            text=[matrix.text[row][column] for row, column in zip(rows.tolist(), columns.tolist(), strict=True)],
            textfont={"size": 11, "color": INK_ON_DARK if dark else INK},
            hoverinfo="skip",
        )
    )
    invisible = {"marker": {"opacity": 0}}
    figure.add_trace(
        go.Scatter(
            x=columns,
            y=rows,
            mode="markers",
            marker={"symbol": "square", "size": 24, "opacity": 0, "color": NEUTRAL},
            text=[matrix.hover[row][column] for row, column in zip(rows.tolist(), columns.tolist(), strict=True)],
            hovertemplate="%{text}<extra></extra>",
            selected=invisible,
            unselected=invisible,
        )
    )
    if matrix.selected is not None:
        first, second = matrix.selected
        frame_cell(figure, first, second)
        frame_cell(figure, second, first)
    labels = {"tickvals": list(range(n)), "ticktext": list(matrix.names), "ticks": "", "tickfont": {"size": 11}}
    figure.update_xaxes(side="top", tickangle=-45, range=[-0.5, n - 0.5], **labels)
    figure.update_yaxes(range=[n - 0.5, -0.5], **labels)
    return figure


@dataclass(frozen=True)
class HeadOnTasks:
    """One head's standardised effect on each task, with its interval."""

    names: Sequence[str]
    value: Float[np.ndarray, " task"]
    low: Float[np.ndarray, " task"]
    high: Float[np.ndarray, " task"]
    note: Sequence[str]


def head_on_tasks(head: HeadOnTasks, *, unit: str) -> go.Figure:
    """Plot a row per task: the effect with whiskers, and a note (the head's rank) at the right edge."""
    n = len(head.names)
    figure = blank(height=56 + 25 * n, left=104, right=84, top=6, bottom=40)
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.add_trace(
        go.Scatter(
            x=head.value,
            y=list(range(n)),
            mode="markers",
            marker={"size": 10, "color": [HURTS if value >= 0 else HELPS for value in head.value]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": head.high - head.value,
                "arrayminus": head.value - head.low,
                "color": NEUTRAL,
                "thickness": 1.5,
                "width": 0,
            },
            text=[
                f"{name}: {value:+.2f} {unit} [{low:+.2f}, {high:+.2f}], {note}"
                for name, value, low, high, note in zip(
                    head.names, head.value, head.low, head.high, head.note, strict=True
                )
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    for place, note in enumerate(head.note):
        figure.add_annotation(
            x=1, xref="paper", xanchor="left", y=place, text=note, showarrow=False, font={"size": 11}, xshift=6
        )
    figure.update_yaxes(
        tickvals=list(range(n)), ticktext=list(head.names), range=[n - 0.5, -0.5], ticks="", tickfont={"size": 11}
    )
    figure.update_xaxes(title=f"effect, {unit}", showgrid=True, gridcolor=FAINT)
    return figure
