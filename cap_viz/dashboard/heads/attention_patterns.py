"""Attention patterns of heads beside their effects: one line per head, and a scatter of all heads.

An attention pattern only describes a head; its effect says whether the model needs it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from cap_viz.attribution.attention_patterns import MEASURES, TITLES, HeadRoles
from cap_viz.dashboard.components.head_map import take_click
from cap_viz.dashboard.components.panels import problem
from cap_viz.dashboard.heads.detail import HeadView
from cap_viz.dashboard.heads.source import submitting, watch
from cap_viz.dashboard.state import bad_choice
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.theme import ACCENT, CLEAR, CONFIG, FAINT, HELPS, HURTS, NEUTRAL, blank, signed
from cap_viz.runs.kinds.patterns import load_patterns
from cap_viz.runs.run_queries import role_spec
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import DamagedRun
from cap_viz.stats.reliability import rank_correlation

SCATTER = "heads_roles"
SHOWN = 7


def roles_of(view: HeadView) -> HeadRoles | None:
    """Read the attention measures on the run's own examples; None if not stored or damaged."""
    run = view.frame.store.get(role_spec(view.source.spec))
    if run is None:
        return None
    try:
        return load_patterns(view.frame.store, run)
    except DamagedRun as error:
        problem(str(error))
        return None


def role_line(roles: HeadRoles, layer: int, head: int) -> None:
    """Draw one head's measures with their ranks among all heads."""
    parts = [
        f"{TITLES[name]} {roles.values[name][layer, head]:.2f} (rank {roles.rank(name)[layer, head]})"
        for name in MEASURES
    ]
    st.caption(f"Attends to: {' · '.join(parts)}", help=GLOSSARY["roles"])


def roles_section(view: HeadView, roles: HeadRoles | None, selected: tuple[int, int]) -> None:
    """Draw effect against a chosen measure for all heads, or the button that starts the measurement."""
    st.markdown("#### Effect and attention", help=GLOSSARY["roles"])
    if roles is None:
        offer(view)
        return
    if sentence := bad_choice("role", MEASURES, MEASURES[0], "the measure"):
        st.caption(sentence)
    measure = str(
        st.segmented_control(
            "Measure of attention",
            MEASURES,
            default=MEASURES[0],
            required=True,
            key="role",
            bind="query-params",
            label_visibility="collapsed",
        )
    )
    effect = view.stats.estimate.mean
    figure, table = st.columns([11, 10], gap="medium")
    with table:
        highest(view, roles, measure)
    figure.plotly_chart(
        scatter(effect, roles.values[measure], view, measure, selected),
        key=SCATTER,
        config=CONFIG,
        on_select=lambda: take_click(SCATTER),
        selection_mode="points",
        alt=f"Effect of every head against {TITLES[measure]}; {in_words(effect, roles.values[measure])}",
    )
    figure.caption(
        f"{in_words(effect, roles.values[measure])} Attention describes; only a head's effect says whether the "
        "model needs it. Click a point to select its head."
    )


def highest(view: HeadView, roles: HeadRoles, measure: str) -> None:
    """Draw the heads with the highest values of a measure and their effects; the download holds all heads."""
    table = role_table(view, roles).sort_values(measure, ascending=False)
    st.markdown(f"Heads by **{TITLES[measure]}**, highest first")
    st.dataframe(
        table.head(SHOWN),
        height=38 + 35 * min(SHOWN, len(table)),
        hide_index=True,
        column_config={
            "effect": st.column_config.NumberColumn(format="%.4f"),
            **{name: st.column_config.NumberColumn(TITLES[name], format="%.2f") for name in MEASURES},
        },
    )
    st.download_button(
        "All heads (CSV)",
        lambda: csv_text(table),
        f"heads-attention-{view.source.spec.examples.task}.csv",
        "text/csv",
        icon=":material/download:",
        key="heads_roles_csv",
        on_click="ignore",
    )


def role_table(view: HeadView, roles: HeadRoles) -> pd.DataFrame:
    layers, heads = (axis.ravel() for axis in np.indices(view.stats.estimate.mean.shape))
    return pd.DataFrame(
        {
            "layer": layers,
            "head": heads,
            "effect": view.stats.estimate.mean.ravel(),
            "rank": view.stats.estimate.rank.ravel(),
            **{name: roles.values[name].ravel() for name in MEASURES},
        }
    )


def in_words(effect: np.ndarray, values: np.ndarray) -> str:
    """State the rank correlation, over heads, of the effect and an attention measure."""
    agreement = rank_correlation(effect.ravel(), values.ravel())
    return f"Rank correlation over {effect.size} heads: {signed(agreement, 2)}."


def scatter(
    effect: np.ndarray, values: np.ndarray, view: HeadView, measure: str, selected: tuple[int, int]
) -> go.Figure:
    figure = blank(height=300, left=56, top=8, bottom=42)
    layers, heads = (axis.ravel() for axis in np.indices(effect.shape))
    chosen = [(layer, head) == selected for layer, head in zip(layers.tolist(), heads.tolist(), strict=True)]
    faded = view.stats.estimate.unclear.ravel()
    always = {"marker": {"opacity": 1}}
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    figure.add_trace(
        go.Scatter(
            x=values.ravel(),
            y=effect.ravel(),
            mode="markers",
            marker={
                "size": [11 if one else 6 for one in chosen],
                "color": [
                    FAINT if unclear else HURTS if value > 0 else HELPS
                    for value, unclear in zip(effect.ravel(), faded, strict=True)
                ],
                "line": {
                    "width": [2 if one else 0.5 for one in chosen],
                    "color": [ACCENT if one else CLEAR for one in chosen],
                },
            },
            customdata=np.stack([layers, heads], axis=1),
            text=[
                f"Layer {layer}, head {head}: {TITLES[measure]} {value:.2f}, effect {signed(float(mean), 3)}"
                for layer, head, value, mean in zip(layers, heads, values.ravel(), effect.ravel(), strict=True)
            ],
            hovertemplate="%{text}<extra></extra>",
            selected=always,
            unselected=always,
        )
    )
    figure.update_xaxes(title=TITLES[measure], showgrid=True, gridcolor=FAINT, zeroline=False)
    figure.update_yaxes(title=f"effect, {view.unit}", showgrid=True, gridcolor=FAINT, zeroline=False)
    figure.update_layout(showlegend=False)
    return figure


def offer(view: HeadView) -> None:
    if not view.frame.installed or not view.task.is_local():
        st.caption("Not measured on these examples; it needs the model and the task's texts on this machine.")
        return
    st.button(
        "Measure what heads attend to",
        key="heads_roles_start",
        icon=":material/visibility:",
        on_click=submit,
        args=(view,),
        help="Previous token, first token, entropy and induction of every head: one reading of each example, seconds.",
    )


def submit(view: HeadView) -> None:
    spec = role_spec(view.source.spec)
    with submitting():
        watch(spec, f"What heads attend to, {spec.examples.task}, n = {len(spec.examples.ids)}")
