"""The Prune page's numbers as files: a CSV row per item, the comparison as JSON, and an audit of every answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.measured_column import Column
from cap_viz.dashboard.components.paired import ColumnDifference
from cap_viz.dashboard.components.share import Download
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, ACC_NORM, CHOICE_LOSS, Measure, level_of
from cap_viz.runs.audit import audit_of
from cap_viz.runs.spec import spec_dict, spec_key
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store

Columns = Sequence[Column[EvalReport]]


def downloads(name: str, columns: Columns, differences: Sequence[ColumnDifference]) -> list[Download]:
    """Return the files of the Share menu; `columns` are measured ones."""
    return [
        Download("Items (CSV)", lambda: items_csv(columns), f"{name}.csv", "text/csv"),
        Download(
            "Comparison with specs (JSON)",
            lambda: comparison_json(columns, differences),
            f"{name}.json",
            "application/json",
        ),
    ]


def items_csv(columns: Columns) -> bytes:
    """One row per item: id, gold option, and per column the chosen option and whether it is right."""
    table: pd.DataFrame | None = None
    for column in columns:
        if column.report is not None:
            part = item_table(column.name, column.report)
            table = part if table is None else table.merge(part.drop(columns="gold"), on="id", how="outer", sort=False)
    return b"" if table is None else csv_text(table).encode()


def item_table(name: str, report: EvalReport) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": report.questions.ids,
            "gold": report.questions.gold,
            f"{name}_chosen": report.chosen,
            f"{name}_right": report.correct,
            f"{name}_chosen_norm": report.chosen_norm,
            f"{name}_right_norm": report.correct_norm,
        }
    )


def comparison_json(columns: Columns, differences: Sequence[ColumnDifference]) -> bytes:
    """Every column with its spec, key and accuracies, and the paired differences."""
    content = {
        "columns": [column_dict(column) for column in columns if column.report is not None],
        "differences": [difference_dict(one) for one in differences if one.results],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def column_dict(column: Column[EvalReport]) -> dict[str, Any]:
    assert column.report is not None
    assert column.shown is not None
    return {
        "name": column.name,
        "key": spec_key(column.shown),
        "stale": column.stale,
        "origin": None if column.run is None else column.run.origin,
        "n": len(column.report),
        **level_dict(column.report, ACC),
        **level_dict(column.report, ACC_NORM),
        "spec": spec_dict(column.shown),
    }


def difference_dict(one: ColumnDifference) -> dict[str, Any]:
    by_acc, by_loss = one.results[ACC.name], one.results[CHOICE_LOSS.name]
    return {"first": one.first, "second": one.second, **asdict(by_acc), CHOICE_LOSS.name: asdict(by_loss)}


def level_dict(report: EvalReport, measure: Measure) -> dict[str, Any]:
    level = level_of(report, measure)
    return {measure.name: level.value, f"{measure.name}_ci95": [level.ci.low, level.ci.high]}


def audit_csv(store: Store, columns: Columns) -> str:
    """CSV with one row per model and item; a run that cannot be read becomes one row with the error."""
    tables = []
    for column in columns:
        if column.run is None or column.report is None:
            continue
        try:
            table = audit_of(store, column.run)
            table = table[table["id"].isin(column.report.questions.ids)]
        except CapVizError as error:
            table = pd.DataFrame([{"problem": str(error)}])
        tables.append(table.assign(model=column.title, run=column.run.key))
    return csv_text(pd.concat(tables)) if tables else ""
