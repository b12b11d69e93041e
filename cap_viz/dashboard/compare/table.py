"""The table of paired differences, on the page and as CSV."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from cap_viz.dashboard.compare.data import Comparison, Difference, name_of
from cap_viz.dashboard.components.panels import percent
from cap_viz.figures.theme import signed
from cap_viz.runs.comparison import DENSE, Cell, result_facts
from cap_viz.runs.fixed_question import AT_CHANCE
from cap_viz.runs.spreadsheet import csv_text

# Rows shown without scrolling inside the table.
MOST_ROWS, TALLEST_TABLE = 15, 520


def table_rows(comparison: Comparison) -> list[tuple[Cell, Difference | None]]:
    """List every cell shown with each of its differences; a cell without any (such as the reference) appears once."""
    rows: list[tuple[Cell, Difference | None]] = []
    for cell in comparison.cells:
        rows += [(cell, one) for one in comparison.of(cell)] or [(cell, None)]
    return rows


def row_note(comparison: Comparison, cell: Cell, one: Difference | None) -> str:
    """Say why a row has no difference, or that its two accuracies may be guesses; else empty."""
    if one is not None:
        return AT_CHANCE if comparison.guesses(one) else ""
    if cell in comparison.removed:
        return f"{percent(cell[1], 0)} of heads"
    return "reference" if cell[0] == comparison.choice.reference else "reference not measured"


def shown_table(comparison: Comparison) -> pd.DataFrame:
    """Table for display: values in per cent or nats, differences in points or nats; columns without a value are out."""
    measure, scale = comparison.measure, comparison.measure.scale
    rows = []
    for cell, one in table_rows(comparison):
        level = comparison.levels[cell]
        row: dict[str, Any] = {
            "Sparsity": round(100 * comparison.share(cell), 2),
            "Criterion": name_of(cell),
            measure.title: scale * level.value,
            "95 % interval": measure.interval_words(level.ci),
            "Against": "–" if one is None else name_of(one.second),
        }
        if one is not None:
            low, high = (signed(scale * limit, measure.digits) for limit in (one.result.ci.low, one.result.ci.high))
            row |= {
                "Difference": scale * one.result.difference,
                "Its 95 % interval": f"{low} to {high}",
                "Detectable": scale * one.result.minimum_detectable,
                "Gained": one.result.only_a,
                "Lost": one.result.only_b,
            }
        rows.append({**row, "Note": row_note(comparison, cell, one)})
    return pd.DataFrame(rows).dropna(axis="columns", how="all")


def draw_table(comparison: Comparison) -> None:
    measure, table = comparison.measure, shown_table(comparison)
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    digits = f"%.{measure.digits}f"
    columns = {
        "Sparsity": number(format="%g %%", width=68, pinned=True),
        "Criterion": text(width=128, pinned=True),
        measure.title: number(format=f"{digits} %%" if measure.is_share else digits, width=86),
        "95 % interval": text(width=108),
        "Against": text(width=128),
        "Difference": number(
            format=digits.replace("%", "%+"),
            width=84,
            help=f"First minus second on the same questions, in {measure.steps}",
        ),
        "Its 95 % interval": text(width=116, help="Paired bootstrap"),
        "Detectable": number(
            format=digits,
            width=88,
            help=f"Smallest true difference, in {measure.steps}, that would be found with 80 % power at p < 0.05",
        ),
        "Gained": number(width=66, help="Questions only the criterion answers correctly"),
        "Lost": number(width=66, help="Questions only the one it is compared with answers correctly"),
        "Note": text(width=110),
    }
    st.dataframe(
        table,
        hide_index=True,
        height="content" if len(table) <= MOST_ROWS else TALLEST_TABLE,
        placeholder="–",
        key="compare_table",
        column_order=[name for name in columns if name in table],
        column_config=columns,
        alt="Paired differences, one row per criterion, sparsity and comparison",
    )


def table_csv(comparison: Comparison) -> str:
    """Return the table as CSV, dense first; values and differences are shares or nats, p is unadjusted.

    `sparsity` is the share of weights removed, `sparsity_asked` the share of the heads where a criterion counts these.
    """
    rows = []
    for cell, one in [(DENSE, None), *table_rows(comparison)]:
        level, run = comparison.levels[cell], comparison.runs[cell]
        row: dict[str, Any] = {
            "criterion": cell[0],
            "sparsity": comparison.share(cell),
            "sparsity_asked": cell[1],
            "n": comparison.n,
            "measure": comparison.measure.name,
            "value": level.value,
            "ci_low": level.ci.low,
            "ci_high": level.ci.high,
            "model": run.spec.model.id,
            "task": run.spec.examples.task,
            "run": run.key,
            "note": "" if cell == DENSE else row_note(comparison, cell, one),
            "against": None if one is None else one.second[0],
        }
        if one is not None:
            row |= result_facts(one.result)
            row["difference_low"], row["difference_high"] = row.pop("ci")
            row["p_unadjusted"] = row.pop("p")
        rows.append(row)
    return csv_text(pd.DataFrame(rows))
