"""Body of the Tasks page: all maps and their agreement, then shared heads, one head on every task, one pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st
from jaxtyping import Float
from streamlit.delta_generator import DeltaGenerator

from cap_viz.dashboard.components.head_map import head_inputs, turned
from cap_viz.dashboard.components.panels import age, empty, escaped, note, problem, provenance
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.detail import interval
from cap_viz.dashboard.state import clicked, go_button, link_here
from cap_viz.dashboard.tasks.controls import KEYS, RAW, SCALE_UNITS, STANDARDISED, TaskPair, controls
from cap_viz.dashboard.tasks.data import Collection, Measured, Pair, collect, pairs, shared_heads
from cap_viz.dashboard.tasks.own import added_note, own_tasks_popover
from cap_viz.dashboard.tasks.pair import pair_section
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.figures.head_grid import colour_limit
from cap_viz.figures.tasks import (
    AgreementMatrix,
    HeadOnTasks,
    Mosaic,
    TaskMap,
    agreement_matrix,
    head_on_tasks,
    mosaic_of,
    task_maps,
)
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.spreadsheet import csv_text

COLUMNS = 3
# Pixels for three maps; the matrix takes the rest of a laptop's width.
LEFT_WIDTH = 510
MAPS, MATRIX = "tasks_maps", "tasks_matrix"


def body(view: Frame) -> None:
    added_note(view.task.name)
    collection = collect(view)
    for sentence in collection.problems:
        note(sentence)
    if len(collection.measured) < 2:
        nothing_to_compare(view, collection)
        return
    choice = controls(collection, view.task.name)
    head_of_page(view, collection)
    found = pairs(collection.measured, choice.k)
    (maps, matrix), (table, one_head) = beside(), beside()
    # First, since its inputs select the head that the other figures frame.
    with one_head:
        selected = head_section(collection.measured)
    with maps:
        maps_section(collection.measured, choice, selected)
    with matrix:
        matrix_section(collection.measured, choice, found)
    with table:
        shared_section(collection.measured, choice)
    try:
        pair_section(view.store, choice, selected)
    except CapVizError as error:
        problem(str(error))


def beside() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Return two containers side by side; on a narrow screen the right one wraps below instead of both shrinking."""
    with st.container(horizontal=True, gap="medium"):
        return st.container(width=LEFT_WIDTH), st.container(width="stretch")


def nothing_to_compare(view: Frame, collection: Collection) -> None:
    stored = collection.measured[0].task.title if collection.measured else "no task"
    empty(
        "Nothing to compare yet",
        f"Head scores of {stored} are stored for {view.model.id}; at least two tasks are needed. Measure another on "
        f"the Heads page, or in the shell: python -m cap_viz score --model {view.model.id} --task mini_science",
    )
    with st.container(horizontal=True):
        go_button("Measure on the Heads page", "pages/heads.py", key="tasks_start", icon=":material/arrow_forward:")
        own_tasks_popover()


def head_of_page(view: Frame, collection: Collection) -> None:
    runs = [one.run for one in collection.measured]
    origins = sorted({run.origin for run in runs}, reverse=True)
    spec = runs[0].spec
    facts = [
        view.model.id,
        f"{len(runs)} tasks",
        f"exact, {spec.ablation} ablation",
        "answer loss (nll)",
        f"newest {age(max(run.provenance['created'] for run in runs))}",
    ]
    with st.container(horizontal=True, vertical_alignment="center"):
        provenance(facts, origin=" and ".join(origins))
        own_tasks_popover()
        with st.popover("Share", icon=":material/ios_share:"), st.container(width=360):
            st.caption("Link to this view")
            st.code(link_here(KEYS), language=None, wrap_lines=True)


def usual_head(measured: Sequence[Measured]) -> tuple[int, int]:
    """Return the head with the best median rank on reasoning tasks, selected when the page opens."""
    reasoning = [one for one in measured if not one.is_control] or list(measured)
    ranks = np.median([one.stats.estimate.rank for one in reasoning], axis=0)
    layer, head = divmod(int(ranks.argmin()), ranks.shape[1])
    return layer, head


