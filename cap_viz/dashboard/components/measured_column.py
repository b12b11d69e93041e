"""Measured columns: evaluations of dense and pruned weights side by side, stored, arriving, stale, failed or missing.

Whatever is measured (choices, written answers, losses of texts) is found, compared, shown and started in the same way;
a `ReportKind` says how its reports are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.job_card import draw_offer
from cap_viz.dashboard.components.panels import cut_words, escaped, listed, note, origin_words
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import job_title, texts_missing
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import Measure
from cap_viz.evaluation.generation import GenerationReport
from cap_viz.figures.prune import DENSE, colour_of
from cap_viz.figures.theme import criterion_glyph
from cap_viz.progress import duration
from cap_viz.pruning import criterion_title
from cap_viz.runs.jobs import Job, JobSpec
from cap_viz.runs.prefix_reuse import expected_seconds, longer_run
from cap_viz.runs.queue import JobQueue
from cap_viz.runs.run_labels import change_words
from cap_viz.runs.run_queries import missing_tasks
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import DamagedRun, Store, StoredRun
from cap_viz.tasks import Task

TILE_PIXELS = 170
# Results of items, some or all of those asked for.
Report = TypeVar("Report", EvalReport, GenerationReport)


@dataclass(frozen=True)
class ReportKind(Generic[Report]):
    """How reports of class `kind` are read from the store, and by which measures, first the main one.

    `first` cuts a report of more items to the first n; None where that cannot be.
    """

    kind: type[Report]
    read: Callable[[Store, StoredRun], Report]
    measures: tuple[Measure, ...]
    first: Callable[[Report, int], Report] | None = None


@dataclass(frozen=True)
class Column(Generic[Report]):
    """One column of a comparison: the evaluation asked for (`wanted`) and the one that can be shown now (`shown`).

    `report` belongs to `shown`, and `run` is where it was read: perhaps a run of more items. It is final unless
    `partial`; it is stale when `shown` is not `wanted`, and `stale` then says how they differ. `problem` is a message
    when the column has no spec or its run cannot be read; `missing` are tasks and texts that measuring it needs and
    that are not on this machine.
    """

    name: str
    wanted: EvalSpec | None
    shown: EvalSpec | None = None
    report: Report | None = None
    run: StoredRun | None = None
    job: Job | None = None
    partial: bool = False
    stale: str = ""
    problem: str = ""
    missing: tuple[Task, ...] = ()

    @property
    def title(self) -> str:
        return title_of(self.name)

    @property
    def active(self) -> bool:
        return self.job is not None and self.job.active

    @property
    def fresh(self) -> bool:
        """Whether the result is final and matches the controls exactly."""
        return self.report is not None and not self.partial and not self.stale

    @property
    def measurable(self) -> bool:
        return self.wanted is not None and not self.fresh and not self.active and not self.missing


def title_of(column: str) -> str:
    return "Dense" if column == DENSE else criterion_title(column)


def swatch(name: str) -> str:
    """The criterion's colour and shape for Markdown; a dot for the dense model."""
    glyph = "●" if name == DENSE else criterion_glyph(name)
    return f':color[{glyph}]{{foreground="{colour_of(name)}"}}'


def named(name: str) -> str:
    return f"{swatch(name)} **{title_of(name)}**"


# What is known ---------------------------------------------------------------------------------------------------


def column_of(
    reading: ReportKind[Report],
    store: Store,
    queue: JobQueue,
    name: str,
    spec: Callable[[], EvalSpec],
    last: EvalSpec | None = None,
) -> Column[Report]:
    """Return the stored result, else the partial one of a running job, else the `last` one shown, marked stale."""
    try:
        wanted = spec()
    except CapVizError as error:
        return Column(name, None, problem=str(error))
    job, damage = queue.find(wanted), ""
    try:
        if (found := stored(reading, store, wanted)) is not None:
            return Column(name, wanted, wanted, *found)
    except DamagedRun as error:
        damage = str(error)
    if job is not None and job.active:
        partial = job.progress.partial
        if isinstance(partial, reading.kind) and len(partial):
            return Column(name, wanted, wanted, partial, job=job, partial=True)
        return Column(name, wanted, job=job)
    empty = Column[Report](name, wanted, job=job, problem=damage, missing=missing_tasks(wanted))
    return empty if last is None else with_last(reading, store, empty, last)


def stored(reading: ReportKind[Report], store: Store, spec: EvalSpec) -> tuple[Report, StoredRun] | None:
    """Read the run of a spec, or of a longer one the items that are asked for. Raises `DamagedRun`."""
    run = store.get(spec)
    if run is not None:
        return reading.read(store, run), run
    longer = None if reading.first is None else longer_run(spec, store)
    if longer is None or reading.first is None:
        return None
    return reading.first(reading.read(store, longer), len(spec.examples.ids)), longer


