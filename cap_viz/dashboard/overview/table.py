"""The tasks other than the chosen one as a table: accuracy, reliability and a small map in each row."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st

from cap_viz.dashboard.components.panels import percent, percent_interval
from cap_viz.dashboard.names import METRIC_UNITS
from cap_viz.dashboard.overview.data import METRIC, TaskSummary
from cap_viz.dashboard.selection import go_button
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.thumbnail import thumbnail
from cap_viz.runs.run_labels import ablation_words

NAME_WIDTH = 168
# One row: cells of fixed width in a line, below each other where the screen is narrow.
STYLE = """<style>
.cv-row { display: flex; flex-wrap: wrap; gap: 2px 16px; align-items: center; font-size: 0.93rem; }
.cv-row span { flex: 0 0 auto; min-width: 148px; } .cv-row .wide { min-width: 206px; }
.cv-row img { background: rgba(128, 134, 148, 0.05); }
</style>"""


def task_table(summaries: Sequence[TaskSummary], limit: float) -> None:
    helps, hurts = ablation_words(*(one.score_run.spec for one in summaries if one.score_run is not None)).ends
    st.markdown("#### Other tasks", help=GLOSSARY["reliability"])
    st.caption(
        f"Maps as above, all on one scale of ± {limit:.2g} {METRIC_UNITS[METRIC]}: teal {hurts}, brown {helps}; "
        "layers from top to bottom."
    )
    st.html(STYLE)
    for summary in summaries:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            with st.container(width=NAME_WIDTH):
                task_link(summary)
            st.html(row_html(summary, limit), width="stretch")


def task_link(summary: TaskSummary) -> None:
    """Link to Heads, at the task's first head; where none were scored, to the offer to score them."""
    params: dict[str, object] = {"task": summary.task.name}
    if summary.heads is not None:
        layer, head = summary.heads.estimate.top_head
        params |= {"layer": layer, "head": head}
    go_button(summary.task.title, "pages/heads.py", key=f"overview_heads_{summary.task.name}", params=params)


def row_html(summary: TaskSummary, limit: float) -> str:
    cells = [f'<span class="wide">{level(summary)}</span>', f"<span>{chance(summary)}</span>"]
    if summary.heads is None:
        return f'<div class="cv-row">{"".join(cells)}<span>no head scores yet</span></div>'
    image = thumbnail(summary.heads.estimate, limit, escape(f"Head map of {summary.task.title}", quote=True))
    return f'<div class="cv-row">{"".join(cells)}<span>{reliability(summary)}</span>{image}</div>'


def level(summary: TaskSummary) -> str:
    """Return the dense model's accuracy, or its loss where the task is a text, with its interval."""
    if summary.loss is not None:
        mean, low, high = (float(value) for value in (summary.loss.mean, summary.loss.low, summary.loss.high))
        return f"Loss <b>{mean:.2f}</b> ({low:.2f} – {high:.2f})"
    test = summary.dense
    if test is None:
        return "not evaluated yet"
    return f"<b>{percent(test.accuracy)}</b> ({percent_interval(test.ci)})"


def chance(summary: TaskSummary) -> str:
    test = summary.dense
    if test is None:
        return "nats per token" if summary.loss is not None else ""
    return f"{'above' if test.clearly_above else '<b>not clearly above</b>'} guessing ({percent(test.chance)})"


def reliability(summary: TaskSummary) -> str:
    assert summary.heads is not None
    found, n = summary.heads.reliability, summary.heads.estimate.n
    return f"reliability {'unknown' if found is None else f'{found.full:.2f}'}, n = {n}"