def maps_section(measured: Sequence[Measured], choice: TaskPair, selected: tuple[int, int]) -> None:
    words = ablation_words(*(one.run.spec for one in measured))
    st.markdown(f"#### Effect of {words.doing} each head", help=GLOSSARY["effect"])
    values = [shown_values(one, choice.scale) for one in measured]
    maps = [task_map(one, shown) for one, shown in zip(measured, values, strict=True)]
    place, key = mosaic_of(maps, COLUMNS), turned(MAPS)
    st.plotly_chart(
        task_maps(
            maps,
            limit=colour_limit(*values),
            unit=choice.unit,
            ends=words.ends,
            columns=COLUMNS,
            selected=selected,
        ),
        key=key,
        config=CONFIG,
        on_select=lambda: take_head(key, place),
        selection_mode="points",
        alt=f"Effect of {words.doing} each head{words.by} on {len(maps)} tasks, on one scale; the table below "
        "names the largest.",
    )
    st.caption(
        "Layers from top to bottom, heads from left to right; behind each name the reliability of its ranking. "
        "● survives the false-discovery control · ▲ △ beyond the scale · faded: the interval includes zero"
    )


def shown_values(one: Measured, scale: str) -> Float[np.ndarray, "layer head"]:
    return one.stats.estimate.mean if scale == RAW else one.standardised


def task_map(one: Measured, values: Float[np.ndarray, "layer head"]) -> TaskMap:
    return TaskMap(
        name=one.task.title,
        heading=f"{one.task.title} <span style='opacity:0.65'>{reliability(one)}</span>",
        values=values,
        rank=one.stats.estimate.rank,
        faded=one.stats.estimate.unclear,
        marked=one.stats.estimate.survives,
    )


def reliability(one: Measured) -> str:
    found = one.stats.reliability
    return f"n = {one.n}" if found is None else f"{found.full:.2f}".replace("0.", ".", 1)


def take_head(key: str, place: Mosaic) -> None:
    """Select the clicked head on this page; every map frames it."""
    point = clicked(key)
    found = None if point is None else place.head_at(int(point["y"]), int(point["x"]))
    if found is not None:
        st.session_state["layer"], st.session_state["head"] = found


def matrix_section(measured: Sequence[Measured], choice: TaskPair, found: dict[tuple[str, str], Pair]) -> None:
    st.markdown("#### Agreement of the rankings", help=GLOSSARY["ceiling"])
    names = [one.name for one in measured]
    matrix = matrix_of(measured, choice, found)
    # A key per pair: the cell of the pair shown can be clicked again later.
    key = f"{MATRIX}_{choice.first.name}_{choice.second.name}"
    st.plotly_chart(
        agreement_matrix(matrix, height=470, dark=st.context.theme.type == "dark"),
        key=key,
        config=CONFIG,
        on_select=lambda: take_pair(key, names),
        selection_mode="points",
        alt="Rank correlation of every two tasks, with the reliability of each and the overlap of their top heads.",
    )
    st.caption(
        f"Below the diagonal: rank correlation of all heads. On it: reliability, the most a correlation could show. "
        f"Above: heads shared among the top {choice.k} "
        f"({choice.k**2 / measured[0].stats.estimate.rank.size:.1f} by chance). A click compares two tasks."
    )


def matrix_of(measured: Sequence[Measured], choice: TaskPair, found: dict[tuple[str, str], Pair]) -> AgreementMatrix:
    n = len(measured)
    values = np.zeros((n, n))
    text = [["" for _ in range(n)] for _ in range(n)]
    hover = [["" for _ in range(n)] for _ in range(n)]
    for i, first in enumerate(measured):
        full = np.nan if first.stats.reliability is None else first.stats.reliability.full
        values[i, i], text[i][i] = full, short(full)
        hover[i][i] = f"{first.task.title}: ranking reliability {short(full)} at n = {first.n}"
        for j in range(i + 1, n):
            second = measured[j]
            pair = found[first.name, second.name]
            names = f"{first.task.title} and {second.task.title}"
            values[j, i], text[j][i] = pair.ranks.correlation, short(pair.ranks.correlation)
            hover[j][i] = (
                f"{names}: rank correlation {short(pair.ranks.correlation)}, noise ceiling {short(pair.ranks.ceiling)}"
            )
            values[i, j], text[i][j] = pair.shared.shared / pair.shared.k, str(pair.shared.shared)
            hover[i][j] = (
                f"{names}: {pair.shared.shared} of the top {pair.shared.k} shared, {pair.shared.expected:.1f} by chance"
            )
    order = [one.name for one in measured]
    selected = tuple(sorted((order.index(choice.first.name), order.index(choice.second.name))))
    return AgreementMatrix([one.task.title for one in measured], values, text, hover, (selected[0], selected[1]))


