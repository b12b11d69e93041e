"""The accuracy section of the Prune page: dense and criteria side by side, stored or arriving."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.job_card import ended_view, job_view, ticking
from cap_viz.dashboard.components.panels import caution, cut_words, escaped, listed, note, p_words, percent, problem
from cap_viz.dashboard.components.submission import submit_run
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.prune.accuracy import Column, Difference, column_of, cost_of, differences, share_of
from cap_viz.dashboard.prune.figures import (
    accuracy_whiskers,
)
from cap_viz.dashboard.prune.setting import DENSE, PruneSetting, measured_percents, title_of
from cap_viz.dashboard.prune.words import heads_words, limits, named, origin_badge, pruned_words, so_far_badge, swatch
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import against_guessing
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.progress import duration
from cap_viz.runs.jobs import Job
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import EvalSpec
from cap_viz.stats import PairedComparison
from cap_viz.tasks import Task

LAST, REFUSED = "prune_last", "prune_refused"


def current_columns(view: Frame, setting: PruneSetting) -> list[Column]:
    """Return the columns as they stand now; remember fresh ones, to show them as stale once the controls change."""
    last: dict[str, EvalSpec] = st.session_state.setdefault(LAST, {})
    columns = [column_of(view.store, shared_queue(), setting, name, last.get(name)) for name in setting.columns]
    for column in columns:
        if column.fresh and column.wanted is not None:
            last[column.name] = column.wanted
    return columns


def accuracy_section(view: Frame, setting: PruneSetting, columns: Sequence[Column]) -> None:
    """Draw stored and arriving accuracies, with updates while jobs run."""
    active = [column.name for column in columns if column.active]
    ticking(lambda: draw_accuracy(view, setting, active), live=bool(active))


def draw_accuracy(view: Frame, setting: PruneSetting, active: Sequence[str]) -> None:
    columns = current_columns(view, setting)
    if [column.name for column in columns if column.active] != list(active):
        st.rerun()
    st.markdown(
        "##### What it costs",
        help="Accuracy (acc) on evaluation items that took no part in choosing weights: the option with the highest "
        "log-likelihood is right. acc_norm: the highest per character (length-normalised), as in "
        "lm-evaluation-harness. Intervals are 95 % (Wilson).",
    )
    for place, column in zip(st.columns(len(columns), gap="small"), columns, strict=True):
        with place, st.container(gap="xxsmall"):
            accuracy_tile(view, setting, column)
    measuring(view, setting, columns)
    if not any(column.report is not None for column in columns):
        return
    st.plotly_chart(
        accuracy_whiskers(columns, chance_of(view.task, columns)),
        config=CONFIG,
        key="prune_accuracy_figure",
        alt="; ".join(in_words(column) for column in columns),
    )
    found = differences(columns)
    if any(one.comparison is not None for one in found):
        st.table(difference_table(found), border="horizontal", hide_index=True)
        badge = ":orange-badge[stale] " if any(column.stale for column in columns) else ""
        st.caption(badge + reading(found))
    below_chance(view.task, columns)


def accuracy_tile(view: Frame, setting: PruneSetting, column: Column) -> None:
    st.markdown(f"{named(column.name)} {tile_badge(column)}")
    spec = column.shown or column.wanted
    if spec is not None and spec.mask is not None and (said := heads_words(view, spec.mask)):
        st.caption(said)
    if column.report is None:
        st.metric("Accuracy (acc)", "–", label_visibility="collapsed")
        st.caption(waiting_words(setting, column))
        return
    acc, norm = share_of(column.report.correct), share_of(column.report.correct_norm)
    st.metric("Accuracy (acc)", percent(acc.value), label_visibility="collapsed")
    st.caption(
        f"{limits(acc.ci.low, acc.ci.high)} · {acc.right} of {acc.n}  \n"
        f"acc_norm {percent(norm.value)}  \n{limits(norm.ci.low, norm.ci.high)}"
    )
    if column.stale:
        st.caption(f":orange[{escaped(column.stale)}]")
    if column.run is not None and (cut := cut_words(column.run)):
        st.caption(f":orange[{escaped(cut)}]")


def tile_badge(column: Column) -> str:
    if column.partial and column.report is not None and column.wanted is not None:
        return so_far_badge(len(column.report), column.wanted)
    if column.active:
        return (
            ":blue-badge[running]"
            if column.job is not None and column.job.state == "running"
            else ":gray-badge[queued]"
        )
    if column.stale:
        return ":orange-badge[stale]"
    if column.run is not None:
        return origin_badge(column.run)
    return ""


def waiting_words(setting: PruneSetting, column: Column) -> str:
    if column.problem:
        return escaped(column.problem)
    if column.active:
        return "No answers yet."
    where = "" if column.name == DENSE else f" at {percent(setting.sparsity, 0)}"
    return f"Not measured{where} on these {len(setting.evaluation.ids)} items."


def measuring(view: Frame, setting: PruneSetting, columns: Sequence[Column]) -> None:
    """Draw the jobs under way, and the button that measures the missing columns with its cost."""
    for column in columns:
        if column.job is not None and column.active:
            job_view(column.job, key="prune")
    ended_once([column.job for column in columns if column.job is not None and not column.fresh])
    if refused := st.session_state.pop(REFUSED, ""):
        problem(refused)
    if sentence := missing_words(view, setting, columns):
        note(sentence)
    missing = [column for column in columns if column.measurable]
    if not missing:
        return
    if not view.installed:
        note(view.install_hint)
        return
    button, words = st.columns([2, 5], vertical_alignment="center")
    with button:
        st.button(
            "Measure accuracy",
            type="primary",
            key="prune_measure",
            width="stretch",
            on_click=submit,
            args=([(column.wanted, job_title(setting, column)) for column in missing],),
        )
    words.caption(cost_sentence(view, missing))


def ended_once(jobs: Sequence[Job]) -> None:
    """Report the jobs that failed or were cancelled, those that failed for one reason together."""
    ended = [job for job in jobs if not job.active]
    for job in {job.error or job.title: job for job in ended}.values():
        ended_view(job)


def missing_words(view: Frame, setting: PruneSetting, columns: Sequence[Column]) -> str:
    """Name the data that measuring needs and this machine lacks, what is stored, and the way out; else empty."""
    lacking = [column for column in columns if column.missing]
    if not lacking:
        return ""
    names = {column.name for column in lacking}
    tasks = {task.name: task for column in lacking for task in column.missing}.values()
    stored = [f"{percent} %" for percent, found in measured_percents(view.runs, setting).items() if found & names]
    titles, texts = listed([column.title for column in lacking]), listed([task.title for task in tasks])
    kept = f" Stored: {listed(stored)}." if stored else ""
    folders = listed([f"{task.data_folder}/" for task in tasks])
    return (
        f"Not on this machine: {texts}, which measuring {titles} needs.{kept} To measure others, set CAP_VIZ_DATA to a "
        f"folder that holds {folders}."
    )


def job_title(setting: PruneSetting, column: Column) -> str:
    whose, items = pruned_words(column.name, setting.sparsity), setting.evaluation
    return f"Accuracy of {whose}, {len(items.ids)} items of {items.task}"


def submit(wanted: Sequence[tuple[EvalSpec, str]]) -> None:
    try:
        for spec, title in wanted:
            submit_run(spec, title)
    except CapVizError as error:
        st.session_state[REFUSED] = str(error)


def cost_sentence(view: Frame, missing: Sequence[Column]) -> str:
    cost = cost_of(view.runs, missing)
    names = ", ".join(column.title if column.name != DENSE else "the dense model" for column in missing)
    time = (
        "no stored run tells how long it takes"
        if cost.seconds is None
        else f"about {duration(cost.seconds)} by past runs"
    )
    return f"Measures {names}: {cost.items} questions in all, {time}. You can leave the page; it goes on."


def chance_of(task: Task, columns: Sequence[Column]) -> float | None:
    """Accuracy of guessing on the largest report, since reports that are arriving may hold few answers."""
    reports = [column.report for column in columns if column.report is not None]
    return against_guessing(task, max(reports, key=len)).chance if reports else None


def in_words(column: Column) -> str:
    if column.report is None:
        return f"{column.title} not measured"
    share = share_of(column.report.correct)
    return f"{column.title} {percent(share.value)} ({limits(share.ci.low, share.ci.high)})"


def difference_table(found: Sequence[Difference]) -> pd.DataFrame:
    """Table of paired differences, accuracy in percentage points; cells are Markdown."""
    return pd.DataFrame(
        {
            "Same items": [pair_words(one) for one in found],
            "Points": [points_words(one) for one in found],
            "McNemar p": [p_cell(one) for one in found],
            "Choice loss": [loss_words(one) for one in found],
            "Lost": ["" if one.comparison is None else str(one.comparison.only_b) for one in found],
            "Gained": ["" if one.comparison is None else str(one.comparison.only_a) for one in found],
        }
    )


def p_cell(one: Difference) -> str:
    """Format p, or `interim` while answers arrive: a p-value watched until it suits means nothing."""
    if one.comparison is None:
        return ""
    return "interim" if one.provisional else p_words(one.comparison.p_value)


def pair_words(one: Difference) -> str:
    return f"{swatch(one.first)} {title_of(one.first)} − {swatch(one.second)} {title_of(one.second)}"


def points_words(one: Difference) -> str:
    if one.comparison is None:
        return one.reason
    result = one.comparison
    so_far = f", {result.n} items" if one.provisional else ""
    interval = f"{signed(100 * result.ci.low, 1)} to {signed(100 * result.ci.high, 1)}"
    return f"**{signed(100 * result.difference, 1)}** ({interval}{so_far})"


def loss_words(one: Difference) -> str:
    """Format the paired difference of choice loss in nats; below zero is better."""
    if one.loss is None:
        return ""
    return f"{signed(one.loss.difference, 3)} ({signed(one.loss.ci.low, 3)} to {signed(one.loss.ci.high, 3)})"


def reading(found: Sequence[Difference]) -> str:
    """Say which differences are clear, and how small a difference could have been detected."""
    known = [one for one in found if one.comparison is not None]
    if not known:
        return ""
    if any(one.provisional for one in known):
        return "Answers are still arriving: these differences are interim and are tested when all are there."
    smallest = max(one.comparison.minimum_detectable for one in known if one.comparison is not None)
    items = min(one.comparison.n for one in known if one.comparison is not None)
    answers = evidence_words([(one, one.comparison) for one in known if one.comparison is not None])
    losses = evidence_words([(one, one.loss) for one in known if one.loss is not None])
    return (
        f"Right or wrong: {answers}. Choice loss: {losses}. "
        f"With {items} items, differences below about {100 * smallest:.0f} points usually go unseen "
        "(80 % power). Lost: right → wrong; gained: wrong → right. p is exact. Choice loss: surprise at the right "
        "option among those offered, in nats, with a bootstrap interval; lower is better."
    )


def evidence_words(found: Sequence[tuple[Difference, PairedComparison]]) -> str:
    """Name the clear differences, and as hints those where interval and test (p < 0.05) disagree."""
    said = []
    for words, agreeing in (("clear at p < 0.05", 2), ("a hint only", 1)):
        pairs = [
            f"{title_of(one.first)} − {title_of(one.second)}"
            for one, result in found
            if result.is_clear + result.excludes_zero == agreeing
        ]
        if pairs:
            said.append(f"{words}: {listed(pairs)}")
    return "; ".join(said) or "no difference stands out from noise"


def below_chance(task: Task, columns: Sequence[Column]) -> None:
    """Warn about columns not clearly above chance: such an accuracy says nothing about pruning."""
    for column in columns:
        if column.report is None or column.partial:
            continue
        test = against_guessing(task, column.report)
        if not test.clearly_above:
            whose = "The dense model" if column.name == DENSE else column.title
            caution(
                f"{whose} is not clearly above chance here ({percent(test.accuracy)} against {percent(test.chance)}, "
                f"p = {test.p_value:.2g}): "
                + ("differences on this task mean little." if column.name == DENSE else "what is left may be guessing.")
            )
