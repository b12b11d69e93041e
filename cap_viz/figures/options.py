"""Answer options of a question with their probabilities, as a compact HTML table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from cap_viz.figures.theme import signed

TABLE = "width:100%;border-collapse:collapse;font-size:0.9rem;line-height:1.25;font-variant-numeric:tabular-nums"
CELL = "padding:3px 8px 3px 0;border-top:1px solid rgba(128,134,148,0.28);vertical-align:top"


def option_shares(
    options: Sequence[str],
    before: Float[np.ndarray, " option"],
    after: Float[np.ndarray, " option"],
    gold: int,
    change: str,
) -> str:
    """Return a row per option: its share before and after, and the change in points; `change` names what was done.

    The option of the largest share is bold, the right one ticked.
    """
    lines = [row("th", ["", "option", "intact", change, "change"])]
    for i, option in enumerate(options):
        shares = [share(values, i) for values in (before, after)]
        tick = '<span role="img" aria-label="right answer">✓</span>' if i == gold else ""
        lines.append(row("td", [tick, escape(option), *shares, signed(100 * float(after[i] - before[i]), 1)]))
    return f'<table style="{TABLE}">{"".join(lines)}</table>'


def share(values: Float[np.ndarray, " option"], i: int) -> str:
    # No line break between a number and its unit.
    text = f"{100 * float(values[i]):.1f}\u00a0%"
    return f"<b>{text}</b>" if i == int(np.argmax(values)) else text


def row(tag: str, cells: Sequence[str]) -> str:
    sides = ("left", "left", "right", "right", "right")
    return "<tr>{}</tr>".format(
        "".join(
            f'<{tag} style="{CELL};text-align:{side};font-weight:inherit">{cell}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )
    )
