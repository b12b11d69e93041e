"""Tables of the Overview: pruned accuracies of one task, and all other tasks with a small map in each row."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.measured_column import swatch, title_of
from cap_viz.dashboard.components.panels import percent, percent_interval
from cap_viz.dashboard.overview.data import PrunedCell, PruningTable, TaskSummary
from cap_viz.dashboard.selection import go_button
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.prune import DENSE
from cap_viz.figures.thumbnail import thumbnail
from cap_viz.pruning import criterion_title
from cap_viz.runs.run_labels import ablation_words
from cap_viz.settings import ASSETS

NAME_WIDTH = 150


def costs_table(costs: PruningTable, dense: float) -> pd.DataFrame:
    """Table of accuracies in percent, a row per criterion and one for dense; cells are Markdown, the best one bold."""
    rows = {
        f"{swatch(name)} {criterion_title(name)}": [cost_cell(cell) for cell in cells]
        for name, cells in costs.rows.items()
    }
    rows[f"{swatch(DENSE)} {title_of(DENSE)}"] = [f"{100 * dense:.1f}"] * len(costs.sparsities)
    return pd.DataFrame.from_dict(rows, orient="index", columns=[percent(one, 0) for one in costs.sparsities])


def cost_cell(cell: PrunedCell | None) -> str:
    value = "–" if cell is None else f"{100 * cell.accuracy:.1f}"
    return f"**{value}**" if cell is not None and cell.best else value


def task_table(summaries: Sequence[TaskSummary]) -> None:
    helps, hurts = ablation_words(*(one.score_run.spec for one in summaries if one.score_run is not None)).ends
    st.html(ASSETS / "overview.css")
    st.markdown("#### Other tasks", help=GLOSSARY["reliability"])
    st.caption(f"Maps as above, each on a scale of its own; teal: {hurts}, brown: {helps}. Tasks compares them.")
    for summary in summaries:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            with st.container(width=NAME_WIDTH):
                name, heads = summary.task.name, summary.heads
                layer, head = (None, None) if heads is None else heads.estimate.top_head
                params = {"task": name, "layer": layer, "head": head}
                icon, key = ":material/grid_on:", f"overview_heads_{name}"
                go_button(summary.task.title, "pages/heads.py", key=key, params=params, icon=icon)
            st.html(row_html(summary), width="stretch")


def row_html(summary: TaskSummary) -> str:
    """Write accuracy (of a text the loss), how it stands to guessing, reliability and map of a task."""
    test, loss, heads = summary.dense, summary.loss, summary.heads
    level, against, reliability, image = "not evaluated yet", "", "no head scores yet", ""
    if loss is not None:
        level, against = f"Loss <b>{loss.mean:.2f}</b> ({loss.low:.2f} – {loss.high:.2f})", "nats per token"
    elif test is not None:
        level = f"<b>{percent(test.accuracy)}</b> ({percent_interval(test.ci)})"
        above = "above" if test.clearly_above else "<b>not clearly above</b>"
        against = f"{above} guessing ({percent(test.chance)})"
    if heads is not None:
        known = "unknown" if heads.reliability is None else f"{heads.reliability.full:.2f}"
        reliability = f"reliability {known}, n = {heads.estimate.n}"
        image = thumbnail(heads.estimate.mean, heads.estimate.unclear, f"Head map of {summary.task.title}")
    cells = "".join(f"<span>{cell}</span>" for cell in (level, against, reliability))
    return f'<div class="cv-row">{cells}{image}</div>'
