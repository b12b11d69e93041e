"""Effects of whole attention layers and MLPs: two columns beside the head grid, on a separate colour scale.

A whole block has a far larger effect than one head, so a shared colour scale would leave the heads white.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from jaxtyping import Float

from cap_viz.attribution.results import BLOCK_PARTS
from cap_viz.dashboard.components.panels import problem
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.source import submitting, watch
from cap_viz.errors import CapVizError
from cap_viz.figures.head_grid import cells, colour_limit
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.scores import load_blocks
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import block_run, block_spec
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.stats import HeadEstimate, mean_with_ci

# Fractions of the figure's width: the two columns, and the gap between them and the head grid.
SHARE, GAP = 0.16, 0.03


def block_effects(store: Store, spec: ScoreSpec, metric: str) -> HeadEstimate | None:
    """Return the effects of whole blocks on the examples of these head scores; None if not stored or not readable."""
    run = block_run(store, spec)
    if run is None:
        return None
    try:
        return mean_with_ci(load_blocks(store, run).effects(metric))
    except CapVizError as error:
        problem(str(error))
        return None


def add_blocks(figure: go.Figure, estimate: HeadEstimate, unit: str) -> None:
    """Add the two columns to the right of the head grid; colours saturate at their own `colour_limit`."""
    heads = 1 - SHARE - GAP
    mean, limit = estimate.mean, colour_limit(estimate.mean)
    for annotation in figure.layout.annotations:
        annotation.x *= heads
    figure.update_traces(colorbar={"len": heads, "x": heads / 2}, selector={"type": "heatmap", "showscale": True})
    for layer in (*cells(mean, estimate.unclear, limit), hover_layer(estimate, unit)):
        figure.add_trace(layer.update(xaxis="x2"))
    figure.update_layout(
        xaxis={"domain": [0, heads]},
        xaxis2={
            "domain": [1 - SHARE, 1],
            "anchor": "y",
            "tickvals": [0, 1],
            "ticktext": ["attn", "MLP"],
            "range": [-0.5, 1.5],
            "ticks": "",
            "tickfont": {"size": 11},
            "title": {"text": "whole", "standoff": 6},
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
    )
    figure.add_annotation(
        x=1 - SHARE / 2,
        y=1.0,
        xref="paper",
        yref="paper",
        yshift=20,
        text=f"±{limit:.2g}",
        showarrow=False,
        font={"size": 11},
    )


def hover_layer(estimate: HeadEstimate, unit: str) -> go.Heatmap:
    texts = [
        [
            f"<b>Layer {layer}, whole {name}</b><br>{signed(estimate.mean[layer, part])} {unit} "
            f"[{signed(estimate.low[layer, part])}, {signed(estimate.high[layer, part])}]"
            for part, name in enumerate(BLOCK_PARTS)
        ]
        for layer in range(estimate.mean.shape[0])
    ]
    clear: Float[np.ndarray, "layer part"] = np.zeros(estimate.mean.shape)
    return go.Heatmap(
        z=clear,
        colorscale=[[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]],
        showscale=False,
        text=texts,
        hovertemplate="%{text}<extra></extra>",
    )


def offer_blocks(frame: Frame, spec: ScoreSpec) -> None:
    """Draw a button that measures the two columns, if the model and texts are local and no run is stored."""
    if not frame.installed or not frame.task.is_local() or block_run(frame.store, spec) is not None:
        return
    words = ablation_words(spec)
    st.button(
        "Measure whole attention layers and MLPs, too",
        key="heads_blocks_start",
        type="tertiary",
        icon=":material/view_column:",
        on_click=submit,
        args=(spec,),
        help="Two more columns on the same examples: the effect of "
        f"{words.doing} the output of all heads of a layer, or of its MLP{words.each}.",
    )


def submit(spec: ScoreSpec) -> None:
    with submitting():
        watch(block_spec(spec), f"Whole layers, {spec.examples.task}, n = {len(spec.examples.ids)}")
