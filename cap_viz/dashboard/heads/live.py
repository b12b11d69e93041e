"""Heads page while its run is being computed: progress, and the grid as it fills."""

from __future__ import annotations

import numpy as np
import streamlit as st
from jaxtyping import Float

from cap_viz.attribution.results import HeadScores
from cap_viz.dashboard.components.head_map import head_inputs, last_start, show_grid
from cap_viz.dashboard.components.job_card import job_view
from cap_viz.dashboard.components.panels import empty
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.source import Source, known_shape
from cap_viz.dashboard.names import METRIC_UNITS
from cap_viz.dashboard.stored import arrived_effects
from cap_viz.figures.head_grid import Grid, colour_limit
from cap_viz.figures.theme import signed
from cap_viz.runs.run_labels import AblationWords, ablation_words


def live_body(frame: Frame, source: Source, metric: str) -> None:
    """Draw progress and the filling grid; rerun the whole page when the job ends, to show the stored run."""
    job = source.job
    assert job is not None
    if not job.active:
        st.rerun()
    job_view(job, key="heads")
    partial = job.progress.partial
    if isinstance(partial, HeadScores):
        live_grid(partial, metric, ablation_words(source.spec))
        return
    left, right = st.columns([11, 10], gap="medium")
    with right:
        shape = known_shape(frame)
        if shape is not None:
            # Without the inputs the URL would lose the head.
            head_inputs(shape.n_layers, shape.n_heads, last_start(shape.n_layers, shape.n_heads))
    with left:
        empty("The first numbers appear soon", "The grid fills layer by layer once the model is loaded.")


def live_grid(partial: HeadScores, metric: str, words: AblationWords) -> None:
    effects = arrived_effects(partial, metric)
    counts = np.isfinite(effects).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counts > 0, np.nansum(effects, axis=-1) / counts, np.nan)
    left, right = st.columns([11, 10], gap="medium")
    with right:
        start = last_start(partial.n_layers, partial.n_heads)
        layer, head = head_inputs(partial.n_layers, partial.n_heads, start)
        st.markdown(live_sentence(mean, counts, layer, head, metric))
        st.caption("Intervals, ranks and examples follow when the run is complete.")
    with left:
        grid = Grid(
            mean=mean,
            limit=colour_limit(mean),
            hover=live_hover(mean, counts, METRIC_UNITS[metric]),
            selected=(layer, head),
            ends=words.ends,
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
