"""The Prune page's numbers as files: one CSV row per item, one JSON object for the whole comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.prune.accuracy import Column, Difference, share_of
from cap_viz.runs.spec import spec_dict, spec_key
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.stats import Interval


def items_csv(columns: Sequence[Column]) -> bytes:
    """One row per item: id, gold option, and per column the chosen option and whether it is right."""
    table: pd.DataFrame | None = None
    for column in columns:
        if column.report is not None and not column.partial:
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


def comparison_json(columns: Sequence[Column], differences: Sequence[Difference]) -> bytes:
    """Every column with its spec, key and accuracies, and the paired differences."""
    content = {
        "columns": [column_dict(column) for column in columns if column.report is not None and not column.partial],
        "differences": [
            {
                "first": one.first,
                "second": one.second,
                **asdict(one.comparison),
                "choice_nll": None if one.loss is None else asdict(one.loss),
            }
            for one in differences
            if one.comparison is not None
        ],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def column_dict(column: Column) -> dict[str, Any]:
    assert column.report is not None
    assert column.shown is not None
    acc, norm = share_of(column.report.correct), share_of(column.report.correct_norm)
    return {
        "name": column.name,
        "key": spec_key(column.shown),
        "stale": column.stale,
        "origin": None if column.run is None else column.run.origin,
        "n": acc.n,
        "acc": acc.value,
        "acc_ci95": limits(acc.ci),
        "acc_norm": norm.value,
        "acc_norm_ci95": limits(norm.ci),
        "spec": spec_dict(column.shown),
    }


def limits(interval: Interval) -> list[float]:
    return [interval.low, interval.high]
