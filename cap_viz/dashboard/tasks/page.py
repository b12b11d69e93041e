"""Body of the Tasks page: two tasks and all agreements first, then one head on every task, shared heads, all maps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.chart import chart
from cap_viz.dashboard.components.head_map import Head, difference_scatter, head_boxes, head_map, pick_head
from cap_viz.dashboard.components.panels import empty, note, p_words, problems_told, provenance_of
from cap_viz.dashboard.components.share import Download, share
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.data import SPECIFICITY_UNIT, agreement, shared_top
from cap_viz.dashboard.names import metric_title, model_name, task_name
from cap_viz.dashboard.selection import Selection, choose, go_button
from cap_viz.dashboard.stored import specificity_of
from cap_viz.dashboard.tasks.data import (
    METRIC,
    SCALE_UNITS,
    STANDARDISED,
    Measured,
    TaskPair,
    collect,
    pair_table,
    reasoning,
    shared_heads,
)
from cap_viz.dashboard.tasks.own import own_tasks_popover, unscored
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.head_grid import Grid, colour_limit
from cap_viz.figures.tasks import AgreementMatrix, HeadOnTasks, agreement_matrix, head_on_tasks
from cap_viz.figures.thumbnail import thumbnail
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store
from cap_viz.stats import Specificity, usual_top
from cap_viz.tasks.readable import CONTROL_TEXTS

# Pixels for three maps; the matrix takes the rest of a laptop's width.
LEFT_WIDTH = 552
MAP_WIDTH, MAP_HEIGHT, THUMBNAIL = 172, 392, (117, 120)
MATRIX = "tasks_matrix"


def tasks_page(view: Frame) -> None:
    measured, problems = collect(view)
    for sentence in problems:
        note(sentence)
    names = [one.name for one in measured]
    is_comparable = len(measured) >= 2
    if view.task.name not in names:
        unscored(view.task, measured[0].title if is_comparable else "")
    if not is_comparable:
        nothing_to_compare(view, measured)
        return
    made = f"exact, {measured[0].run.spec.ablation} ablation"
    facts = [model_name(view.model.id), f"{len(measured)} tasks", made, metric_title(METRIC).lower()]
    provenance_of([one.run for one in measured], view.runs, facts)
    choice = task_pair(view.selection, measured, names.index(view.task.name) if view.task.name in names else 0)
    shared, agreements = shared_heads(measured, choice.k), pair_table(measured, choice.k)
    answer = st.container()
    # On a narrow screen the right one wraps below the left one, instead of both shrinking.
    with st.container(horizontal=True, gap="medium"):
        left, right = st.container(width=LEFT_WIDTH), st.container(width="stretch")
    with left:
        maps = st.container()
        # Before the maps, since its boxes select the head that they frame.
        layer, head = shared[["layer", "head"]].to_numpy()[0].tolist()
        selected = head_section(view.selection, measured, default=(layer, head))
        all_maps(measured, choice, selected)
    difference = None
    with answer, problems_told():
        difference = specificity_of(view.store, choice.first.run, choice.second.run)
        st.markdown(pair_sentence(choice, difference), help=GLOSSARY["fdr"])
    with maps:
        pair_maps(choice, difference, selected)
    with right:
        matrix_section(measured, choice, agreements)
        shared_section(measured, choice.k, shared, agreements)
        if difference is not None:
            st.markdown(f"#### {choice.first.title} against {choice.second.title}", help=GLOSSARY["difference"])
            pair_scatter(choice, difference, selected)


def nothing_to_compare(view: Frame, measured: Sequence[Measured]) -> None:
    stored = measured[0].title if measured else "no task"
    empty(
        "Nothing to compare yet",
        f"Head scores of {stored} are stored for {model_name(view.model.id)}; at least two tasks are needed. Measure "
        "another on the Heads page, or in the shell: "
        f"python -m cap_viz score --model {view.model.id} --task mini_science",
    )
    with st.container(horizontal=True):
        go_button("Measure on the Heads page", "heads", key="tasks_start")
        own_tasks_popover()


def task_pair(selection: Selection, measured: Sequence[Measured], place: int) -> TaskPair:
    """Draw the controls, with the page's menus beside them. The first task of the pair is the one at this place."""
    n_heads, first = measured[0].estimate().rank.size, measured[place]
    others = {one.name: one for one in measured if one is not first}
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        with st.container(width=216):
            second = selection.selectbox(
                f"Compare {first.title} with",
                "against",
                list(others),
                default=next((name for name in CONTROL_TEXTS if name in others), None),
                names=task_name,
                help="The first task of the comparison is the one in the sidebar. A click on the matrix sets both.",
            )
        with st.container(width=196):
            help = GLOSSARY["scale"]
            scale = selection.segmented("Scale of the maps", "scale", tuple(SCALE_UNITS), width="stretch", help=help)
        with st.container(width="stretch"):
            help = "How many heads with the largest effects are compared; a tenth of all unless you say otherwise."
            k = selection.slider("Heads in the top", "k", 1, n_heads // 2, default=usual_top(n_heads), help=help)
        own_tasks_popover()
        with st.container(width=104):
            file = f"heads-of-tasks-top{k}.csv"
            share("tasks", [Download("Heads as CSV", lambda: csv_text(shared_heads(measured, k)), file, "text/csv")])
    return TaskPair(first, others[second], scale, k)


def matrix_section(measured: Sequence[Measured], choice: TaskPair, agreements: pd.DataFrame) -> None:
    st.markdown("**Agreement of the rankings**", help=GLOSSARY["ceiling"])
    names = [one.name for one in measured]
    # A key per pair: the cell of the pair shown can be clicked again later.
    key = f"{MATRIX}_{choice.first.name}_{choice.second.name}"
    chart(
        partial(agreement_matrix, matrix_of(measured, choice, agreements)),
        key=key,
        on_pick=lambda: take_pair(key, names),
        alt="Rank correlation of every two tasks, with the reliability of each; below it the table of pairs.",
    )
    st.caption(
        "Rank correlation of all heads; on the diagonal the reliability of a ranking. A click compares two tasks."
    )


def matrix_of(measured: Sequence[Measured], choice: TaskPair, agreements: pd.DataFrame) -> AgreementMatrix:
    """Arrange the table of pairs as a matrix, with the reliability of each ranking on the diagonal."""
    known = [np.nan if one.stats.reliability is None else one.stats.reliability.full for one in measured]
    values, ceilings, upper = np.diag(known), np.diag(known), np.triu_indices(len(measured), 1)
    for matrix, column in ((values, "correlation"), (ceilings, "ceiling")):
        matrix[upper] = matrix.T[upper] = agreements[column]
    names = [one.name for one in measured]
    selected = names.index(choice.first.name), names.index(choice.second.name)
    return AgreementMatrix([one.title for one in measured], values, ceilings, selected)


def take_pair(key: str, names: Sequence[str]) -> None:
    """Select the two tasks of the clicked cell for comparison; a cell on the diagonal changes nothing."""
    points = st.session_state[key]["selection"]["points"]
    if not points:
        return
    first, second = names[int(points[0]["y"])], names[int(points[0]["x"])]
    if first != second:
        choose({"task": first, "against": second, "n": None})


def head_section(selection: Selection, measured: Sequence[Measured], default: Head) -> Head:
    """Draw the boxes that select a head, and its effect on each task. Returns the selected head."""
    n_layers, n_heads = measured[0].estimate().rank.shape
    st.markdown("#### One head on every task")
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        layer, head = head_boxes(selection, n_layers, n_heads, default=default)
        params = {"layer": layer, "head": head}
        go_button("Open it on Heads", "heads", key="tasks_inspect", params=params)
    estimates = [one.estimate(STANDARDISED) for one in measured]
    at = (layer, head)
    value, low, high = np.array([(one.mean[at], one.low[at], one.high[at]) for one in estimates]).T
    ranks = [f"rank {one.rank[at]}" for one in estimates]
    shown = HeadOnTasks([one.title for one in measured], value, low, high, ranks, SCALE_UNITS[STANDARDISED])
    chart(partial(head_on_tasks, shown), key="tasks_head", alt="; ".join(shown.sentences))
    return at


def shared_section(measured: Sequence[Measured], k: int, shared: pd.DataFrame, agreements: pd.DataFrame) -> None:
    n_tasks, in_top = len(reasoning(measured)), shared["tasks"].to_numpy()
    everywhere, once = int((in_top == n_tasks).sum()), int((in_top == 1).sum())
    st.markdown(f"#### Heads among the top {k}")
    st.markdown(
        f"**{everywhere}** of {len(shared)} are in the top of all {n_tasks} reasoning tasks, **{once}** in that of "
        "one only.",
        help="Ranks by effect, 1 the largest; the median is over reasoning tasks. A head of high rank on generic text, "
        "too, is no sign of reasoning.",
    )
    number, bar = st.column_config.NumberColumn, st.column_config.ProgressColumn
    heads, counts = st.tabs(["Heads", "Pairs of tasks"])
    heads.dataframe(
        shared,
        height=226,
        hide_index=True,
        column_config={
            "tasks": bar("in the top of", format="%d", min_value=0, max_value=n_tasks, color="#12887B"),
            "median_rank": number("median rank", format="%.1f"),
            **{f"rank_{one.name}": number(one.title) for one in measured},
        },
    )
    counts.dataframe(
        agreements,
        height=226,
        hide_index=True,
        column_config={
            "correlation": number("rank correlation", format="%.2f"),
            "ceiling": number("noise ceiling", format="%.2f"),
            "shared": f"shared of {k}",
            "by_chance": number("by chance", format="%.1f"),
        },
    )


def all_maps(measured: Sequence[Measured], choice: TaskPair, selected: Head) -> None:
    """Draw every task's map small, on one scale, the selected head framed; its name compares the task."""
    estimates = [one.estimate(choice.scale) for one in measured]
    limit = colour_limit(*(estimate.mean for estimate in estimates))
    words = ablation_words(*(one.run.spec for one in measured))
    st.markdown(f"#### Effect of {words.doing} each head{words.by}", help=GLOSSARY["effect"])
    st.caption(f"All on one scale of ± {limit:.2g} {SCALE_UNITS[choice.scale]}. A name compares the task.")
    with st.container(horizontal=True, gap="small"):
        for one, estimate in zip(measured, estimates, strict=True):
            with st.container(width=THUMBNAIL[0] + 8, gap=None):
                st.button(
                    one.title,
                    key=f"tasks_compare_{one.name}",
                    type="tertiary",
                    disabled=one.name in (choice.first.name, choice.second.name),
                    on_click=choose,
                    args=({"against": one.name},),
                )
                title = f"Head map of {one.title}"
                st.html(thumbnail(estimate.mean, estimate.unclear, title, limit, size=THUMBNAIL, selected=selected))
                found = one.stats.reliability
                st.caption(f"n = {estimate.n}" if found is None else f"reliability {found.full:.2f}")


def pair_section(store: Store, choice: TaskPair) -> None:
    """Draw the whole comparison of two tasks or runs. Raises `CapVizError` if the two runs are too small to compare."""
    found = specificity_of(store, choice.first.run, choice.second.run)
    st.markdown(pair_sentence(choice, found), help=GLOSSARY["difference"])
    maps, scatter = st.columns([14, 8], gap="medium")
    with maps:
        pair_maps(choice, found, None)
    with scatter:
        pair_scatter(choice, found, None)


def pair_scatter(choice: TaskPair, found: Specificity, selected: Head | None) -> None:
    names = choice.first.title, choice.second.title
    difference_scatter(found, names, selected, key="tasks_scatter", height=MAP_HEIGHT)


def pair_sentence(choice: TaskPair, found: Specificity) -> str:
    first, second = choice.first, choice.second
    ranks = agreement(first.stats, second.stats)
    shared = shared_top(first.stats, second.stats, choice.k)
    more, less = (int((found.survives & side).sum()) for side in (found.mean > 0, found.mean < 0))
    ceiling = f" of at most {ranks.ceiling:.2f}" if np.isfinite(ranks.ceiling) else ""
    correlation = f"{ranks.correlation:.2f}".replace("-", "−")
    return (
        f"**{shared.shared}** of the top {shared.k} heads are shared ({shared.expected:.1f} by chance, "
        f"p {p_words(shared.p_value)}); **{more}** matter more to {first.title}, **{less}** more to "
        f"{second.title}. Rank correlation **{correlation}**{ceiling}."
    )


def pair_maps(choice: TaskPair, found: Specificity | None, selected: Head | None) -> None:
    """Draw both tasks on one scale, and their difference where there is one; a click selects a head."""
    both, unit = (choice.first, choice.second), SCALE_UNITS[choice.scale]
    first, second = (one.title for one in both)
    ends = ablation_words(*(one.run.spec for one in both)).ends
    estimates = [one.estimate(choice.scale) for one in both]
    limit = colour_limit(*(one.mean for one in estimates))
    with st.container(horizontal=True, gap="small"):
        for key, title, estimate in zip(("tasks_first", "tasks_second"), (first, second), estimates, strict=True):
            grid = Grid.of(estimate, ends=ends, limit=limit, selected=selected, digits=2)
            titled_map(grid, key, title, f"Effect of each head on {title}", unit)
        if found is not None:
            sides, also = (f"more on {second}", f"more on {first}"), {first: found.task, second: found.control}
            grid = Grid.of(found, ends=sides, selected=selected, also=also, digits=2)
            label = f"Difference of the standardised effects, {first} minus {second}"
            titled_map(grid, "tasks_difference", "Difference", label, SPECIFICITY_UNIT)
    st.caption(
        f"Teal: {ends[1]}, brown: {ends[0]}, up to ± {limit:.2g} {unit}; in the difference, teal: more on {first}. "
        "● beyond chance, ▲ beyond the scale, faded: the interval includes zero.",
        help=GLOSSARY["difference"],
    )


def titled_map(grid: Grid, key: str, title: str, label: str, unit: str) -> None:
    with st.container(width=MAP_WIDTH, gap="xsmall"):
        st.markdown(f"**{title}**")
        head_map(grid, key=key, unit=unit, label=label, on_pick=pick_head, small=True, tallest=MAP_HEIGHT)
