"""The body of the Heads page: the grid, and beside it the selected head in detail."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

import numpy as np
import streamlit as st
from jaxtyping import Float

from cap_viz.errors import CapVizError
from cap_viz.results import EvalReport, HeadScores
from cap_viz.stats import above_chance
from cap_viz.ui.figures import (
    CONFIG,
    Bars,
    Grid,
    colour_limit,
    example_strip,
    grid_width,
    head_grid,
    ranked_bars,
)
from cap_viz.ui.frame import Frame
from cap_viz.ui.heads_examples import example_panel, shown_example, strip_hover, take_example
from cap_viz.ui.heads_source import Source, known_shape, shape_of
from cap_viz.ui.jobs_view import job_view
from cap_viz.ui.loading import HeadStatistics, arrived_effects, scores_of, statistics_of
from cap_viz.ui.panels import GLOSSARY, METRIC_NAMES, METRIC_UNITS, caution, empty, problem, signed, tile
from cap_viz.ui.state import keep_in_range

TARGET_RELIABILITY = 0.8
MOST_BARS = 60
NOT_FOR_RANKING = ("accuracy",)
# What a positive and a negative effect mean, by metric.
MEANINGS = {
    "nll": ("makes the right answer less likely", "makes the right answer more likely"),
    "choice_nll": (
        "makes the right option less likely among the options",
        "makes the right option more likely among the options",
    ),
    "logit_diff": ("narrows the margin of the right option", "widens the margin of the right option"),
    "accuracy": ("adds errors", "removes errors"),
}


@dataclass(frozen=True)
class HeadView:
    """A finished run at one metric, ready to draw."""

    frame: Frame
    source: Source
    metric: str
    scores: HeadScores
    stats: HeadStatistics

    @property
    def unit(self) -> str:
        return METRIC_UNITS[self.metric]

    @property
    def n(self) -> int:
        return len(self.scores.questions)

    @property
    def n_heads(self) -> int:
        return self.stats.estimate.mean.size

    @property
    def ranks_heads(self) -> bool:
        return self.metric not in NOT_FOR_RANKING


def body(frame: Frame, source: Source, metric: str) -> None:
    """Grid and detail of a stored run, or the filling grid of a running one. Meant for `ticking`."""
    if source.job is not None:
        live_body(frame, source, metric)
        return
    assert source.run is not None
    try:
        scores = scores_of(frame.store, source.run)
        view = HeadView(frame, source, metric, scores, statistics_of(frame.store, source.run, metric))
    except CapVizError as error:
        problem(str(error))
        return
    baseline_banner(view)
    with st.container(key="heads_main"):
        left, right = st.columns([11, 10], gap="medium")
        # The inputs come first: the grid frames the head they hold.
        with right:
            layer, head = head_inputs(view.scores.n_layers, view.scores.n_heads)
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
    report = EvalReport(view.scores.questions, view.scores.dense)
    test = above_chance(report.correct, view.scores.questions.n_options)
    if not test.clearly_above and test.n >= 8:
        caution(
            f"On these {test.n} examples the intact model is right in {test.accuracy:.0%}, not clearly above guessing "
            f"({test.chance:.0%}): there may be little reasoning here for a head to carry."
        )


def reliability_sentence(view: HeadView) -> str:
    found = view.stats.reliability
    if not view.ranks_heads:
        return "Errors change on few questions: this view shows where, and is not used to rank heads."
    if found is None:
        return f"{view.n} examples: too few to tell how stable this ranking is (at least 4 are needed)."
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
        f"● {survivors} of {view.n_heads} heads survive the false-discovery control · ▲ beyond the colour scale · "
        "faded: the interval includes zero",
        help=GLOSSARY["fdr"],
    )


def show_grid(grid: Grid, unit: str, alt: str) -> None:
    # A new key after each use of the number inputs: Plotly would take a click on the cell it still holds as selected
    # for an unselect, and the click would be lost.
    turn = st.session_state.get("heads_turn", 0)
    key = f"heads_grid_{turn}"
    st.plotly_chart(
        head_grid(grid, unit=unit),
        key=key,
        width=grid_width(*grid.shape),
        config=CONFIG,
        on_select=lambda: take_click(key),
        selection_mode="points",
        alt=f"{alt}: {grid.mean.shape[0]} layers by {grid.mean.shape[1]} heads. The number inputs select one, too.",
    )


def take_click(key: str) -> None:
    """Copy a clicked head into the bound inputs; a cleared selection changes nothing."""
    event = st.session_state.get(key) or {}
    points = event.get("selection", {}).get("points", [])
    if points:
        address = points[0]["customdata"]
        st.session_state["layer"], st.session_state["head"] = int(address["0"]), int(address["1"])


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


def interval(low: float, high: float) -> str:
    return f"[{signed(low)}, {signed(high)}]" if np.isfinite(low) and np.isfinite(high) else "(no interval at n = 1)"


def selected_head() -> tuple[int, int]:
    return int(st.session_state.get("layer") or 0), int(st.session_state.get("head") or 0)


def head_inputs(n_layers: int, n_heads: int) -> tuple[int, int]:
    """The keyboard's way to a head; both are bound to the URL."""
    keep_in_range("layer", 0, n_layers - 1)
    keep_in_range("head", 0, n_heads - 1)
    first, second = st.columns(2)
    layer = first.number_input(
        f"Layer (0 to {n_layers - 1})", 0, n_layers - 1, key="layer", bind="query-params", on_change=next_turn
    )
    head = second.number_input(
        f"Head (0 to {n_heads - 1})",
        0,
        n_heads - 1,
        key="head",
        bind="query-params",
        on_change=next_turn,
        help=GLOSSARY["head"],
    )
    return int(layer), int(head)


