"""The top of the Heads page: provenance, export, metric and run, and the states without a grid."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.metrics import METRICS
from cap_viz.ui.frame import Frame
from cap_viz.ui.heads_source import Source, new_run, pick_source, sources, submit_problem, watched_end
from cap_viz.ui.jobs_view import ended_view
from cap_viz.ui.loading import HeadStatistics, statistics_of
from cap_viz.ui.panels import (
    GLOSSARY,
    METRIC_NAMES,
    METRIC_UNITS,
    empty,
    escaped,
    examples_fact,
    making_of,
    note,
    provenance,
    run_facts,
)
from cap_viz.ui.state import bad_choice, bad_number, link_here

LINK_KEYS = ("model", "task", "metric", "run", "layer", "head", "example")


def controls(view: Frame) -> tuple[Source, str] | None:
    """Everything above the grid. Returns the run and metric to show, or None when there is nothing yet."""
    available = sources(view)
    facts, share = st.columns([6, 1], vertical_alignment="center")
    metric_place, run_place, new_place = st.columns([4, 3, 1.6], vertical_alignment="bottom")
    notes = [bad_choice("metric", list(METRICS), "nll", "the metric")]
    with metric_place:
        metric = st.segmented_control(
            "Metric",
            list(METRICS),
            default="nll",
            required=True,
            key="metric",
            bind="query-params",
            help="  \n".join(f"`{name}` {GLOSSARY[name]}" for name in METRICS),
        )
    with run_place:
        source, missing = pick_source(available)
    with new_place:
        new_run(view)
    notes.append(missing)
    if source is not None:
        notes += range_notes(view, source)
        with facts:
            provenance(source_facts(source, str(metric)), origin=origin(source))
        with share:
            export(view, source, str(metric))
    for sentence in filter(None, notes):
        note(sentence)
    submit_problem()
    ended = watched_end()
    if ended is not None:
        ended_view(ended)
    if source is None:
        no_runs(view)
        return None
    return source, str(metric)


def origin(source: Source) -> str:
    return "running" if source.run is None else source.run.origin


def source_facts(source: Source, metric: str) -> list[str]:
    facts = (
        run_facts(source.run)
        if source.run is not None
        else [source.spec.model.id, source.spec.examples.task, examples_fact(source.spec.examples)]
    )
    method = f"{source.spec.estimator}, {source.spec.ablation} ablation"
    return [*facts[:3], method, METRIC_NAMES[metric], *facts[3:]]


def range_notes(view: Frame, source: Source) -> list[str]:
    """Notes about a layer or head the model does not have. Before the inputs, which drop such values silently."""
    if source.run is None:
        return []
    shape = source.run.provenance["shape"]
    return [
        bad_number("layer", 0, shape["n_layers"] - 1, "layer"),
        bad_number("head", 0, shape["n_heads"] - 1, "head"),
    ]


def no_runs(view: Frame) -> None:
    empty(
        f"No head scores of {view.model.id} on {view.task.name} yet",
        "Start one with “New run” above, or from the shell: python -m cap_viz score "
        f"--model {view.model.id} --task {view.task.name} --n 16",
    )


def export(view: Frame, source: Source, metric: str) -> None:
    with st.popover("Share", icon=":material/ios_share:", width="stretch"), st.container(width=360):
        st.caption("Link to this view")
        st.code(link_here(LINK_KEYS), language=None, wrap_lines=True)
        if source.run is None:
            st.caption("Numbers can be exported when the run is complete.")
            return
        st.caption(escaped(making_of(source.run)))
        # Read when asked for, not now: a damaged run gets its sentence where the grid would be.
        run, name = source.run, f"heads-{source.spec.examples.task}-{metric}-{source.name}"
        st.download_button(
            "Heads as CSV",
            lambda: head_table(statistics_of(view.store, run, metric)).to_csv(index=False),
            f"{name}.csv",
            "text/csv",
            key="heads_csv",
            on_click="ignore",
            width="stretch",
        )
        st.download_button(
            "Everything as JSON",
            lambda: head_json(source, metric, statistics_of(view.store, run, metric), run.spec.examples.ids),
            f"{name}.json",
            "application/json",
            key="heads_json",
            on_click="ignore",
            width="stretch",
        )


def head_table(stats: HeadStatistics) -> pd.DataFrame:
    """One row per head, in rank order."""
    estimate, layer_head = stats.estimate, np.indices(stats.estimate.mean.shape)
    table = pd.DataFrame(
        {
            "layer": layer_head[0].ravel(),
            "head": layer_head[1].ravel(),
            "mean_effect": estimate.mean.ravel(),
            "ci_low": estimate.low.ravel(),
            "ci_high": estimate.high.ravel(),
            "p_value": estimate.p_value.ravel(),
            "q_value": stats.found.adjusted.ravel(),
            "survives_fdr": stats.found.survives.ravel(),
            "rank": stats.ranks.rank.ravel(),
            "rank_low": stats.ranks.low.ravel(),
            "rank_high": stats.ranks.high.ravel(),
        }
    )
    return table.sort_values("rank")


def head_json(source: Source, metric: str, stats: HeadStatistics, ids: tuple[str, ...]) -> str:
    """The table with its provenance and the effect of every head on every example."""
    assert source.run is not None
    content = {
        "run": source.run.title,
        "model": source.spec.model.id,
        "fingerprint": source.spec.model.fingerprint,
        "task": source.spec.examples.task,
        "estimator": source.spec.estimator,
        "ablation": source.spec.ablation,
        "metric": metric,
        "unit": METRIC_UNITS[metric],
        "example_ids": list(ids),
        "heads": json.loads(head_table(stats).to_json(None, orient="records") or "[]"),
        "effects": np.round(stats.effects, 6).tolist(),
    }
    return json.dumps(content, allow_nan=False)
