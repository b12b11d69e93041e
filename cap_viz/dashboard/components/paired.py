"""Paired differences of measured columns on their common items, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from cap_viz.dashboard.components.measured_column import Column, Report, ReportKind, swatch, title_of
from cap_viz.dashboard.components.panels import p_words
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import Measure, compare_values, per_question
from cap_viz.evaluation.verdict import difference_words, hint_reason, outcome_words
from cap_viz.runs.comparison import same_unit
from cap_viz.stats import PairedComparison
from cap_viz.tasks.pairing import common_rows


@dataclass(frozen=True)
class ColumnDifference:
    """First column minus second on their common items, by the names of the measures.

    `results` is empty when the columns cannot be compared; `reason` then says why.
    """

    first: str
    second: str
    results: Mapping[str, PairedComparison] = field(default_factory=dict)
    reason: str = ""
    provisional: bool = False

    @property
    def main(self) -> PairedComparison | None:
        """The comparison by the first measure."""
        return next(iter(self.results.values()), None)


def differences(reading: ReportKind[Report], columns: Sequence[Column[Report]]) -> list[ColumnDifference]:
    """Compare the criteria with each other, if there are two, then each with dense."""
    dense, *others = columns
    pairs = [tuple(others)] if len(others) == 2 else []
    return [compare_columns(reading, first, second) for first, second in [*pairs, *((one, dense) for one in others)]]


def compare_columns(reading: ReportKind[Report], first: Column[Report], second: Column[Report]) -> ColumnDifference:
    refused = ColumnDifference(first.name, second.name)
    if first.report is None or second.report is None:
        return replace(refused, reason="not measured yet")
    if not same_sparsity(first, second):
        return replace(refused, reason="measured at different settings")
    if not same_unit(first.name, second.name):
        return replace(refused, reason="not the same share of weights")
    try:
        rows, others = common_rows(first.report.items, second.report.items)
    except UsageError as error:
        return replace(refused, reason=str(error))
    if not rows:
        return replace(refused, reason="no common items yet")
    a, b = first.report, second.report
    results = {
        one.name: compared(tuple(per_question(a, one)[rows]), tuple(per_question(b, one)[others]), one)
        for one in reading.measures
    }
    return replace(refused, results=results, provisional=first.partial or second.partial)


@lru_cache(256)
def compared(first: tuple[float, ...], second: tuple[float, ...], measure: Measure) -> PairedComparison:
    """Compare values on the same items, once: intervals take thousands of resamples."""
    return compare_values(np.array(first), np.array(second), measure)


def same_sparsity(first: Column[Any], second: Column[Any]) -> bool:
    """Whether two columns share sparsity and scope, as two criteria must; dense compares with everything."""
    masks = [column.shown.mask for column in (first, second) if column.shown is not None and column.shown.mask]
    return len({(mask.sparsity, mask.scope) for mask in masks}) < 2


def difference_table(found: Sequence[ColumnDifference], measures: Sequence[Measure]) -> pd.DataFrame:
    """Table of paired differences; p and counts are by the first measure. Cells are Markdown."""
    rows = []
    for one in found:
        by = {measure.title: cell(one, measure) for measure in measures}
        counts = ("", "") if one.main is None else (str(one.main.only_b), str(one.main.only_a))
        rows.append({"Same items": pair_words(one), **by, "p": p_cell(one), "Lost": counts[0], "Gained": counts[1]})
    return pd.DataFrame(rows)


def pair_words(one: ColumnDifference) -> str:
    return f"{swatch(one.first)} {title_of(one.first)} − {swatch(one.second)} {title_of(one.second)}"


def cell(one: ColumnDifference, measure: Measure) -> str:
    """Format a difference, or why there is none."""
    result = one.results.get(measure.name)
    return one.reason if result is None else difference_words(result, measure)


def p_cell(one: ColumnDifference) -> str:
    """Format p, or `interim` while answers arrive: a p-value watched until it suits means nothing."""
    if one.main is None:
        return ""
    return f"interim, {one.main.n} items" if one.provisional else p_words(one.main.p_value)


def verdict_lines(one: ColumnDifference, measures: Sequence[Measure]) -> list[str]:
    """Say for each measure what the difference is and who is ahead; while answers arrive, only what it is."""
    lines = []
    for measure in measures:
        result = one.results.get(measure.name)
        if result is None:
            continue
        outcome = outcome_words(result, measure, title_of(one.first), title_of(one.second))
        reason = f" ({why})" if (why := hint_reason(result)) else ""
        said = f"interim, {result.n} items" if one.provisional else f"**{outcome}**{reason}"
        lines.append(f"{measure.title}: {difference_words(result, measure)}, {said}")
    return lines or [f"{one.reason.capitalize()}."]


def unseen_words(found: Sequence[ColumnDifference], measure: Measure) -> str:
    """Say how small a difference could have been detected."""
    known = [one.main for one in found if one.main is not None]
    if not known:
        return ""
    smallest = max(result.minimum_detectable for result in known)
    return (
        f"With {min(result.n for result in known)} items, differences below about "
        f"{measure.scale * smallest:.0f} {measure.steps} usually go unseen (80 % power)."
    )
