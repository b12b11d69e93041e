"""Figures of the Tasks page: agreement of every two tasks, and one head on every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from cap_viz.figures.head_grid import frame_cell
from cap_viz.figures.theme import FAINT, HELPS, HURTS, NEUTRAL, blank, with_interval

MATRIX_LOW = "rgba(97,100,240,0.04)"
MATRIX_HIGH = "rgba(97,100,240,0.5)"


@dataclass(frozen=True)
class AgreementMatrix:
    """Rank correlation of every two tasks and the most it could be; on the diagonals the reliability of each ranking.

    NaN: not known. `selected` is the pair that is framed.
    """

    names: Sequence[str]
    values: Float[np.ndarray, "task task"]
    ceilings: Float[np.ndarray, "task task"]
    selected: tuple[int, int]

    def says(self, row: int, column: int) -> str:
        value = correlation_words(self.values[row, column])
        if row == column:
            return f"{self.names[row]}: ranking reliability {value}"
        ceiling = correlation_words(self.ceilings[row, column])
        return f"{self.names[row]} and {self.names[column]}: {value}, noise ceiling {ceiling}"


def agreement_matrix(matrix: AgreementMatrix) -> go.Figure:
    """Plot tasks against tasks; a click on a cell reports the pair (x, y)."""
    n = len(matrix.names)
    figure = blank(height=84 + 36 * n, left=96, right=58, top=78, bottom=6)
    figure.add_trace(
        go.Heatmap(
            z=np.clip(matrix.values, 0, 1).astype(np.float32),
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
    invisible = {"marker": {"opacity": 0}}
    # Heatmaps report no clicks, and their texts would get a colour chosen for a white page.
    figure.add_trace(
        go.Scatter(
            x=columns.astype(np.int8),
            y=rows.astype(np.int8),
            mode="markers+text",
            marker={"symbol": "square", "size": 24, "opacity": 0, "color": NEUTRAL},
            text=[correlation_words(value) for value in matrix.values.ravel().tolist()],
            textfont={"size": 12},
            hovertext=[matrix.says(row, column) for row, column in zip(rows.tolist(), columns.tolist(), strict=True)],
            hovertemplate="%{hovertext}<extra></extra>",
            selected={**invisible, "textfont": {}},
            unselected={**invisible, "textfont": {}},
        )
    )
    first, second = matrix.selected
    frame_cell(figure, first, second)
    frame_cell(figure, second, first)
    labels = {"tickvals": list(range(n)), "ticktext": list(matrix.names), "ticks": "", "tickfont": {"size": 12}}
    figure.update_xaxes(side="top", tickangle=-45, range=[-0.5, n - 0.5], **labels)
    figure.update_yaxes(range=[n - 0.5, -0.5], **labels)
    return figure


def correlation_words(value: float) -> str:
    """Format a correlation without its leading zero, as papers print it."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.2f}".replace("0.", ".", 1).replace("-", "−")


@dataclass(frozen=True)
class HeadOnTasks:
    """One head's effect on each task, with its interval and a note."""

    names: Sequence[str]
    value: Float[np.ndarray, " task"]
    low: Float[np.ndarray, " task"]
    high: Float[np.ndarray, " task"]
    note: Sequence[str]
    unit: str

    @property
    def sentences(self) -> list[str]:
        """A sentence per task."""
        rows = zip(self.names, self.value, self.low, self.high, self.note, strict=True)
        return [
            f"{name}: {with_interval(value, low, high, unit=self.unit, digits=2)}, {note}"
            for name, value, low, high, note in rows
        ]


def head_on_tasks(head: HeadOnTasks) -> go.Figure:
    """Plot a row per task: the effect with whiskers, and a note (the head's rank) at the right edge."""
    n = len(head.names)
    figure = blank(height=56 + 24 * n, left=104, right=66, top=6, bottom=40)
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
            text=head.sentences,
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
    figure.update_xaxes(title=f"effect, {head.unit}", showgrid=True, gridcolor=FAINT)
    return figure
