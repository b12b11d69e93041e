"""Tables as CSV that a spreadsheet opens as text: what a model or a data set wrote must not become a formula."""

from __future__ import annotations

import pandas as pd

# A cell that begins so is computed, or read as a command, by spreadsheet programs (OWASP, "CSV injection").
ACTIVE = ("=", "+", "-", "@", "\t")


def csv_text(table: pd.DataFrame) -> str:
    """The table without its index. Texts that a spreadsheet would compute get an apostrophe in front, numbers not."""
    return table.map(inert).to_csv(index=False)


def inert(value: object) -> object:
    if not isinstance(value, str):
        return value
    # A lone carriage return is left unquoted by the csv writer, and would begin a row of the text's own.
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if text.startswith(ACTIVE) else text