def next_turn() -> None:
    st.session_state["heads_turn"] = st.session_state.get("heads_turn", 0) + 1


def detail(view: HeadView, layer: int, head: int) -> None:
    st.markdown(plain_sentence(view, layer, head))
    effect_tile, rank_tile, found_tile = st.columns(3)
    estimate, ranks, found = view.stats.estimate, view.stats.ranks, view.stats.found
    with effect_tile:
        tile(
            "Effect",
            signed(estimate.mean[layer, head]),
            f"{interval(estimate.low[layer, head], estimate.high[layer, head])}",
            term="effect",
        )
    with rank_tile:
        if view.ranks_heads:
            spread = f"of {view.n_heads} [{ranks.low[layer, head]}, {ranks.high[layer, head]}]"
            tile("Rank", f"{ranks.rank[layer, head]}", spread, term="rank")
        else:
            tile("Rank", "–", "not for ranking", term="rank")
    with found_tile:
        adjusted = found.adjusted[layer, head]
        verdict = "survives" if found.survives[layer, head] else "does not survive"
        known = np.isfinite(adjusted)
        tile(
            "q-value (FDR)",
            q_value(adjusted) if known else "–",
            verdict if known else "needs n > 1",
            term="fdr",
        )
    effects = view.stats.effects[layer, head]
    ids = view.scores.questions.ids
    figure = example_strip(
        effects,
        ids,
        strip_hover(view.frame, view.scores, effects, view.unit),
        mean=float(estimate.mean[layer, head]),
        low=float(estimate.low[layer, head]),
        high=float(estimate.high[layer, head]),
        unit=view.unit,
        selected=shown_example(ids, effects),
    )
    st.plotly_chart(
        figure,
        key="heads_strip",
        config=CONFIG,
        on_select=lambda: take_example("heads_strip", ids),
        selection_mode="points",
        alt="Effect of the selected head on every example",
    )
    st.caption(group_sentence(view, layer, head), help=GLOSSARY["kv_group"])


def q_value(adjusted: float) -> str:
    return "< 0.001" if adjusted < 0.001 else f"{adjusted:.2g}"


