"""One item of the flip table in full, every option's log-likelihood under each model, and the CSV of all items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.panels import escaped
from cap_viz.dashboard.prune.accuracy import Column
from cap_viz.errors import CapVizError
from cap_viz.runs.audit import audit_of
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store
from cap_viz.tasks import Example


def item_detail(example: Example, columns: Sequence[Column]) -> None:
    """Draw the prompt as the models got it, and a table with a row per option."""
    st.markdown("###### The item in full")
    st.code(example.prompt, language=None, wrap_lines=True)
    st.dataframe(
        option_table(example, columns),
        hide_index=True,
        column_config={
            "Option": st.column_config.TextColumn(width=260),
            **{column.title: st.column_config.NumberColumn(format="%.2f") for column in columns},
        },
    )
    said = "; ".join(f"{column.title} chose {chosen_text(example, column)}" for column in columns)
    st.caption(f"Log-likelihoods in nats; the highest of a column is that model's answer (acc). {escaped(said)}.")


def option_table(example: Example, columns: Sequence[Column]) -> pd.DataFrame:
    right = ["✓" if option == example.gold else "" for option in range(len(example.options))]
    return pd.DataFrame(
        {
            "Right": right,
            "Option": [option.strip() for option in example.options],
            **{column.title: logliks_of(example, column) for column in columns},
        }
    )


def logliks_of(example: Example, column: Column) -> np.ndarray:
    assert column.report is not None
    row = column.report.questions.ids.index(example.id)
    return column.report.logliks[row, : len(example.options)].astype(float)


def chosen_text(example: Example, column: Column) -> str:
    return example.options[int(logliks_of(example, column).argmax())].strip()


def audit_download(store: Store, columns: Sequence[Column]) -> None:
    """Draw the download of every item of every model as one file, made on the click."""
    st.download_button(
        "Audit of all items (CSV)",
        lambda: audit_csv(store, columns),
        "audit.csv",
        "text/csv",
        icon=":material/download:",
        key="prune_audit",
        on_click="ignore",
        help="Prompt, right answer, answer and log-likelihood of every option, for each model and each item.",
    )


def audit_csv(store: Store, columns: Sequence[Column]) -> str:
    """CSV with one row per model and item; a run that cannot be read becomes one row with the error."""
    tables = []
    for column in columns:
        if column.run is None:
            continue
        try:
            table = audit_of(store, column.run)
        except CapVizError as error:
            table = pd.DataFrame([{"problem": str(error)}])
        tables.append(table.assign(model=column.title, run=column.run.key))
    return csv_text(pd.concat(tables)) if tables else ""
