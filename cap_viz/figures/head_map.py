"""The head map as the browser draws it (assets/head_map.js): numbers in layer order, and the room they take."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from cap_viz.figures.head_grid import Grid, colour_limit
from cap_viz.stats import HeadEstimate

Head = tuple[int, int]
TALLEST, TALLEST_SMALL = 452, 214
# Sizes in assets/head_map.css at the usual size of text: colour bar with its words, head numbers, axis titles, layers.
TEXT = 11
BAR, NUMBERS, TITLES, LABELS, BLOCKS, PADDING = 42, 15, 15, 22, 110, 4
HIGHEST_CELL = 34.0
# Cells are at most four times as wide as high.
WIDEST_CELL = 4


def map_data(
    grid: Grid,
    unit: str,
    label: str,
    *,
    off: Collection[Head] = (),
    framed: Collection[Head] = (),
    small: bool = False,
    tallest: int | None = None,
    text: int = TEXT,
    blocks: HeadEstimate | None = None,
) -> dict[str, Any]:
    """Return what the browser needs to draw a map: numbers in layer order, rounded to what can be seen.

    Heads in `off` get a cross, those in `framed` a frame. `small` leaves out the colour bar, for pages that explain one
    scale for several maps; `tallest` is the height that is not exceeded and `text` the size of the type, in pixels.
    `blocks` adds two columns that cannot be picked: whole attention layers and MLPs, on a scale of their own.
    """
    n_layers, n_heads = grid.shape
    # Colours of a small scale need more decimals than its numbers show.
    digits = grid.digits if grid.limit >= 10 ** (2 - grid.digits) else grid.digits + 3
    room = (tallest or (TALLEST_SMALL if small else TALLEST)) - around(small, text)
    row = round(min(HIGHEST_CELL * text / TEXT, room / n_layers), 2)
    blocks_width = BLOCKS if blocks is not None else 0
    return {
        "label": label,
        "unit": unit,
        "ends": list(grid.ends),
        "heads": n_heads,
        "row": row,
        "width": int((WIDEST_CELL * row * n_heads + LABELS + blocks_width) * text / TEXT),
        "small": small,
        "text": text,
        "limit": grid.limit,
        "top": f"{grid.limit:.2g}",
        "digits": grid.digits,
        "mean": rounded(grid.mean, digits),
        "low": None if grid.low is None else rounded(grid.low, digits),
        "high": None if grid.high is None else rounded(grid.high, digits),
        "rank": None if grid.rank is None else grid.rank.ravel().tolist(),
        "faded": flags(grid.faded),
        "marked": flags(grid.marked),
        "also": [[title, rounded(values, grid.digits)] for title, values in grid.also.items()],
        "whole": [title for title, values in grid.also.items() if np.issubdtype(values.dtype, np.integer)],
        "off": [layer * n_heads + head for layer, head in off],
        "framed": [layer * n_heads + head for layer, head in framed],
        "selected": None if grid.selected is None else grid.selected[0] * n_heads + grid.selected[1],
        "blocks": None if blocks is None else block_data(blocks),
    }


def block_data(blocks: HeadEstimate) -> dict[str, Any]:
    limit = colour_limit(blocks.mean)
    return {
        "limit": limit,
        "top": f"{limit:.2g}",
        "mean": rounded(blocks.mean, 3),
        "low": rounded(blocks.low, 3),
        "high": rounded(blocks.high, 3),
        "faded": flags(blocks.unclear),
    }


def rounded(values: np.ndarray, digits: int) -> list[float | int | None]:
    """Return rounded values in layer order; None for NaN, which JSON lacks."""
    if np.issubdtype(values.dtype, np.integer):
        return values.ravel().tolist()
    return [None if np.isnan(value) else round(value, digits) for value in values.ravel().tolist()]


def flags(values: np.ndarray | None) -> str:
    """Return a digit for each head; "" where nothing is known of any."""
    return "" if values is None else "".join("01"[int(value)] for value in values.ravel())


def map_height(data: dict[str, Any]) -> int:
    """Return the height in pixels, which is set before anything is drawn, so that nothing below moves."""
    return round(len(data["mean"]) // data["heads"] * data["row"]) + around(data["small"], data["text"])


def around(small: bool, text: int) -> int:
    """Return the height of all that is above and below the cells."""
    return round((NUMBERS + (0 if small else BAR + TITLES)) * text / TEXT) + 2 * PADDING
