"""A table of which one row can be picked, by mouse in the table or by keyboard in a list; the address holds its id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from cap_viz.dashboard.selection import Selection, choose, is_choice

NOBODY = ""


def row_picker(
    selection: Selection, key: str, table: pd.DataFrame, names: Mapping[str, str], label: str, **more: Any
) -> str | None:
    """Draw the table, whose rows are those of `names` (by id), and the list; return the picked id under this key."""
    ids, options = list(names), {NOBODY: "None: pick one here, or a row of the table", **names}
    picked = selection.choice(key, options)
    # The table's own key holds the rows and columns that are selected in it.
    table_key = f"{key}_table"
    rows = [ids.index(picked)] if picked in names else []
    st.session_state[table_key] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    st.dataframe(
        table,
        hide_index=True,
        key=table_key,
        on_select=lambda: take_row(key, table_key, ids),
        selection_mode="single-row",
        **more,
    )
    selection.selectbox(label, key, options)
    return picked or None


def take_row(key: str, table_key: str, ids: Sequence[str]) -> None:
    rows = st.session_state[table_key]["selection"]["rows"]
    if is_choice():
        choose({key: ids[rows[0]] if rows and rows[0] < len(ids) else None})
