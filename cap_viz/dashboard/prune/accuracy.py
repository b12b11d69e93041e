"""What pruning costs in accuracy: dense and two criteria side by side, and their paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from cap_viz.attribution.results import EvalReport
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
from cap_viz.dashboard.components.panels import caution, escaped, listed, percent
from cap_viz.dashboard.components.verdict import verdict_line, verdict_of
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.flips import ANCHOR
from cap_viz.dashboard.prune.setting import DENSE, PruneSetting, eval_spec, measured_percents
from cap_viz.dashboard.prune.zeros import weights_words
from cap_viz.dashboard.selection import LANDING, choose
from cap_viz.dashboard.stored import report_of
from cap_viz.evaluation.eval_metrics import ACC, ACC_NORM, CHOICE_LOSS, against_guessing, level_of, per_question
from cap_viz.evaluation.flips import APART
from cap_viz.figures.prune import AccuracyRow, accuracy_whiskers
from cap_viz.figures.theme import CONFIG
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import EvalSpec
from cap_viz.stats import Interval
from cap_viz.tasks import Task

LAST = "prune_last"
HELP = (
    "Accuracy (acc) on evaluation items that took no part in choosing weights: the option with the highest "
    "log-likelihood is right. Intervals are 95 % (Wilson)."
)


def first_items(report: EvalReport, n: int) -> EvalReport:
    return EvalReport(report.questions.take(range(n)), report.logliks[:n])


CHOICES = ReportKind(EvalReport, report_of, (ACC, CHOICE_LOSS), per_question, first_items)
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
    kept, n = [f"{at} %" for at in measured_percents(view.runs, setting)], len(setting.evaluation.ids)
    stored, label = f"Stored: {listed(kept)}. " if kept else "", f"Measure at {percent(setting.sparsity, 0)}"
    offer = Offer("prune", label, "Accuracy", f"{n} questions", stored=stored)
    draw_columns(view, columns, accuracy_tile, "Accuracy (acc)", offer, partial(weights_of, view))
    if not any(column.report is not None for column in columns):
        return
    figure, words = st.columns([5, 4], gap="medium")
    rows = [accuracy_row(column) for column in columns]
    with figure:
        st.plotly_chart(
            accuracy_whiskers(rows, chance_of(view.task, columns)),
            config=CONFIG,
            key="prune_accuracy_figure",
            alt="; ".join(row.hover or f"{row.title} not measured" for row in rows),
        )
    with words:
        verdict(view, differences(CHOICES, columns))
    below_chance(view.task, columns)


def weights_of(view: Frame, column: Column[EvalReport]) -> str:
    """Say what share of the weights a column lacks where its criterion counts heads."""
    spec = column.shown or column.wanted
    return "" if spec is None or spec.mask is None else weights_words(view, spec.mask)


def accuracy_tile(report: EvalReport) -> Tile:
    acc, norm, n = level_of(report, ACC), level_of(report, ACC_NORM), len(report)
    return Tile(
        percent(acc.value),
        f"{limits(acc.ci)}, {round(acc.value * n)} of {n}",
        f"{HELP} By log-likelihood per character, as in lm-evaluation-harness (acc_norm): {percent(norm.value)} "
        f"({limits(norm.ci)}).",
    )


def limits(ci: Interval) -> str:
    return f"{100 * ci.low:.1f}–{percent(ci.high)}"


def accuracy_row(column: Column[EvalReport]) -> AccuracyRow:
    if column.report is None:
        return AccuracyRow(column.name, column.title, None)
    acc, n = level_of(column.report, ACC), len(column.report)
    state = "interim" if column.partial else "stale" if column.stale else ""
    so_far = ", so far" if column.partial else f" ({column.stale})" if column.stale else ""
    right = f"{round(acc.value * n)} of {n} right, {percent(acc.value)}, interval {limits(acc.ci)}{so_far}"
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
                # The questions are drawn outside this fragment.
                st.rerun()
    if not any(one.results for one in found):
        return
    with st.expander("All differences, with tests"):
        st.table(difference_table(found, CHOICES.measures), border="horizontal", hide_index=True)
        st.caption(
            f"{unseen_words(found, ACC)} p is McNemar's, exact. Lost: right → wrong; gained: wrong → right. Choice "
            "loss: surprise at the right option among those offered; lower is better."
        )


def see_flips(two_criteria: bool) -> None:
    choose({"flips": APART if two_criteria else None, "item": None})
    st.session_state[LANDING] = ANCHOR


def below_chance(task: Task, columns: Columns) -> None:
    """Warn about columns not clearly above chance: such an accuracy says nothing about pruning."""
    for column in columns:
        if column.report is None or column.partial:
            continue
        test = against_guessing(task, column.report)
        if not test.clearly_above:
            dense = column.name == DENSE
            caution(
                f"{'The dense model' if dense else escaped(column.title)} is not clearly above chance here "
                f"({percent(test.accuracy)} against {percent(test.chance)}, p = {test.p_value:.2g}): "
                f"{'differences on this task mean little' if dense else 'what is left may be guessing'}."
            )
