"""Draw the study's tables:  python -m studies.figures [--model smollm2-135m-instruct-q4_1] [--out docs/results]

Saves a picture of each table that the stored runs allow and names the others. Needs Chromium.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from math import log10
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cap_viz.errors import UsageError
from cap_viz.figures.theme import criterion_colour, display_order
from cap_viz.models.catalogue import DEFAULT_MODEL, resolve
from cap_viz.pruning import criterion_title
from cap_viz.runs.store import Store
from cap_viz.settings import PROJECT
from cap_viz.stats.paired import ALPHA
from scripts.pictures import TEXT, save_picture
from studies.study import setting_of
from studies.tables import MARGIN, TABLES, Study

SPARSITY_COLOURS = {0.1: "#56B4E9", 0.2: "#0072B2", 0.3: "#009E73", 0.4: "#E69F00", 0.5: "#D55E00", 0.6: "#882255"}
LINE, LEGEND_LINE, PANEL_HEADS, LEAST_HEIGHT = 22, 32, 160, 320


Draw = Callable[[pd.DataFrame], go.Figure]


def panels(names: Sequence[str], title: str, x_title: str, *, shared_y: bool = True) -> go.Figure:
    figure = make_subplots(cols=len(names), shared_yaxes=shared_y, subplot_titles=list(names), horizontal_spacing=0.06)
    figure.update_layout(template="plotly_white", title=title, font=TEXT, margin={"l": 20, "r": 20, "t": 90, "b": 60})
    figure.update_xaxes(title=x_title)
    figure.update_yaxes(automargin=True)
    return figure


def differences(table: pd.DataFrame, title: str, labels: Sequence[str], *, unit: str = "points") -> go.Figure:
    """Plot paired differences with 95 % intervals: a panel per task, a line per comparison, a colour per sparsity.

    Marks are filled where a difference is clear: the interval excludes 0 and the adjusted test rejects.
    """
    tasks, scale = list(dict.fromkeys(table["task"])), 100 if unit == "points" else 1
    figure = panels(tasks, title, f"difference, {unit}")
    for column, task in enumerate(tasks, start=1):
        for sparsity, rows in of_task(table, task).groupby("sparsity"):
            found = (rows["p_holm"] < ALPHA) & (rows["difference_low"] * rows["difference_high"] > 0)
            middle = scale * rows["difference"]
            figure.add_scatter(
                x=middle,
                y=[line_of(row, labels) for _, row in rows.iterrows()],
                error_x={
                    "array": scale * rows["difference_high"] - middle,
                    "arrayminus": middle - scale * rows["difference_low"],
                    "thickness": 1.5,
                },
                mode="markers",
                marker={
                    "color": SPARSITY_COLOURS[float(str(sparsity))],
                    "size": 9,
                    "symbol": ["circle" if one else "circle-open" for one in found],
                },
                name=f"{float(str(sparsity)):.0%}",
                legendgroup=str(sparsity),
                showlegend=column == 1,
                row=1,
                col=column,
            )
    lines = [line_of(row, labels) for _, row in table.sort_values([*labels, "sparsity"]).iterrows()]
    figure.update_yaxes(categoryorder="array", categoryarray=list(dict.fromkeys(lines)), autorange="reversed")
    figure.update_layout(legend_title="sparsity")
    figure.add_vline(x=0, line={"color": "#555", "width": 1})
    return figure


def line_of(row: pd.Series, labels: Sequence[str]) -> str:
    """Name a line by the labels of its comparison and its sparsity."""
    said = {"criterion": criterion_title, "seed": "seed {}".format, "made_for": "mask for {}".format}
    words = [said.get(name, str)(row[name]) for name in labels]
    return " ".join([*words, f"{row['sparsity']:.0%}"])


def of_task(table: pd.DataFrame, task: str) -> pd.DataFrame:
    return pd.DataFrame(table[table["task"] == task])


def ordering(table: pd.DataFrame) -> go.Figure:
    """Plot the ordering by accuracy, with the margin of 3 points as a dotted line."""
    figure = by_accuracy("ordering")(table)
    figure.add_vline(x=100 * MARGIN, line={"color": "#999", "width": 1, "dash": "dot"})
    return figure


def levels(table: pd.DataFrame) -> go.Figure:
    """Plot accuracy against sparsity, a line for each criterion, from the dense model at 0 %."""
    tasks = list(dict.fromkeys(table["task"]))
    figure = panels(tasks, "Accuracy under every criterion", "sparsity, %")
    named = set()
    for column, task in enumerate(tasks, start=1):
        rows = of_task(table, task)
        (dense,) = rows.loc[rows["criterion"] == "dense", "accuracy"]
        for criterion in display_order([name for name in dict.fromkeys(rows["criterion"]) if name != "dense"]):
            mine = pd.DataFrame(rows[rows["criterion"] == criterion]).sort_values("sparsity")
            figure.add_scatter(
                x=[0, *(100 * mine["sparsity"])],
                y=[100 * dense, *(100 * mine["accuracy"])],
                mode="lines+markers",
                line={"color": criterion_colour(criterion), "width": 2},
                name=criterion_title(criterion),
                legendgroup=criterion,
                showlegend=criterion not in named,
                row=1,
                col=column,
            )
            named.add(criterion)
        here: Any = {"row": 1, "col": column}
        figure.add_hline(y=100 * rows["chance"].iloc[0], line={"dash": "dot", "color": "#888"}, **here)
    figure.update_yaxes(title="accuracy, %", row=1, col=1)
    return figure


def placebo(table: pd.DataFrame) -> go.Figure:
    """Plot CAP as a mark and the range of its permutations as a bar."""
    names = list(dict.fromkeys(table["measure"]))
    figure = panels(names, "CAP and permutations of its own head scores", "value")
    for column, name in enumerate(names, start=1):
        rows = table[table["measure"] == name]
        sparsities = [f"{value:.0%}" for value in rows["sparsity"]]
        figure.add_scatter(
            x=rows["median"],
            y=sparsities,
            error_x={"array": rows["highest"] - rows["median"], "arrayminus": rows["median"] - rows["lowest"]},
            mode="markers",
            marker={"color": "#888", "symbol": "line-ns-open", "size": 12},
            name="permutations: range and median",
            showlegend=column == 1,
            row=1,
            col=column,
        )
        figure.add_scatter(
            x=rows["cap"],
            y=sparsities,
            mode="markers",
            marker={"color": criterion_colour("cap"), "size": 11, "symbol": "diamond"},
            name="CAP",
            showlegend=column == 1,
            row=1,
            col=column,
        )
    return figure


def survivors(table: pd.DataFrame) -> go.Figure:
    """Plot the share of weights kept by the tenth of heads with the largest effects, beside that of all heads."""
    tasks = list(dict.fromkeys(table["task"]))
    figure = panels(tasks, "Weights kept by the tenth of heads with the largest effects", "sparsity, %")
    for column, task in enumerate(tasks, start=1):
        rows = of_task(table, task)
        for criterion in dict.fromkeys(rows["criterion"]):
            mine = rows[rows["criterion"] == criterion]
            for name, dash in (("first_tenth_keeps", "solid"), ("all_keep", "dot")):
                figure.add_scatter(
                    x=100 * mine["sparsity"],
                    y=100 * mine[name],
                    mode="lines+markers",
                    line={"color": criterion_colour(criterion), "dash": dash},
                    name=f"{criterion_title(criterion)}, {'first tenth' if dash == 'solid' else 'all heads'}",
                    legendgroup=f"{criterion} {name}",
                    showlegend=column == 1,
                    row=1,
                    col=column,
                )
    figure.update_yaxes(title="kept, %", row=1, col=1)
    return figure


def under_masks(table: pd.DataFrame, title: str, value: str, x_title: str, *, log: bool) -> go.Figure:
    """Plot perplexity or loss under every criterion with its interval; the dense model as a line."""
    figure = panels([""], title, x_title)
    dense = table[table["criterion"] == "dense"].iloc[0]
    pruned = table[table["criterion"] != "dense"]
    for sparsity, rows in pruned.groupby("sparsity"):
        figure.add_scatter(
            x=rows[value],
            y=[criterion_title(name) for name in rows["criterion"]],
            error_x={"array": rows["high"] - rows[value], "arrayminus": rows[value] - rows["low"]},
            mode="markers",
            marker={"color": SPARSITY_COLOURS[float(str(sparsity))], "size": 9},
            name=f"{float(str(sparsity)):.0%}",
        )
    figure.add_vline(x=dense[value], line={"color": "#555", "width": 1, "dash": "dot"})
    # On a logarithmic axis shapes are placed by the value, texts by its logarithm.
    place = log10(dense[value]) if log else dense[value]
    figure.add_annotation(x=place, y=1, yref="paper", yanchor="bottom", text="dense", showarrow=False)
    figure.update_layout(legend_title="sparsity")
    if log:
        figure.update_xaxes(type="log", tickvals=[lead * 10**power for power in range(5) for lead in (1, 2, 5)])
    return figure


# Title and line labels of each table of paired differences; the title says what is subtracted from what.
PAIRED_FIGURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ordering": ("CAP minus the better Wanda", ()),
    "rest": ("Other criteria minus the better Wanda", ("criterion",)),
    "causality": ("CAP minus plain global magnitude", ()),
    "calibration": ("Calibrated on the task minus on text", ("criterion",)),
    "score_choices": ("CAP minus CAP by other head scores", ("instead",)),
    "seeds": ("CAP minus Wanda by calibration seed", ("seed",)),
    "transfer": ("Mask made for the task minus mask made for another", ("criterion", "made_for")),
}


def by_accuracy(name: str) -> Draw:
    title, labels = PAIRED_FIGURES[name]
    return lambda table: differences(table, f"{title}, accuracy", labels)


def by_loss(name: str) -> Draw:
    title, labels = PAIRED_FIGURES[name]
    return lambda table: differences(table, f"{title}, choice loss (below 0: better)", labels, unit="nats")


FIGURES: dict[str, Draw] = {
    **{name: by_accuracy(name) for name in PAIRED_FIGURES},
    **{f"{name}_loss": by_loss(name) for name in PAIRED_FIGURES},
    "ordering": ordering,
    "levels": levels,
    "placebo": placebo,
    "generic": lambda table: under_masks(
        table, "Running text under the masks of the task", "perplexity", "perplexity", log=True
    ),
    "survivors": survivors,
    "solutions": lambda table: under_masks(
        table, "Worked solutions under their masks", "loss", "loss, nats per token", log=False
    ),
    "weak": lambda table: differences(table, "Minus Wanda, choice loss (below 0: better)", ("criterion",), unit="nats"),
}


def height_of(figure: go.Figure) -> int:
    """Return the height in pixels that fits every line of the panels and the legend."""
    traces: Any = figure.data
    lines = len({label for trace in traces for label in trace.y if isinstance(label, str)})
    names = len({trace.name for trace in traces})
    return max(LEAST_HEIGHT, PANEL_HEADS + lines * LINE, PANEL_HEADS + names * LEGEND_LINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "results")
    options = parser.parse_args()
    ref = resolve(options.model).ref
    study = Study(Store(), ref, setting_of(ref))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        try:
            table = TABLES[name](study)
        except UsageError as error:
            print(f"{name}: not drawn. {error}")
            continue
        if table.empty:
            continue
        figure = draw(table)
        file = options.out / f"{options.model}-{name}.png"
        save_picture(figure, file, height=height_of(figure))
        print(file)


if __name__ == "__main__":
    main()
