"""An estimate of every head as a clickable grid and as ranked bars; shared by every view of the Heads page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from cap_viz.dashboard.components.head_map import selected_head, show_grid, take_click
from cap_viz.dashboard.heads.detail import interval_at
from cap_viz.dashboard.names import METRIC_UNITS, metric_name
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid
from cap_viz.figures.ranked_bars import ranked_bars
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.runs.run_labels import AblationWords
from cap_viz.stats import HeadEstimate
from cap_viz.tasks import Task

MOST_BARS = 60


@dataclass(frozen=True)
class HeadMap:
    """Estimate of a view with its labels.

    `ends`: meaning of the two ends of the colour scale, negative first. `limit`: end of the scale, by default that of
    the estimate. `ranks` is False if values are too coarse to rank.
    """

    estimate: HeadEstimate
    hover: Sequence[Sequence[str]]
    unit: str
    title: str
    ends: tuple[str, str]
    limit: float | None = None
    quantity: str = "effect"
    ranks: bool = True


def effect_map(
    estimate: HeadEstimate,
    words: AblationWords,
    task: Task,
    metric: str,
    *,
    limit: float | None = None,
    ranks: bool = True,
    estimator: str = "",
) -> HeadMap:
    """Label the effects of an ablation on a task or text."""
    unit = METRIC_UNITS[metric]

    def hover(layer: int, head: int) -> str:
        mean = float(estimate.mean[layer, head])
        meaning = "no clear effect" if estimate.unclear[layer, head] else words.ends[int(mean > 0)]
        rank = f"<br>rank {estimate.rank[layer, head]} of {estimate.rank.size}" if ranks else ""
        limits = interval_at(estimate, layer, head)
        return f"<b>Layer {layer}, head {head}</b>: {meaning}<br>{signed(mean)} {unit} {limits}{rank}"

    n_layers, n_heads = estimate.mean.shape
    title = f"Effect of {words.doing} each head{words.by} on {task.title}, {metric_name(task, metric)}"
    return HeadMap(
        estimate,
        hover=[[hover(layer, head) for head in range(n_heads)] for layer in range(n_layers)],
        unit=unit,
        title=f"{title}, {estimator}" if estimator else title,
        ends=words.ends,
        limit=limit,
        ranks=ranks,
    )


def draw_grid(shown: HeadMap, selected: tuple[int, int], more: Callable[[go.Figure], None] | None = None) -> None:
    """Draw the grid with its legend; `more` may add to the figure."""
    grid = Grid.of(shown.estimate, hover=shown.hover, ends=shown.ends, limit=shown.limit, selected=selected)
    show_grid(grid, shown.unit, shown.title, more)
    survives = shown.estimate.survives
    st.caption(
        f"● {int(survives.sum())} of {survives.size} heads survive the false-discovery control · ▲ △ beyond "
        "the colour scale · faded: the interval includes zero",
        help=GLOSSARY["fdr"],
    )


def draw_bars(shown: HeadMap) -> None:
    """Draw the heads of highest rank as bars with whiskers."""
    title, slider = st.columns([1, 1], vertical_alignment="center")
    title.markdown("#### Ranked heads", help=GLOSSARY["rank"])
    if not shown.ranks:
        st.caption("Choose another metric to rank heads: errors are too coarse for it.")
        return
    most = min(MOST_BARS, shown.estimate.mean.size)
    top = most if most <= 5 else slider.slider("Heads shown", 5, most, min(25, most), key="heads_top")
    st.plotly_chart(
        ranked_bars(shown.estimate, top=int(top), selected=selected_head(), unit=shown.unit, quantity=shown.quantity),
        key="heads_ranked",
        config=CONFIG,
        on_select=lambda: take_click("heads_ranked"),
        selection_mode="points",
        alt=f"{shown.title}: the largest, with 95 % confidence intervals",
    )
