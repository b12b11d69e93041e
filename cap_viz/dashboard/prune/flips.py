"""Items on which dense and the pruned models differ, and one of them in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.measured_column import Column, title_of
from cap_viz.dashboard.components.panels import escaped, problem, stale
from cap_viz.dashboard.components.row_picker import row_picker
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import texts_missing
from cap_viz.dashboard.prune.setting import DENSE
from cap_viz.dashboard.stored import texts_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.flips import ALL, APART, Flip, flips_by_filter, flips_of
from cap_viz.tasks import Example

HEADING, ANCHOR = "Questions whose answer changes", "questions-whose-answer-changes"
Columns = Sequence[Column[EvalReport]]


@st.fragment
def flips_section(view: Frame, columns: Columns) -> None:
    """Draw the table of items with changed answers, and the picked one in full."""
    st.markdown(f"##### {HEADING}", help="✓ right, ✗ wrong: the option each model finds most likely.")
    ready = [column for column in columns if column.report is not None and not column.partial]
    if len(ready) < 2:
        st.caption("Appears when dense and a pruned model are measured.")
        return
    try:
        flips = flips_of({column.name: column.report for column in ready if column.report is not None})
    except CapVizError as error:
        problem(str(error))
        return
    filters = flips_by_filter(flips, [column.name for column in ready], DENSE)
    chosen = view.selection.segmented(
        "Filter",
        "flips",
        list(filters),
        names=lambda name: f"{filter_title(name)} ({len(filters[name])})",
        what="a filter of questions",
        label_visibility="collapsed",
        wrap=True,
    )
    shown = filters[chosen]
    if said := "; ".join(f"{column.title}: {column.stale}" for column in ready if column.stale):
        stale(said)
    if not shown:
        st.caption("No question answers this description.")
        return
    texts = texts_of(view.task.name, tuple(flip.id for flip in shown)) or {}
    if not texts:
        st.caption(texts_missing(view.task))
    table = flip_table(shown, ready, texts)
    names = {flip.id: f"{flip.number}. {texts[flip.id].question if texts else flip.id}"[:120] for flip in shown}
    picked = row_picker(
        view.selection,
        "item",
        table,
        names,
        "Question in full",
        height=min(420, 38 + 35 * len(table)),
        column_config={
            "Item": st.column_config.NumberColumn(width=52),
            "Question": st.column_config.TextColumn(width=240),
            **{name: st.column_config.TextColumn(width=150) for name in table.columns[2:-1]},
        },
    )
    if picked in texts:
        item_detail(texts[picked], ready)


def filter_title(name: str) -> str:
    kind, _, criterion = name.partition("_")
    titles = {ALL: "All that differ", APART: "Only one of the two right"}
    return titles.get(kind) or f"{title_of(criterion)}: {'right → wrong' if kind == 'lost' else 'wrong → right'}"


def flip_table(flips: Sequence[Flip], columns: Columns, texts: Mapping[str, Example]) -> pd.DataFrame:
    """One row per item; answers carry a check mark when right and a cross when wrong."""
    rows = []
    for flip in flips:
        example = texts.get(flip.id)
        question = {} if example is None else {"Question": example.question}
        answers = {
            column.title: f"{'✓' if flip.right(column.name) else '✗'} {option_text(example, flip.chosen[column.name])}"
            for column in columns
        }
        right = option_text(example, flip.gold)
        rows.append({"Item": flip.number, **question, "Right answer": right, **answers, "Id": flip.id})
    return pd.DataFrame(rows)


def option_text(example: Example | None, option: int) -> str:
    letter = chr(ord("A") + option)
    return letter if example is None else f"{letter}. {example.options[option].strip()}"


def item_detail(example: Example, columns: Columns) -> None:
    """Draw the prompt as the models got it, and a table with a row per option."""
    st.code(example.prompt, language=None, wrap_lines=True)
    table, titles = option_table(example, columns), [column.title for column in columns]
    numbers = {title: st.column_config.NumberColumn(format="%.2f") for title in titles}
    option = st.column_config.TextColumn(width=260)
    st.dataframe(table, hide_index=True, column_config={"Option": option, **numbers})
    said = "; ".join(f"{title} chose {table['Option'][table[title].idxmax()]}" for title in titles)
    st.caption(f"Log-likelihoods in nats; the highest of a column is that model's answer (acc). {escaped(said)}.")


def option_table(example: Example, columns: Columns) -> pd.DataFrame:
    """One row per option, with the log-likelihood of every column, in nats."""
    n = len(example.options)
    return pd.DataFrame(
        {
            "Right": np.where(np.arange(n) == example.gold, "✓", ""),
            "Option": [option.strip() for option in example.options],
            **{
                column.title: column.report.logliks[column.report.questions.ids.index(example.id), :n].astype(float)
                for column in columns
                if column.report is not None
            },
        }
    )
