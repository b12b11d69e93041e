"""Figure of a specification curve: one head's rank under every way to score heads, and which way it was."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from cap_viz.figures.theme import FAINT, HELPS, HURTS, NEUTRAL, blank, signed

# Columns of a head's table that are choices; a draw is its seed and size.
CHOICES = ("metric", "ablation", "estimator", "draw", "prompt")
ROW, CURVE = 20, 200
# Characters of a choice that fit beside the grid.
LONGEST_NAME = 19


def specification_curve(table: pd.DataFrame, *, n_heads: int) -> go.Figure:
    """Plot a head's rank under every specification, best first, over a grid that marks the choices of each.

    `table` is that of `SpecificationCurve.of_head`. Filled marks: the 95 % interval of the effect excludes zero.
    Specifications without a rank are missing and have no mark.
    """
    table = table.assign(draw=[f"draw {seed} of {n}" for seed, n in zip(table["seed"], table["n"], strict=True)])
    levels = [(choice, value) for choice in CHOICES for value in dict.fromkeys(table[choice])]
    if not any(map(is_other, table["prompt"])):
        levels = [(choice, value) for choice, value in levels if choice != "prompt"]
    x = np.arange(len(table))
    height = CURVE + 40 + ROW * len(levels)
    figure = blank(height=height, left=132, right=12, top=10, bottom=14)
    hovers = [hover(row) for row in table.to_dict("records")]
    clear = (table["ci_low"] > 0) | (table["ci_high"] < 0)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=table["rank"],
            mode="markers",
            marker={
                "size": 9,
                "symbol": np.where(clear, "circle", "circle-open"),
                "color": np.where(table["mean_effect"] < 0, HELPS, HURTS),
            },
            text=hovers,
            hovertemplate="%{text}<extra></extra>",
        )
    )
    for row, (choice, value) in enumerate(levels):
        figure.add_trace(
            go.Scatter(
                x=x[table[choice] == value],
                y=np.full(int((table[choice] == value).sum()), row),
                yaxis="y2",
                mode="markers",
                marker={"size": 7, "symbol": "square", "color": NEUTRAL},
                text=[hovers[place] for place in x[table[choice] == value]],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    share = CURVE / height
    # Room for a curve that stays near one rank.
    worst = min(n_heads, max(10, int(np.nanmax(table["rank"].to_numpy(dtype=float)) * 1.1)))
    figure.update_xaxes(showticklabels=False, ticks="", range=[-0.7, len(table) - 0.3], anchor="y2")
    figure.update_yaxes(
        title=f"rank of {n_heads}",
        domain=[1 - share, 1],
        range=[worst + 0.5, 0.5],
        tickvals=[1, worst // 2, worst],
        showgrid=True,
        gridcolor=FAINT,
    )
    figure.update_layout(
        yaxis2={
            "domain": [0, 1 - share - 0.04],
            "range": [len(levels) - 0.5, -0.5],
            "tickvals": list(range(len(levels))),
            "ticktext": [level_name(*level) for level in levels],
            "ticks": "",
            "showgrid": False,
            "zeroline": False,
        }
    )
    return figure


def is_other(prompt: str) -> bool:
    """Whether this is the wording of a prompt, with a place for the question, and no name for the task's own."""
    return "{question}" in prompt


def level_name(choice: str, value: str) -> str:
    if choice == "prompt" and not is_other(value):
        return f"{value} prompt"
    shown = value if len(value) <= LONGEST_NAME else f"{value[: LONGEST_NAME - 1]}…"
    return escape(shown, quote=False)


def hover(row: dict[str, object]) -> str:
    name = f"<b>{row['metric']}, {row['ablation']}, {row['estimator']}, {row['draw']}</b>"
    if is_other(str(row["prompt"])):
        name = f"{name}<br>{escape(str(row['prompt']), quote=False)}"
    if row["rank"] != row["rank"]:  # NaN
        return f"{name}<br>missing"
    mean, low, high = (signed(float(str(row[key]))) for key in ("mean_effect", "ci_low", "ci_high"))
    return f"{name}<br>rank {row['rank']:g}: {mean} {row['unit']} [{low}, {high}]"
