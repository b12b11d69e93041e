"""Items on which dense and the pruned models differ: the flip table of the Prune page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.prune.accuracy import Column
from cap_viz.dashboard.prune.setting import DENSE
from cap_viz.tasks import Example
from cap_viz.tasks.pairing import common_rows


@dataclass(frozen=True)
class Flip:
    """One item with differing answers: the right option (`gold`) and the one each column chose."""

    id: str
    number: int
    gold: int
    chosen: dict[str, int]

    def right(self, column: str) -> bool:
        return self.chosen[column] == self.gold


@dataclass(frozen=True)
class Filter:
    """A named subset of the flip table."""

    title: str
    flips: tuple[Flip, ...]


def flips_of(columns: Sequence[Column]) -> tuple[Flip, ...]:
    """Return the items on which at least two columns differ, in item order, among those that all have answered.

    Raises `UsageError` where an id stands for different items.
    """
    reports = {column.name: column.report for column in columns if column.report is not None}
    if len(reports) < 2:
        return ()
    first, *others = reports.values()
    for other in others:
        common_rows(first.items, other.items)
    chosen = {name: choices(report) for name, report in reports.items()}
    gold = dict(zip(first.questions.ids, first.questions.gold.tolist(), strict=True))
    flips: list[Flip] = []
    for number, identity in enumerate(first.questions.ids, start=1):
        answers = {name: of[identity] for name, of in chosen.items() if identity in of}
        if len(answers) == len(reports) and len(set(answers.values())) > 1:
            flips.append(Flip(id=identity, number=number, gold=gold[identity], chosen=answers))
    return tuple(flips)


def choices(report: EvalReport) -> dict[str, int]:
    return dict(zip(report.questions.ids, report.chosen.tolist(), strict=True))


def filters_of(flips: Sequence[Flip], columns: Sequence[Column]) -> list[Filter]:
    """List all flips, those lost and gained against dense per criterion, and those only one criterion gets right."""
    names = {column.name: column.title for column in columns if column.report is not None}
    found = [Filter("All that differ", tuple(flips))]
    pruned = [name for name in names if name != DENSE]
    if DENSE in names:
        for name in pruned:
            lost = tuple(flip for flip in flips if flip.right(DENSE) and not flip.right(name))
            gained = tuple(flip for flip in flips if not flip.right(DENSE) and flip.right(name))
            found += [Filter(f"{names[name]}: right → wrong", lost), Filter(f"{names[name]}: wrong → right", gained)]
    if len(pruned) == 2:
        first, second = pruned
        apart = tuple(flip for flip in flips if flip.right(first) != flip.right(second))
        found.append(Filter(f"Only one of {names[first]} and {names[second]} right", apart))
    return found


def flip_table(flips: Sequence[Flip], columns: Sequence[Column], texts: Mapping[str, Example]) -> pd.DataFrame:
    """One row per item; answers carry a check mark when right and a cross when wrong."""
    shown = [column for column in columns if column.report is not None]
    rows = []
    for flip in flips:
        example = texts.get(flip.id)
        row: dict[str, object] = {"Item": flip.number}
        if example is not None:
            row["Question"] = example.question
        row["Right answer"] = option_text(example, flip.gold)
        for column in shown:
            mark = "✓" if flip.right(column.name) else "✗"
            row[column.title] = f"{mark} {option_text(example, flip.chosen[column.name])}"
        rows.append({**row, "Id": flip.id})
    return pd.DataFrame(rows)


def option_text(example: Example | None, option: int) -> str:
    letter = chr(ord("A") + option)
    return letter if example is None else f"{letter}. {example.options[option].strip()}"