def with_last(reading: ReportKind[Report], store: Store, column: Column[Report], last: EvalSpec) -> Column[Report]:
    """Show an earlier result in the column if it is of the same weights and task and still readable."""
    wanted = column.wanted
    if wanted is None or last.model != wanted.model or same_task(last) != same_task(wanted):
        return column
    try:
        found = stored(reading, store, last)
    except DamagedRun:
        return column
    if found is None:
        return column
    return replace(column, shown=last, report=found[0], run=found[1], stale=change_words(last, wanted))


def same_task(spec: EvalSpec) -> tuple[str, int]:
    return spec.examples.task, spec.examples.version


# Drawing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """The text of a tile: a number, its interval, and what else belongs to it."""

    value: str
    caption: str
    help: str


def draw_tile(
    view: Frame, column: Column[Report], tell: Callable[[Report], Tile], label: str, about: Callable[[MaskSpec], str]
) -> None:
    """Draw the column's number with where it comes from."""
    st.markdown(f"{named(column.name)} {badge(view, column)}")
    spec = column.shown or column.wanted
    if spec is not None and spec.mask is not None and (said := about(spec.mask)):
        st.caption(said)
    if column.report is None:
        st.metric(label, "–", label_visibility="collapsed")
        st.caption(escaped(column.problem) or ("No answers yet." if column.active else "Not measured."))
        return
    told = tell(column.report)
    st.metric(label, told.value, label_visibility="collapsed")
    st.caption(told.caption, help=told.help)
    if column.stale:
        st.caption(f":orange[{escaped(column.stale)}]")
    if column.run is not None and (cut := cut_words(column.run)):
        st.caption(f":orange[{escaped(cut)}]")


def badge(view: Frame, column: Column[Any]) -> str:
    if column.partial and column.report is not None and column.wanted is not None:
        return f":blue-badge[{len(column.report)} of {len(column.wanted.examples.ids)} so far]"
    if column.job is not None and column.active:
        return ":blue-badge[running]" if column.job.is_started else ":gray-badge[queued]"
    if column.stale:
        return ":orange-badge[stale]"
    said = origin(view, column)
    # What came with CAP Viz is the usual case, named once for the whole page.
    return "" if said in ("", "precomputed") else f":{'violet' if said.startswith('live') else 'blue'}-badge[{said}]"


def origin(view: Frame, column: Column[Any]) -> str:
    """Say where the column's result comes from; empty without one."""
    if column.run is None or column.shown is None:
        return ""
    n, of = len(column.shown.examples.ids), len(column.run.spec.examples.ids)
    return f"{column.run.origin} (first {n} of {of})" if n < of else origin_words(column.run, view.runs)


@dataclass(frozen=True)
class Offer:
    """How missing columns are measured: key and label of the button; on how much it is measured.

    `blocked` says why nothing can be measured.
    """

    key: str
    label: str
    amount: str
    blocked: str = ""


def draw_columns(
    view: Frame,
    columns: Sequence[Column[Report]],
    tell: Callable[[Report], Tile],
    label: str,
    offer: Offer,
    about: Callable[[MaskSpec], str] = lambda mask: "",
) -> None:
    """Draw a tile per column, and offer to measure what is missing.

    `about` says something on the weights under a mask, in Markdown.
    """
    with st.container(horizontal=True, gap="medium"):
        for column in columns:
            with st.container(width=TILE_PIXELS, gap="xxsmall"):
                draw_tile(view, column, tell, label, about)
    if sentence := missing_words(columns):
        note(sentence)
    wanted = [one.wanted for one in columns if one.wanted and not one.fresh and not one.missing]
    titles: dict[JobSpec, str] = {spec: job_title(spec) for spec in wanted}
    said = cost_words(view, [one for one in columns if one.measurable], offer.amount)
    draw_offer(titles, offer.label, said, key=offer.key, blocked=offer.blocked or view.install_hint, type="primary")


def cost_words(view: Frame, missing: Sequence[Column[Any]], amount: str) -> str:
    """Name the columns to measure, on how much, and how long it takes."""
    seconds = [expected_seconds(view.runs, column.wanted) for column in missing if column.wanted]
    known = [one for one in seconds if one is not None]
    time = f"about {duration(sum(known))}" if len(known) == len(seconds) else "no stored run tells how long"
    return f"{listed([column.title for column in missing])}, {amount}: {time}" if missing else ""


def missing_words(columns: Sequence[Column[Any]]) -> str:
    """Name the data that measuring needs and this machine lacks, and the way out; else empty."""
    lacking = [column for column in columns if column.missing]
    tasks = {task.name: task for column in lacking for task in column.missing}.values()
    return f"{listed([column.title for column in lacking])}: {texts_missing(*tasks)}" if lacking else ""
