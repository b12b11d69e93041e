"""Figures that results draw of themselves: effects of heads or blocks, accuracies, differences, zeros per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from cap_viz.figures.accuracy import Marks, horizontal, whisker_marks
from cap_viz.figures.head_grid import Grid, head_grid
from cap_viz.figures.theme import FAINT, HELPS, HURTS, NEUTRAL, blank, signed, with_interval
from cap_viz.stats import HeadEstimate

ENDS = ("ablating it helps", "ablating it hurts")
CHANGE_ENDS = ("needed less than before", "needed more than before")


def effect_map(
    estimate: HeadEstimate,
    *,
    unit: str,
    parts: Sequence[str] | None = None,
    ends: tuple[str, str] = ENDS,
    also: Mapping[str, Float[np.ndarray, "layer part"]] | None = None,
) -> go.Figure:
    """Plot the effects as the head map of the pages; `parts` names the columns where they are not heads.

    `ends` names the meanings of the negative and the positive end, `also` further values of each head by their title.
    """
    n_layers, n_columns = estimate.mean.shape

    def hover(layer: int, column: int) -> str:
        what = f"head {column}" if parts is None else parts[column]
        said = with_interval(
            *(values[layer, column] for values in (estimate.mean, estimate.low, estimate.high)), unit=unit
        )
        more = "".join(f"<br>{title} {signed(values[layer, column])}" for title, values in (also or {}).items())
        return f"<b>Layer {layer}, {what}</b><br>{said}{more}"

    texts = [[hover(layer, column) for column in range(n_columns)] for layer in range(n_layers)]
    figure = head_grid(Grid.of(estimate, hover=texts, ends=ends), unit=unit)
    if parts is not None:
        figure.update_xaxes(title="", tickvals=list(range(n_columns)), ticktext=list(parts))
    return figure


def total_against_direct(
    total: HeadEstimate, direct: HeadEstimate, repaired: Float[np.ndarray, "layer head"], *, unit: str
) -> go.Figure:
    """Plot total against direct effects, a point per head and filled where later layers surely make up for a part.

    On the diagonal everything is direct; above it later layers add to the effect, below they take from it.
    """
    figure = blank(height=360, left=56, right=20, top=10, bottom=44)
    layers, heads = (axis.ravel() for axis in np.indices(total.mean.shape))
    values = zip(layers, heads, direct.mean.ravel(), total.mean.ravel(), repaired.ravel(), strict=True)
    figure.add_trace(
        go.Scatter(
            x=direct.mean.ravel(),
            y=total.mean.ravel(),
            mode="markers",
            marker={"color": HURTS, "size": 8, "symbol": np.where(repaired.ravel() > 0, "circle", "circle-open")},
            text=[
                f"<b>Layer {layer}, head {head}</b><br>direct {signed(own)}, total {signed(whole)} {unit}"
                + (f"<br>later layers make up for {made_up:.3g}" if made_up > 0 else "")
                for layer, head, own, whole, made_up in values
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    both = np.stack([total.mean, direct.mean])
    low, high = float(both.min()), float(both.max())
    figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    figure.update_xaxes(title=f"direct effect ({unit})", showgrid=True, gridcolor=FAINT, nticks=6)
    figure.update_yaxes(title=f"total effect ({unit})", showgrid=True, gridcolor=FAINT, nticks=6)
    return figure


@dataclass(frozen=True)
class NamedLevel:
    """A share with its interval, under a name."""

    name: str
    value: float
    low: float
    high: float


def share_levels(levels: Sequence[NamedLevel], *, guessing: float | None = None) -> go.Figure:
    """Plot shares in percent with their 95 % whiskers, side by side, over the level of guessing where there is one."""
    figure = blank(height=300, left=46, right=60, top=10, bottom=40)
    marks = Marks(
        criterion="",
        title="",
        x=list(range(len(levels))),
        value=[100 * level.value for level in levels],
        low=[100 * level.low for level in levels],
        high=[100 * level.high for level in levels],
        hover=[f"{one.name}: {one.value:.1%} [{one.low:.1%}, {one.high:.1%}]" for one in levels],
    )
    figure.add_trace(whisker_marks(marks))
    if guessing is not None:
        horizontal(figure, 100 * guessing, "dot", "guessing")
    names = [level.name for level in levels]
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=names, range=[-0.5, len(names) - 0.5], ticks="")
    shown = [end for one in levels for end in (one.low, one.high)] + ([] if guessing is None else [guessing])
    room = [100 * min(shown) - 3, 100 * max(shown) + 2]
    figure.update_yaxes(ticksuffix=" %", showgrid=True, gridcolor=FAINT, nticks=6, range=room)
    return figure


def loss_strip(losses: Float[np.ndarray, " example"], ids: Sequence[str], *, unit: str) -> go.Figure:
    """Plot the loss of every text as a bar, in their order."""
    figure = blank(height=260, left=46, top=10, bottom=40)
    figure.add_trace(
        go.Bar(
            x=np.arange(len(losses)),
            y=losses,
            marker={"color": NEUTRAL},
            text=[f"{name}: {loss:.3f} {unit}" for name, loss in zip(ids, losses.tolist(), strict=True)],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.update_xaxes(title="text", ticks="")
    figure.update_yaxes(title=f"loss, {unit}", showgrid=True, gridcolor=FAINT)
    return figure


def difference_bar(difference: float, low: float, high: float, *, title: str, hover: str, good: str) -> go.Figure:
    """Plot a paired difference with its interval beside zero; `good` names the better side, "higher" or "lower"."""
    figure = blank(height=130, left=20, top=10, bottom=44)
    better = (difference > 0) == (good == "higher")
    colour = NEUTRAL if low <= 0 <= high else HURTS if better else HELPS
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    figure.add_trace(
        go.Scatter(
            x=[difference],
            y=[0],
            mode="markers",
            marker={"size": 11, "color": colour},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - difference],
                "arrayminus": [difference - low],
                "color": colour,
                "thickness": 1.5,
                "width": 4,
            },
            text=[hover],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.update_yaxes(visible=False, range=[-1, 1])
    figure.update_xaxes(title=title, showgrid=True, gridcolor=FAINT)
    return figure
