"""What pruning costs in accuracy: dense and two criteria side by side, their differences, and which answers change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.job_card import while_active
from cap_viz.dashboard.components.measured_column import (
    Column,
    Offer,
    ReportKind,
    Tile,
    column_of,
    draw_columns,
    named,
    title_of,
)
from cap_viz.dashboard.components.paired import (
    ColumnDifference,
    difference_table,
    differences,
    unseen_words,
    verdict_lines,
)
from cap_viz.dashboard.components.panels import caution, escaped, listed, percent, problem, stale
from cap_viz.dashboard.components.row_picker import row_picker
from cap_viz.dashboard.components.verdict import verdict_line, verdict_of
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import texts_missing
from cap_viz.dashboard.prune.setting import DENSE, PruneSetting, eval_spec
from cap_viz.dashboard.prune.zeros import weights_words
from cap_viz.dashboard.selection import LANDING, choose
from cap_viz.dashboard.stored import report_of, texts_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, ACC_NORM, CHOICE_LOSS, against_guessing, level_of
from cap_viz.evaluation.flips import ALL, APART, Flip, flips_by_filter, flips_of
from cap_viz.figures.prune import AccuracyRow, accuracy_whiskers
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import EvalSpec
from cap_viz.tasks import Example, Task

LAST = "prune_last"
# Of a question in a table or list.
MOST_CHARACTERS = 80
HEADING, ANCHOR = "Questions whose answer changes", "questions-whose-answer-changes"


CHOICES = ReportKind(EvalReport, report_of, (ACC, CHOICE_LOSS), EvalReport.first)
Columns = list[Column[EvalReport]]


def current_columns(view: Frame, setting: PruneSetting) -> Columns:
    """Return the columns as they stand now; remember fresh ones, to show them as stale once the controls change."""
    last: dict[str, EvalSpec] = st.session_state.setdefault(LAST, {})
    columns = [
        column_of(CHOICES, view.store, shared_queue(), name, partial(eval_spec, setting, name), last.get(name))
        for name in setting.columns
    ]
    last |= {column.name: column.wanted for column in columns if column.fresh and column.wanted is not None}
    return columns


def accuracy_section(view: Frame, setting: PruneSetting, columns: Columns) -> None:
    """Draw stored and arriving accuracies, with updates while jobs run."""
    wanted = [column.wanted for column in columns if column.wanted is not None]
    while_active(wanted, lambda: draw_accuracy(view, setting, current_columns(view, setting)))


def draw_accuracy(view: Frame, setting: PruneSetting, columns: Columns) -> None:
    n, label = len(setting.evaluation.ids), f"Measure at {percent(setting.sparsity, 0)}"
    offer = Offer("prune_measure", label, f"{n} questions")
    draw_columns(view, columns, accuracy_tile, "Accuracy (acc)", offer, partial(weights_words, view))
    if not any(column.report is not None for column in columns):
        return
    figure, words = st.columns([5, 4], gap="medium")
    rows = [accuracy_row(column) for column in columns]
    with figure:
        chart(
            partial(accuracy_whiskers, rows, chance_of(view.task, columns)),
            key="prune_accuracy_figure",
            alt="; ".join(row.hover or f"{row.title} not measured" for row in rows),
        )
    with words:
        verdict(view, differences(CHOICES, columns))
    below_chance(view.task, columns)


def accuracy_tile(report: EvalReport) -> Tile:
    acc, norm, n = level_of(report, ACC), level_of(report, ACC_NORM), len(report)
    return Tile(
        percent(acc.value),
        f"{ACC.interval_words(acc.ci)}, {round(acc.value * n)} of {n}",
        f"{ACC.title} (acc): {ACC.summary}; 95 % interval (Wilson). {ACC_NORM.title} (acc_norm): "
        f"{percent(norm.value)} ({ACC.interval_words(norm.ci)}), {ACC_NORM.summary}.",
    )


def accuracy_row(column: Column[EvalReport]) -> AccuracyRow:
    if column.report is None:
        return AccuracyRow(column.name, column.title, None)
    acc, n = level_of(column.report, ACC), len(column.report)
    state = "interim" if column.partial else "stale" if column.stale else ""
    so_far = ", so far" if column.partial else f" ({column.stale})" if column.stale else ""
    right = f"{round(acc.value * n)} of {n} right, {percent(acc.value)}, interval {ACC.interval_words(acc.ci)}{so_far}"
    interval = (acc.value, acc.ci.low, acc.ci.high)
    return AccuracyRow(column.name, column.title, interval, f"{column.title}: {right}", state)


def chance_of(task: Task, columns: Columns) -> float | None:
    """Accuracy of guessing on the largest report, since reports that are arriving may hold few answers."""
    reports = [column.report for column in columns if column.report is not None]
    return against_guessing(task, max(reports, key=len)).chance if reports else None


def verdict(view: Frame, found: Sequence[ColumnDifference]) -> None:
    """Draw the answer to the fixed question, then what the first of the differences says; all of them on demand."""
    if (answer := verdict_of(view)) is not None:
        verdict_line(answer)
    first = found[0]
    st.markdown(f"{named(first.first)} − {named(first.second)}")
    st.markdown("  \n".join(verdict_lines(first, CHOICES.measures)))
    if first.main is not None and not first.provisional:
        only = f"{first.main.only_b} questions only {title_of(first.second)} gets, {first.main.only_a} only "
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.caption(f"{only}{title_of(first.first)}.", width="content")
            if st.button("See them", key="prune_see_flips", on_click=see_flips, args=(len(found) > 1,)):
                st.rerun()  # The questions are drawn outside this fragment.
    if not any(one.results for one in found):
        return
    with st.expander("All differences, with tests"):
        st.table(difference_table(found, CHOICES.measures), border="horizontal", hide_index=True)
        tests = "p is McNemar's, exact. Lost: right → wrong; gained: wrong → right."
        st.caption(f"{unseen_words(found, ACC)} {tests} Choice loss: lower is better.")


def see_flips(two_criteria: bool) -> None:
    choose({"flips": APART if two_criteria else None, "item": None})
    st.session_state[LANDING] = ANCHOR


def below_chance(task: Task, columns: Columns) -> None:
    """Warn about columns not clearly above chance: such an accuracy says nothing about pruning."""
    final = [column for column in columns if not column.partial]
    tests = {one.title: against_guessing(task, one.report) for one in final if one.report is not None}
    low = [
        f"{title} ({percent(one.accuracy)}, p = {one.p_value:.2g})"
        for title, one in tests.items()
        if not one.clearly_above
    ]
    if low:
        chance = percent(next(iter(tests.values())).chance)
        caution(
            f"Not clearly above chance ({chance}): {listed(low)}. These may be guesses, and differences mean little."
        )


# Questions whose answer changes ----------------------------------------------------------------------------------


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
    names = {name: f"{filter_title(name)} ({len(found)})" for name, found in filters.items()}
    chosen = view.selection.segmented("Filter", "flips", names, label_visibility="collapsed", wrap=True)
    shown = filters[chosen]
    if said := "; ".join(f"{column.title}: {column.stale}" for column in ready if column.stale):
        stale(said)
    if not shown:
        st.caption("No question passes this filter.")
        return
    texts = texts_of(view.task.name, tuple(flip.id for flip in shown)) or {}
    if not texts:
        st.caption(texts_missing(view.task))
    table = flip_table(shown, ready, texts)
    names = {flip.id: f"{flip.number}. {beginning(texts[flip.id].question) if texts else flip.id}" for flip in shown}
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
        question = {} if example is None else {"Question": beginning(example.question)}
        answers = {
            column.title: f"{'✓' if flip.right(column.name) else '✗'} {option_text(example, flip.chosen[column.name])}"
            for column in columns
        }
        right = option_text(example, flip.gold)
        rows.append({"Item": flip.number, **question, "Right answer": right, **answers, "Id": flip.id})
    return pd.DataFrame(rows)


def beginning(text: str) -> str:
    """Cut a text for tables and lists of hundreds of rows, all of which are sent; the picked one is shown in full."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


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