def plain_sentence(view: HeadView, layer: int, head: int) -> str:
    """What the measurement says, no more: it never claims what the head is for."""
    estimate = view.stats.estimate
    mean, low, high = (float(values[layer, head]) for values in (estimate.mean, estimate.low, estimate.high))
    act = "Removing" if view.source.spec.ablation == "zero" else "Replacing by its mean"
    subject = f"{act} **head {head} of layer {layer}**"
    number = f"**{signed(mean)} {view.unit}** {interval(low, high)}"
    if view.stats.unclear[layer, head]:
        return f"{subject} has no clear effect on these {view.n} examples: {number}."
    meaning = MEANINGS[view.metric][0 if mean > 0 else 1]
    return f"{subject} {meaning}: {number}{odds(view.metric, mean)}, mean of {view.n} examples."


def odds(metric: str, mean: float) -> str:
    """The same number as a factor, where it is one."""
    if metric != "nll":
        return ""
    return f", a factor of {exp(abs(mean)):.3g} per token"


def group_sentence(view: HeadView, layer: int, head: int) -> str:
    assert view.source.run is not None
    shape = shape_of(view.source.run)
    size = shape.n_heads // shape.n_kv_heads
    first = head // size * size
    others = [other for other in range(first, first + size) if other != head]
    if not others:
        return f"Head {head} has keys and values of its own."
    effects = ", ".join(f"head {other} ({signed(view.stats.estimate.mean[layer, other])})" for other in others)
    return f"Shares keys and values with {effects}: group {head // size + 1} of {shape.n_kv_heads} in this layer."


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


def live_body(frame: Frame, source: Source, metric: str) -> None:
    """The grid as it fills; when the job ends the whole page runs again and shows the stored run."""
    job = source.job
    assert job is not None
    if not job.active:
        st.rerun()
    job_view(job, key="heads")
    partial = job.progress.partial
    if isinstance(partial, HeadScores):
        live_grid(partial, metric)
        return
    left, right = st.columns([11, 10], gap="medium")
    with right:
        shape = known_shape(frame)
        if shape is not None:
            head_inputs(shape.n_layers, shape.n_heads)  # Drawn here as well, or the URL would lose the head.
    with left:
        empty("The first numbers appear soon", "The grid fills layer by layer once the model is loaded.")


def live_grid(partial: HeadScores, metric: str) -> None:
    effects = arrived_effects(partial, metric)
    counts = np.isfinite(effects).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counts > 0, np.nansum(effects, axis=-1) / counts, np.nan)
    left, right = st.columns([11, 10], gap="medium")
    with right:
        layer, head = head_inputs(partial.n_layers, partial.n_heads)
        st.markdown(live_sentence(mean, counts, layer, head, metric))
        st.caption("Intervals, ranks and examples follow when the run is complete.")
    with left:
        grid = Grid(
            mean=mean,
            limit=colour_limit(mean),
            hover=live_hover(mean, counts, METRIC_UNITS[metric]),
            selected=(layer, head),
        )
        show_grid(grid, METRIC_UNITS[metric], "Effects so far")


def live_sentence(mean: Float[np.ndarray, "layer head"], counts: np.ndarray, layer: int, head: int, metric: str) -> str:
    n = int(counts[layer, head])
    if n == 0:
        return f"**Head {head} of layer {layer}** has not been measured yet."
    examples = "example" if n == 1 else "examples"
    return f"**Head {head} of layer {layer}**: {signed(mean[layer, head])} {METRIC_UNITS[metric]} after {n} {examples}."


def live_hover(mean: Float[np.ndarray, "layer head"], counts: np.ndarray, unit: str) -> list[list[str]]:
    return [
        [
            f"<b>Layer {layer}, head {head}</b><br>"
            + (f"{signed(mean[layer, head])} {unit} after {counts[layer, head]}" if counts[layer, head] else "not yet")
            for head in range(mean.shape[1])
        ]
        for layer in range(mean.shape[0])
    ]