def short(value: float) -> str:
    """Format a correlation without its leading zero, as papers print it."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.2f}".replace("0.", ".", 1).replace("-", "−")


def take_pair(key: str, names: Sequence[str]) -> None:
    """Select the two tasks of the clicked cell for comparison; a cell on the diagonal changes nothing."""
    point = clicked(key)
    if point is None:
        return
    first, second = names[int(point["y"])], names[int(point["x"])]
    if first != second:
        st.session_state["task"], st.session_state["against"] = first, second


def head_section(measured: Sequence[Measured]) -> tuple[int, int]:
    """Draw the inputs that select a head, and its effect on each task. Returns the selected head."""
    st.markdown("#### One head on every task")
    n_layers, n_heads = measured[0].stats.estimate.rank.shape
    layer, head = head_inputs(n_layers, n_heads, usual_head(measured))
    bounds = [
        (one.standardised[layer, head], *(limit[layer, head] / one.spread for limit in limits(one))) for one in measured
    ]
    value, low, high = (np.array(column) for column in zip(*bounds, strict=True))
    ranks = [int(one.stats.estimate.rank[layer, head]) for one in measured]
    unit = SCALE_UNITS[STANDARDISED]
    st.plotly_chart(
        head_on_tasks(
            HeadOnTasks([one.task.title for one in measured], value, low, high, [f"rank {rank}" for rank in ranks]),
            unit=unit,
        ),
        key="tasks_head",
        config=CONFIG,
        alt="; ".join(
            f"{one.task.title} {signed(x, 2)} {interval(lower, upper, 2)}, rank {rank}"
            for one, x, lower, upper, rank in zip(measured, value, low, high, ranks, strict=True)
        ),
    )
    go_button(
        "Inspect this head",
        "pages/heads.py",
        key="tasks_inspect",
        params={"layer": str(layer), "head": str(head)},
        icon=":material/grid_on:",
    )
    return layer, head


def limits(one: Measured) -> tuple[Float[np.ndarray, "layer head"], Float[np.ndarray, "layer head"]]:
    return one.stats.estimate.low, one.stats.estimate.high


def shared_section(measured: Sequence[Measured], choice: TaskPair) -> None:
    reasoning = [one for one in measured if not one.is_control]
    table = shared_heads(measured, choice.k)
    in_top = table["tasks"].to_numpy()
    everywhere, once = int((in_top == len(reasoning)).sum()), int((in_top == 1).sum())
    title, download = st.columns([3, 1], vertical_alignment="bottom")
    title.markdown(f"#### Heads among the top {choice.k}")
    download.download_button(
        "CSV",
        lambda: csv_text(table),
        f"heads-of-tasks-top{choice.k}.csv",
        "text/csv",
        icon=":material/download:",
        key="tasks_csv",
        on_click="ignore",
        width="stretch",
    )
    st.markdown(
        f"{len(table)} heads are among the top {choice.k} of some task; **{everywhere}** of all {len(reasoning)} "
        f"reasoning tasks, **{once}** of one only."
    )
    st.dataframe(
        table,
        height=282,
        hide_index=True,
        column_config={
            "tasks": st.column_config.ProgressColumn(
                "in the top of", format="%d", min_value=0, max_value=len(reasoning), color="#12887B"
            ),
            "median_rank": st.column_config.NumberColumn("median rank", format="%.1f"),
            **{f"rank_{one.name}": st.column_config.NumberColumn(one.task.title) for one in measured},
        },
    )
    n_heads = measured[0].stats.estimate.rank.size
    st.caption(
        f"Ranks by effect, 1 the largest of {n_heads}; the median is over reasoning tasks. "
        + escaped("A head of high rank on generic text, too, is no sign of reasoning.")
    )
