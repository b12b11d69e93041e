"""CSV export that is safe in spreadsheets: text from a model or data set must not become a formula."""

from __future__ import annotations

import pandas as pd

# Spreadsheet programs compute, or run as a command, a cell that begins with one of these (OWASP, "CSV injection").
ACTIVE = ("=", "+", "-", "@", "\t")


def csv_text(table: pd.DataFrame) -> str:
    """Write a table as CSV without its index; text a spreadsheet would compute is prefixed with an apostrophe."""
    return table.map(inert).to_csv(index=False)


def inert(value: object) -> object:
    if not isinstance(value, str):
        return value
    # The csv writer does not quote a lone carriage return, which would begin a new row.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(ACTIVE) else text
