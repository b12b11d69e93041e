"""Tables of the Overview: pruned accuracies of one task, and all other tasks with a small map in each row."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st

from cap_viz.dashboard.components.panels import percent, percent_interval
from cap_viz.dashboard.overview.data import PrunedCell, PruningTable, TaskSummary
from cap_viz.dashboard.selection import go_button
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.theme import criterion_colour, criterion_glyph
from cap_viz.figures.thumbnail import thumbnail
from cap_viz.pruning import criterion_title
from cap_viz.runs.run_labels import ablation_words

NAME_WIDTH = 150
# Cells of a row are of fixed width in a line, below each other where the screen is narrow.
STYLE = """<style>
.cv-costs { border-collapse: collapse; width: 100%; font-size: 0.93rem; font-variant-numeric: tabular-nums; }
.cv-costs th, .cv-costs td { padding: 5px 2px; text-align: right; white-space: nowrap; font-weight: 400; }
.cv-costs tr { border-bottom: 1px solid rgba(128, 134, 148, 0.28); } .cv-costs th:first-child { text-align: left; }
.cv-row { display: flex; flex-wrap: wrap; gap: 2px 16px; align-items: center; font-size: 0.93rem; }
.cv-row span { flex: 0 0 215px; } .cv-row span:nth-child(3) { flex-basis: 150px; }
.cv-row img { background: rgba(128, 134, 148, 0.05); }
</style>"""


def pruning_html(costs: PruningTable, dense: float) -> str:
    heads = "".join(f"<th>{percent(sparsity, 0)}</th>" for sparsity in costs.sparsities)
    rows = [
        f'<tr><th><span style="color:{criterion_colour(name)}">{criterion_glyph(name)}</span> '
        f"{escape(criterion_title(name))}</th>{''.join(map(cell_html, cells))}</tr>"
        for name, cells in costs.rows.items()
    ]
    same = f"<td>{100 * dense:.1f}</td>" * len(costs.sparsities)
    return (
        f'{STYLE}<table class="cv-costs"><tr><th>zeros</th>{heads}</tr>{"".join(rows)}<tr><th>Dense</th>{same}</tr>'
        "</table>"
    )


def cell_html(cell: PrunedCell | None) -> str:
    value = "–" if cell is None else f"{100 * cell.accuracy:.1f}"
    return f"<td>{f'<b>{value}</b>' if cell is not None and cell.best else value}</td>"


def task_table(summaries: Sequence[TaskSummary]) -> None:
    helps, hurts = ablation_words(*(one.score_run.spec for one in summaries if one.score_run is not None)).ends
    st.markdown("#### Other tasks", help=GLOSSARY["reliability"])
    st.caption(f"Maps as above, each on a scale of its own; teal: {hurts}, brown: {helps}. Tasks compares them.")
    for summary in summaries:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            with st.container(width=NAME_WIDTH):
                task_link(summary)
            st.html(row_html(summary), width="stretch")


def task_link(summary: TaskSummary) -> None:
    """Link to Heads, at the task's first head; where none were scored, to the offer to score them."""
    params: dict[str, object] = {"task": summary.task.name}
    if summary.heads is not None:
        layer, head = summary.heads.estimate.top_head
        params |= {"layer": layer, "head": head}
    go_button(
        summary.task.title,
        "pages/heads.py",
        key=f"overview_heads_{summary.task.name}",
        params=params,
        icon=":material/grid_on:",
    )


def row_html(summary: TaskSummary) -> str:
    cells = [f"<span>{level(summary)}</span>", f"<span>{chance(summary)}</span>"]
    if summary.heads is None:
        return f'<div class="cv-row">{"".join(cells)}<span>no head scores yet</span></div>'
    image = thumbnail(summary.heads.estimate.mean, summary.heads.estimate.unclear, f"Head map of {summary.task.title}")
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
