"""Accuracies side by side (stored, arriving or stale), their paired differences, and the cost of measuring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.prune.setting import PruneSetting, eval_spec, missing_tasks, title_of
from cap_viz.dashboard.stored import report_of
from cap_viz.errors import CapVizError, UsageError
from cap_viz.runs.comparison import same_unit
from cap_viz.runs.jobs import Job
from cap_viz.runs.prefix_reuse import computing_seconds
from cap_viz.runs.queue import JobQueue
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec
from cap_viz.runs.store import DamagedRun, Store, StoredRun
from cap_viz.stats import Interval, PairedComparison, compare_means, compare_paired, wilson
from cap_viz.tasks import Task
from cap_viz.tasks.pairing import common_rows


@dataclass(frozen=True)
class AccuracyShare:
    """A share of right answers with its Wilson interval."""

    right: int
    n: int
    value: float
    ci: Interval


def share_of(right: Sequence[bool] | np.ndarray) -> AccuracyShare:
    right = np.asarray(right, dtype=bool)
    hits = int(right.sum())
    return AccuracyShare(right=hits, n=right.size, value=hits / right.size, ci=wilson(hits, right.size))


@dataclass(frozen=True)
class Column:
    """One column of the comparison: the evaluation asked for (`wanted`) and the one that can be shown now (`shown`).

    `report` belongs to `shown`. It is final unless `partial`; it is stale when `shown` is not `wanted`, and `stale`
    then says how they differ. `problem` is a message when the column has no spec or its run cannot be read; `missing`
    are tasks and texts that measuring it needs and that are not on this machine.
    """

    name: str
    wanted: EvalSpec | None
    shown: EvalSpec | None = None
    report: EvalReport | None = None
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


def column_of(store: Store, queue: JobQueue, setting: PruneSetting, name: str, last: EvalSpec | None) -> Column:
    """Return the stored result, else the partial one of a running job, else the last one shown, marked stale."""
    try:
        wanted = eval_spec(setting, name)
    except CapVizError as error:
        return Column(name=name, wanted=None, problem=str(error))
    job, damage = queue.find(wanted), ""
    try:
        run = store.get(wanted)
        if run is not None:
            return Column(name=name, wanted=wanted, shown=wanted, report=report_of(store, run), run=run)
    except DamagedRun as error:
        damage = str(error)
    if job is not None and job.active:
        partial = job.progress.partial
        if isinstance(partial, EvalReport) and len(partial):
            return Column(name=name, wanted=wanted, shown=wanted, report=partial, job=job, partial=True)
        return Column(name=name, wanted=wanted, job=job)
    empty = Column(name=name, wanted=wanted, job=job, problem=damage, missing=missing_tasks(wanted))
    return empty if last is None else with_last(store, empty, last)


def with_last(store: Store, column: Column, last: EvalSpec) -> Column:
    """Show an earlier result in the column if it is of the same weights and task and still readable."""
    wanted = column.wanted
    if wanted is None or last.model != wanted.model or not same_task(last, wanted):
        return column
    try:
        run = store.get(last)
        if run is None:
            return column
        report = report_of(store, run)
    except DamagedRun:
        return column
    return replace(column, shown=last, report=report, run=run, stale=difference(last, wanted))


def same_task(first: EvalSpec, second: EvalSpec) -> bool:
    a, b = first.examples, second.examples
    return (a.task, a.version) == (b.task, b.version)


def difference(shown: EvalSpec, wanted: EvalSpec) -> str:
    """Describe in words how the evaluation shown differs from the one asked for."""
    said: list[str] = []
    old, new = shown.mask, wanted.mask
    if old is not None and new is not None:
        if old.sparsity != new.sparsity:
            said.append(f"measured at {old.sparsity:.0%}, the slider is at {new.sparsity:.0%}".replace("%", " %"))
        if old.scope != new.scope:
            said.append(f"scope was {old.scope}, now {new.scope}")
        if old.metric != new.metric:
            said.append(f"metric was {old.metric}, now {new.metric}")
        if old.kv_combine != new.kv_combine:
            said.append(f"KV groups were combined by {old.kv_combine}, now {new.kv_combine}")
        if old.scores != new.scores:
            said.append("built on other head scores")
        elif old.calibration != new.calibration:
            said.append("built on other calibration examples")
        if (old.allocation, old.pattern) != (new.allocation, new.pattern):
            said.append(f"zeros were spread {spread_words(old)}, now {spread_words(new)}")
        if old.control_seed != new.control_seed:
            said.append(f"draw {old.control_seed}, now {new.control_seed}")
    if shown.examples != wanted.examples:
        said.append(f"measured on {len(shown.examples.ids)} items, {len(wanted.examples.ids)} are asked for")
    return "; ".join(said)


def spread_words(mask: MaskSpec) -> str:
    """Name the pattern or allocation of a mask, or "evenly"."""
    return mask.pattern or (mask.allocation or "evenly").replace("owl", "by OWL")


@dataclass(frozen=True)
class Difference:
    """First column minus second on their common items: accuracy, and choice loss in nats.

    Both are None when the columns cannot be compared; `reason` then says why.
    """

    first: str
    second: str
    comparison: PairedComparison | None
    loss: PairedComparison | None = None
    reason: str = ""
    provisional: bool = False


def differences(columns: Sequence[Column]) -> list[Difference]:
    """Compare each criterion with dense, then the two criteria with each other."""
    dense, *others = columns
    pairs = [(column, dense) for column in others]
    if len(others) == 2:
        pairs.append((others[0], others[1]))
    return [compare_columns(first, second) for first, second in pairs]


def compare_columns(first: Column, second: Column) -> Difference:
    if first.report is None or second.report is None:
        return Difference(first.name, second.name, None, reason="not measured yet")
    if not same_sparsity(first, second):
        return Difference(first.name, second.name, None, reason="measured at different settings")
    if not same_unit(first.name, second.name):
        return Difference(first.name, second.name, None, reason="not the same share of weights")
    try:
        a, b = aligned(first.report, second.report)
    except UsageError as error:
        return Difference(first.name, second.name, None, reason=str(error))
    if not len(a):
        return Difference(first.name, second.name, None, reason="no common items yet")
    return Difference(
        first.name,
        second.name,
        compare_paired(a.correct, b.correct),
        compare_means(a.losses(), b.losses()),
        provisional=first.partial or second.partial,
    )


def same_sparsity(first: Column, second: Column) -> bool:
    """Whether two columns share sparsity and scope, as two criteria must; dense compares with everything."""
    masks = [column.shown.mask for column in (first, second) if column.shown is not None and column.shown.mask]
    return len({(mask.sparsity, mask.scope) for mask in masks}) < 2


def aligned(first: EvalReport, second: EvalReport) -> tuple[EvalReport, EvalReport]:
    """Restrict two reports to their common items, in the first one's order.

    Raises `UsageError` where the same ids stand for different items.
    """
    rows, others = common_rows(first.items, second.items)
    return taken(first, rows), taken(second, others)


def taken(report: EvalReport, rows: Sequence[int]) -> EvalReport:
    return EvalReport(report.questions.take(rows), report.logliks[np.array(rows, dtype=np.int64)])


@dataclass(frozen=True)
class MeasuringCost:
    """Estimated cost of measuring; `seconds` is None when no stored run allows an estimate."""

    runs: int
    items: int
    seconds: float | None


def cost_of(runs: Sequence[StoredRun], columns: Sequence[Column]) -> MeasuringCost:
    """Estimate the cost from stored evaluations of the same weights and task, the building of masks included."""
    wanted = [column.wanted for column in columns if column.wanted is not None and column.measurable]
    items = sum(len(spec.examples.ids) for spec in wanted)
    seconds = [seconds_of(runs, spec) for spec in wanted]
    known = [value for value in seconds if value is not None]
    return MeasuringCost(runs=len(wanted), items=items, seconds=sum(known) if len(known) == len(wanted) else None)


def seconds_of(runs: Sequence[StoredRun], wanted: EvalSpec) -> float | None:
    """Estimate seconds: items times the median per item (of dense if stored), plus the median for such a mask."""
    like = [
        (run.spec, seconds)
        for run in runs_of(runs, EvalSpec)
        if (seconds := computing_seconds(run)) is not None
        and run.spec.model == wanted.model
        and run.spec.examples.task == wanted.examples.task
        and run.spec.protocol == wanted.protocol
        and not run.provenance.get("resumed_batches")
    ]
    dense = [seconds / len(spec.examples.ids) for spec, seconds in like if spec.mask is None]
    every = [seconds / len(spec.examples.ids) for spec, seconds in like]
    if not every:
        return None
    pace = float(np.median(dense or every))
    building = 0.0
    if wanted.mask is not None:
        criterion = wanted.mask.criterion
        masks = [
            max(0.0, seconds - pace * len(spec.examples.ids))
            for spec, seconds in like
            if spec.mask is not None and spec.mask.criterion == criterion
        ]
        building = float(np.median(masks)) if masks else 0.0
    return pace * len(wanted.examples.ids) + building
