"""Small multiples of the Overview: a card per task other than the leading one, all on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from cap_viz.dashboard.components.panels import percent, percent_interval
from cap_viz.dashboard.names import METRIC_UNITS
from cap_viz.dashboard.overview.data import BestCriterion, TaskSummary
from cap_viz.dashboard.state import go_button
from cap_viz.dashboard.stored import HeadStatistics
from cap_viz.figures.head_grid import Grid, small_map
from cap_viz.figures.theme import CONFIG, HELPS, HURTS, signed
from cap_viz.pruning import criterion_title
from cap_viz.runs.run_labels import AblationWords, ablation_words
from cap_viz.stats import HeadEstimate

# Four to a row on a laptop, fewer where there is less room.
CARD_WIDTH = 212
# The Overview shows one metric, so that all maps share a unit and a scale.
UNIT = METRIC_UNITS["nll"]


def task_cards(summaries: Sequence[TaskSummary], limit: float, *, heading: str) -> None:
    st.markdown(f"#### {heading}")
    helps, hurts = ablation_words(*(one.score_run.spec for one in summaries if one.score_run is not None)).ends
    st.caption(
        f"One colour scale for all maps on this page: {coloured(HELPS, f'■ −{limit:.2g} {helps}')} · 0 · "
        f"{coloured(HURTS, f'■ +{limit:.2g} {hurts}')}, {UNIT}. Layers from top to bottom, heads from left to "
        "right."
    )
    with st.container(horizontal=True, gap="small"):
        for summary in summaries:
            with st.container(border=True, gap="xsmall", width=CARD_WIDTH):
                card(summary, limit)


def coloured(colour: str, text: str) -> str:
    return f':color[{text}]{{foreground="{colour}"}}'


def card(summary: TaskSummary, limit: float) -> None:
    st.markdown(f"**{summary.task.title}**", help=summary.task.summary)
    st.caption(baseline(summary))
    if summary.heads is None:
        st.caption("No head scores yet.")
        label, params = "Start a run", {}
    else:
        layer, head = summary.heads.estimate.top_head
        st.caption(reliability(summary.heads))
        if summary.best:
            st.caption(pruned_line(summary.best[-1]))
        draw_map(summary, summary.heads.estimate, limit)
        label, params = "Inspect its heads", {"layer": str(layer), "head": str(head)}
    task = summary.task.name
    go_button(
        label,
        "pages/heads.py",
        key=f"overview_heads_{task}",
        selection={"task": task},
        params=params,
        icon=":material/grid_on:",
    )


def baseline(summary: TaskSummary) -> str:
    """Describe the dense model's accuracy against chance, or its loss; always two lines, so that maps align."""
    if summary.loss is not None:
        mean, low, high = (float(value) for value in (summary.loss.mean, summary.loss.low, summary.loss.high))
        return f"Loss **{mean:.2f}** ({low:.2f} – {high:.2f})  \nnats per token; no accuracy"
    test = summary.dense
    if test is None:
        return "Accuracy not evaluated yet  \n(see Prune)"
    line = f"Accuracy **{percent(test.accuracy)}** ({percent_interval(test.ci)})"
    if test.clearly_above:
        return f"{line}  \nclearly above chance ({percent(test.chance)})"
    return f"{line}  \n:orange-badge[not clearly above {percent(test.chance)} chance]"


def reliability(heads: HeadStatistics) -> str:
    n, found = heads.estimate.n, heads.reliability
    value = "unknown" if found is None else f"**{found.full:.2f}**"
    return f"Ranking reliability {value}, n = {n}"


def pruned_line(best: BestCriterion) -> str:
    """Name the best criterion at the highest sparsity shown on the Overview."""
    pruned = f"{percent(best.sparsity, 0)} pruned:"
    if not best.above_chance:
        return f"{pruned} none clearly above chance"
    return f"{pruned} best **{percent(best.accuracy)}** ({criterion_title(best.criterion)})"


def draw_map(summary: TaskSummary, estimate: HeadEstimate, limit: float) -> None:
    assert summary.score_run is not None
    words = ablation_words(summary.score_run.spec)
    st.plotly_chart(
        small_map(effect_grid(estimate, words, limit)),
        key=f"overview_grid_{summary.task.name}",
        config=CONFIG,
        alt=f"Effect of {words.doing} each head{words.by} on {summary.task.title}",
    )


def effect_grid(estimate: HeadEstimate, words: AblationWords, limit: float | None = None, unit: str = UNIT) -> Grid:
    """Grid of mean effects, with their intervals on hovering."""
    mean, low, high = estimate.mean, estimate.low, estimate.high
    hover = [
        [
            f"<b>Layer {layer}, head {head}</b><br>{signed(mean[layer, head])} {unit} "
            f"[{signed(low[layer, head])}, {signed(high[layer, head])}]"
            for head in range(mean.shape[1])
        ]
        for layer in range(mean.shape[0])
    ]
    return Grid.of(estimate, hover=hover, ends=words.ends, limit=limit)
