"""The body of the Heads page: the grid, the selected head beside it, ranked heads and examples below."""

from __future__ import annotations

import numpy as np
import streamlit as st

from cap_viz.accuracy import against_guessing
from cap_viz.errors import CapVizError
from cap_viz.results import EvalReport
from cap_viz.ui.figures import CONFIG, Bars, Grid, colour_limit, ranked_bars
from cap_viz.ui.frame import Frame
from cap_viz.ui.heads_detail import HeadView, count, detail, interval
from cap_viz.ui.heads_examples import example_panel
from cap_viz.ui.heads_grid import head_inputs, selected_head, show_grid, take_click
from cap_viz.ui.heads_live import live_body
from cap_viz.ui.heads_source import Source
from cap_viz.ui.loading import report_of, scores_of, statistics_of
from cap_viz.ui.overview_data import dense_evaluation
from cap_viz.ui.panels import GLOSSARY, METRIC_NAMES, caution, problem, signed

TARGET_RELIABILITY = 0.8
MOST_BARS = 60
FEWEST_FOR_BANNER = 8


def body(frame: Frame, source: Source, metric: str) -> None:
    """Grid and detail of a stored run, or the filling grid of a running one. Meant for `ticking`."""
    if source.job is not None:
        live_body(frame, source, metric)
        return
    assert source.run is not None
    try:
        scores = scores_of(frame.store, source.run)
        view = HeadView(frame, source, metric, scores, statistics_of(frame.store, source.run, metric))
        baseline_banner(view)
    except CapVizError as error:
        problem(str(error))
        return
    left, right = st.columns([11, 10], gap="medium")
    # The inputs come first: the grid frames the head they hold.
    with right:
        layer, head = head_inputs(view.scores.n_layers, view.scores.n_heads, top_head(view))
        detail(view, layer, head)
    with left:
        st.markdown(reliability_sentence(view), help=GLOSSARY["reliability"])
        draw_grid(view, (layer, head))
    lower_left, lower_right = st.columns([11, 10], gap="medium")
    with lower_left:
        ranking(view)
    with lower_right:
        example_panel(view.frame, view.scores, view.stats.effects, view.unit, *selected_head())


def baseline_banner(view: HeadView) -> None:
    """Say when the intact model does no better than guessing, judged by its stored accuracy, else on these examples."""
    run = dense_evaluation(view.frame, view.frame.task)
    report = EvalReport(view.scores.questions, view.scores.dense)
    if run is not None:
        report = report_of(view.frame.store, run)
    test = against_guessing(view.frame.task, report)
    if not test.clearly_above and test.n >= FEWEST_FOR_BANNER:
        caution(
            f"The intact model is right on {test.accuracy:.0%} of {test.n} questions, not clearly above guessing "
            f"({test.chance:.0%}): there may be little here for a head to carry."
        )


def reliability_sentence(view: HeadView) -> str:
    found = view.stats.reliability
    if not view.ranks_heads:
        return "Errors change on few questions: this view shows where, and is not used to rank heads."
    if found is None:
        return f"{count(view.n)}: too few to tell how stable this ranking is (at least 4 are needed)."
    needed = found.n_for(TARGET_RELIABILITY)
    if found.full >= TARGET_RELIABILITY:
        outlook = "stable under other examples"
    elif needed is None:
        outlook = "other examples would give another ranking"
    else:
        outlook = f"about {needed} examples would reach {TARGET_RELIABILITY}"
    return f"Ranking reliability **{found.full:.2f}** at n = {view.n}: {outlook}."


def draw_grid(view: HeadView, selected: tuple[int, int]) -> None:
    estimate = view.stats.estimate
    grid = Grid(
        mean=estimate.mean,
        limit=colour_limit(estimate.mean),
        hover=hover_sentences(view),
        faded=view.stats.unclear,
        marked=view.stats.found.survives,
        selected=selected,
    )
    show_grid(grid, view.unit, f"Effect of removing each head, {METRIC_NAMES[view.metric]}")
    survivors = int(view.stats.found.survives.sum())
    st.caption(
        f"● {survivors} of {view.n_heads} heads survive the false-discovery control · ▲ △ beyond the colour scale · "
        "faded: the interval includes zero",
        help=GLOSSARY["fdr"],
    )


def hover_sentences(view: HeadView) -> list[list[str]]:
    n_layers, n_heads = view.stats.estimate.mean.shape
    return [[hover_sentence(view, layer, head) for head in range(n_heads)] for layer in range(n_layers)]


def hover_sentence(view: HeadView, layer: int, head: int) -> str:
    estimate, ranks = view.stats.estimate, view.stats.ranks
    verb = "hurts" if estimate.mean[layer, head] > 0 else "helps"
    clear = "no clear effect" if view.stats.unclear[layer, head] else f"removing it {verb}"
    rank = f"<br>rank {ranks.rank[layer, head]} of {view.n_heads}" if view.ranks_heads else ""
    return (
        f"<b>Layer {layer}, head {head}</b>: {clear}<br>{signed(estimate.mean[layer, head])} {view.unit} "
        f"{interval(estimate.low[layer, head], estimate.high[layer, head])}{rank}"
    )


def top_head(view: HeadView) -> tuple[int, int]:
    """The head of rank 1, which the page opens with."""
    layer, head = np.unravel_index(int(np.argmin(view.stats.ranks.rank)), view.stats.ranks.rank.shape)
    return int(layer), int(head)


def ranking(view: HeadView) -> None:
    """The heads with the largest effects, as bars with whiskers."""
    title, slider = st.columns([1, 1], vertical_alignment="center")
    title.markdown("#### Ranked heads", help=GLOSSARY["rank"])
    if not view.ranks_heads:
        st.caption("Choose another metric to rank heads: errors are too coarse for it.")
        return
    most = min(MOST_BARS, view.n_heads)
    top = most if most <= 5 else slider.slider("Heads shown", 5, most, min(25, most), key="heads_top")
    order = np.argsort(view.stats.ranks.rank, axis=None)[: int(top)]
    layers, heads = np.unravel_index(order, view.stats.ranks.rank.shape)
    address = np.stack([layers, heads], axis=1)
    chosen = [i for i, pair in enumerate(address.tolist()) if tuple(pair) == selected_head()]
    estimate = view.stats.estimate
    bars = Bars(
        labels=[f"L{layer} H{head}" for layer, head in address],
        mean=estimate.mean[layers, heads],
        low=estimate.low[layers, heads],
        high=estimate.high[layers, heads],
        address=address,
        selected=chosen[0] if chosen else None,
    )
    st.plotly_chart(
        ranked_bars(bars, unit=view.unit),
        key="heads_ranked",
        config=CONFIG,
        on_select=lambda: take_click("heads_ranked"),
        selection_mode="points",
        alt="Heads with the largest effects, with 95 % confidence intervals",
    )
