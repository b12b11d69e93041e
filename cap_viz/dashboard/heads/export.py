"""Share menu of the Heads page: a link to the view, its numbers as CSV and JSON, and the run as HTML."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.panels import escaped
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.control_task import GENERIC_TEXT, SPECIFICITY, View
from cap_viz.dashboard.heads.source import Source
from cap_viz.dashboard.heads.specificity import agreement, shared_top, specificity_table
from cap_viz.dashboard.names import METRIC_UNITS
from cap_viz.dashboard.state import link_here
from cap_viz.dashboard.stored import HeadStatistics, specificity_of, statistics_of
from cap_viz.runs.html_page import html_of
from cap_viz.runs.run_labels import making_of
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store, StoredRun

LINK_KEYS = (
    "model",
    "task",
    "n",
    "view",
    "control",
    "metric",
    "run",
    "layer",
    "head",
    "example",
    "role",
    "reading",
    "together",
)


@st.fragment
def export(frame: Frame, source: Source, metric: str, view: View) -> None:
    """Draw the menu; its content, and so the link, is made when it is opened, since a click reruns only the body."""
    popover = st.popover("Share", icon=":material/ios_share:", width="stretch", key="heads_share", on_change="rerun")
    if not popover.open:
        return
    with popover, st.container(width=360):
        st.caption("Link to this view")
        st.code(link_here(LINK_KEYS), language=None, wrap_lines=True)
        run = source.run
        if run is None:
            st.caption("Numbers can be exported when the run is complete.")
            return
        if view.needs_control and view.control is None:
            st.caption("Numbers can be exported when generic text has been measured.")
            return
        st.caption(escaped(making_of(run)))
        name = file_name(source, metric, view)
        # Read on click, not now: a damaged run is reported in place of the grid.
        st.download_button(
            "Heads as CSV",
            lambda: csv_text(shown_table(frame.store, run, metric, view)),
            f"{name}.csv",
            "text/csv",
            key="heads_csv",
            on_click="ignore",
            width="stretch",
        )
        st.download_button(
            "Everything as JSON",
            lambda: shown_json(frame.store, run, metric, view),
            f"{name}.json",
            "application/json",
            key="heads_json",
            on_click="ignore",
            width="stretch",
        )
        st.download_button(
            "The run as a web page",
            lambda: html_of(frame.store, run),
            f"{run.title}.html",
            "text/html",
            key="heads_html",
            on_click="ignore",
            width="stretch",
            help="One HTML file with the figure (answer loss) and all numbers; it opens without a network.",
        )


def file_name(source: Source, metric: str, view: View) -> str:
    task = source.spec.examples.task
    if view.control is None or not view.needs_control:
        return f"heads-{task}-{metric}-{source.name}"
    control = view.control.spec.examples.task
    kind = "specificity" if view.name == SPECIFICITY else "heads"
    return f"{kind}-{task}-against-{control}-{source.name}" if kind == "specificity" else f"{kind}-{control}-{metric}"


def shown_table(store: Store, run: StoredRun, metric: str, view: View) -> pd.DataFrame:
    """Return one row per head, in rank order."""
    if view.name == SPECIFICITY and view.control is not None:
        task, control = (statistics_of(store, one, "nll") for one in (run, view.control))
        return specificity_table(task, control, specificity_of(store, run, view.control))
    return head_table(statistics_of(store, effect_run(run, view), metric))


def effect_run(run: StoredRun, view: View) -> StoredRun:
    return view.control if view.name == GENERIC_TEXT and view.control is not None else run


def shown_json(store: Store, run: StoredRun, metric: str, view: View) -> str:
    """Return the table with its provenance; for views of effects also the effect of every head on every example."""
    if view.name == SPECIFICITY and view.control is not None:
        return specificity_json(store, run, view.control)
    shown = effect_run(run, view)
    return head_json(shown, metric, statistics_of(store, shown, metric))


def head_table(stats: HeadStatistics) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            **stats.estimate.columns(),
            "rank_low": stats.ranks.low.ravel(),
            "rank_high": stats.ranks.high.ravel(),
        }
    )
    return table.sort_values("rank")


def head_json(run: StoredRun, metric: str, stats: HeadStatistics) -> str:
    content = {
        **facts_of(run),
        "metric": metric,
        "unit": METRIC_UNITS[metric],
        "example_ids": list(run.spec.examples.ids),
        "heads": rows_of(head_table(stats)),
        "effects": np.round(stats.effects, 6).tolist(),
    }
    return json.dumps(content, allow_nan=False)


def specificity_json(store: Store, run: StoredRun, control: StoredRun) -> str:
    """Return the specificities, the two runs behind them, and the agreement of their rankings."""
    task_stats, control_stats = (statistics_of(store, one, "nll") for one in (run, control))
    found = specificity_of(store, run, control)
    shared, ranks = shared_top(task_stats, control_stats), agreement(task_stats, control_stats)
    content = {
        "task": {**facts_of(run), "example_ids": list(run.spec.examples.ids), "scale": found.task_scale},
        "control": {**facts_of(control), "example_ids": list(control.spec.examples.ids), "scale": found.control_scale},
        "metric": "nll",
        "unit_of_effects": METRIC_UNITS["nll"],
        "unit_of_specificity": "standard deviations over heads",
        "top": {
            "k": shared.k,
            "shared": shared.shared,
            "expected_by_chance": shared.expected,
            "p_value": shared.p_value,
        },
        "rank_correlation": none_for_nan(ranks.correlation),
        "noise_ceiling": none_for_nan(ranks.ceiling),
        "heads": rows_of(specificity_table(task_stats, control_stats, found)),
    }
    return json.dumps(content, allow_nan=False)


def facts_of(run: StoredRun) -> dict[str, Any]:
    spec = run.spec
    return {
        "run": run.title,
        "model": spec.model.id,
        "fingerprint": spec.model.fingerprint,
        "task": spec.examples.task,
        "estimator": getattr(spec, "estimator", None),
        "ablation": getattr(spec, "ablation", None),
    }


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(table.to_json(None, orient="records") or "[]")


def none_for_nan(value: float) -> float | None:
    return value if np.isfinite(value) else None
