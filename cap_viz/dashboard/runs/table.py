"""Table of stored runs on the Runs page: filters, one row per run, and the picked runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.head_map import head_name
from cap_viz.dashboard.components.panels import age
from cap_viz.dashboard.components.share import Download, share
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import model_name, run_words, task_name
from cap_viz.dashboard.selection import choose, controlled, is_choice
from cap_viz.dashboard.stored import levels_in, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, TOKEN_LOSS
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds import KINDS, describe, runs_table
from cap_viz.runs.kinds.joint import judged, load_joint
from cap_viz.runs.prefix_reuse import computing_seconds
from cap_viz.runs.run_queries import is_head_scores, is_run_of
from cap_viz.runs.spec import EvalSpec, JointSpec
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store, StoredRun

TABLE = "runs_table"
# Reading a result takes 5 ms the first time; fourteen rows are in sight.
MOST_RESULTS, ROWS_IN_SIGHT = 40, 14
# The address holds the picked keys; the list below the filters offers so many more.
MOST_PICKED, MOST_LISTED = 200, 50
ALL = "all"
KIND_NAMES = {ALL: "All"} | {name: kind.title.capitalize() for name, kind in KINDS.items()}
WHERE = {ALL: "Everything", "model": "This model", "task": "This model and task"}
ORIGINS = {ALL: "Any", "precomputed": "Precomputed", "live": "Live"}


def filtered(view: Frame) -> list[StoredRun]:
    """Draw the filters and the Share menu; return the runs that pass, newest first."""
    selection = view.selection
    places = st.columns([26, 16, 19, 15, 11], gap="small", vertical_alignment="bottom")
    with places[0]:
        asked = selection.text_input("Find", "find", placeholder="task, criterion, model, key", max_chars=80)
    with places[1]:
        help_text = "  \n".join(f"`{one.title}` {one.summary}" for one in KINDS.values())
        kind = selection.selectbox("Kind", "kind", KIND_NAMES, help=help_text)
    with places[2]:
        where = selection.selectbox("About", "where", WHERE)
    with places[3]:
        help_text = "Precomputed: came with CAP Viz and is only read.  \nLive: computed or imported on this machine."
        origin = selection.selectbox("Origin", "origin", ORIGINS, help=help_text)
    words = asked.casefold().split()
    runs = [
        run
        for run in view.runs
        if kind in (ALL, run.kind)
        and origin in (ALL, run.origin)
        and (where == ALL or run.spec.model == view.model)
        and (where != "task" or run.spec.examples.task == view.task.name)
        and all(word in searched(run) for word in words)
    ]
    with places[4]:
        download = Download("Table as CSV, with ids", lambda: csv_of(view.store, runs), "runs.csv", "text/csv")
        share("runs", [download])
    return runs


def searched(run: StoredRun) -> str:
    """Return all names and ids of a run, folded, for the search."""
    spec = run.spec
    names = (task_name(spec.examples.task), run_words(spec), model_name(spec.model.id))
    ids = (run.kind, spec.examples.task, describe(spec), spec.model.id, run.key)
    return " ".join((*names, *ids)).casefold()


def draw_table(store: Store, runs: Sequence[StoredRun], picked: Sequence[str]) -> None:
    """Draw the runs, with the picked ones ticked."""
    table = table_of(runs, [result_of(store, run) for run in runs[:MOST_RESULTS]])
    # Each text travels once, not in every row.
    table = table.astype(dict.fromkeys(["task", "what", "age", "origin", "model"], "category"))
    st.session_state[TABLE] = {"selection": {"rows": [row for row, run in enumerate(runs) if run.key in picked]}}
    column = st.column_config.Column
    st.dataframe(
        table,
        key=TABLE,
        height=38 + 35 * max(1, min(ROWS_IN_SIGHT, len(runs))),
        hide_index=True,
        on_select=lambda: take_rows(runs, picked),
        selection_mode="multi-row",
        column_config={
            "task": column(width=105),
            "what": column(width=140),
            "result": column(
                width=108,
                help=f"Accuracy, perplexity, loss or the head of largest effect, for the first {MOST_RESULTS} rows: "
                "filter to see those of others",
            ),
            "n": st.column_config.NumberColumn(format="%d", width=48, help="Examples, questions or windows of text"),
            "age": column(width=62),
            "origin": column(width=98),
        },
        alt="Stored runs; the list of picked runs beside the table picks by keyboard.",
    )


def take_rows(runs: Sequence[StoredRun], picked: Sequence[str]) -> None:
    """Pick the ticked rows; picked runs that the filters hide stay picked."""
    rows = st.session_state[TABLE]["selection"]["rows"]
    shown = {run.key for run in runs}
    keys = [key for key in picked if key not in shown] + [runs[row].key for row in rows if row < len(runs)]
    if is_choice():
        choose({"runs": keys[-MOST_PICKED:] or None})


def picked_list(view: Frame, runs: Sequence[StoredRun], picked: Sequence[str]) -> None:
    """Draw the list of picked runs, the keyboard's way to pick; it offers the first runs of the table."""
    by_key = {run.key: run for run in view.runs}
    offered = [*picked, *(run.key for run in runs[:MOST_LISTED] if run.key not in picked)]
    st.multiselect(
        "Picked runs",
        offered,
        format_func=lambda key: label(by_key[key]),
        max_selections=MOST_PICKED,
        placeholder="Tick rows, or choose here",
        help="Rows are ticked with Shift + Space, too. One run is shown, two are compared, several can be deleted.",
        **controlled("runs", list(picked), {}),
    )


def label(run: StoredRun) -> str:
    spec = run.spec
    return f"{task_name(spec.examples.task)} · {run_words(spec)} · {len(spec.examples.ids)} · {run.key[:6]}"


def table_of(runs: Sequence[StoredRun], results: Sequence[str]) -> pd.DataFrame:
    """Tabulate runs in plain names; `results` are those of the first runs."""
    return pd.DataFrame(
        {
            "task": [task_name(run.spec.examples.task) for run in runs],
            "what": [run_words(run.spec) for run in runs],
            "result": [*results, *[""] * (len(runs) - len(results))],
            "n": [len(run.spec.examples.ids) for run in runs],
            "age": [age(run.created) for run in runs],
            "origin": [run.origin for run in runs],
            "model": [model_name(run.spec.model.id) for run in runs],
        }
    )


def csv_of(store: Store, runs: Sequence[StoredRun]) -> str:
    """Return the table with ids, times and every result as CSV."""
    named = table_of(runs, [result_of(store, run) for run in runs])[["task", "what", "result", "model"]]
    ids = runs_table(runs).rename(columns={"model": "model_id", "task": "task_id", "what": "described"})
    seconds = [computing_seconds(run) for run in runs]
    return csv_text(pd.concat([named, ids.assign(seconds=seconds)], axis="columns"))


@lru_cache(2048)
def result_of(store: Store, run: StoredRun) -> str:
    """Return accuracy, perplexity, loss or the head of largest effect; "" for runs without one main number."""
    try:
        if is_run_of(run, EvalSpec) and (levels := levels_in(store, run)):
            measure, level = next(iter(levels.items()))
            unit = measure.unit if measure == TOKEN_LOSS else "" if measure == ACC else measure.title.lower()
            return f"{measure.words(level.value)} {unit}".rstrip()
        if is_head_scores(run) or is_head_scores(run, "gradient"):
            estimate = statistics_of(store, run, "nll").estimate
            return f"{head_name(*estimate.top_head)} {signed(float(estimate.mean[estimate.top_head]), 2)} nats"
        if is_run_of(run, JointSpec):
            return f"{signed(float(judged(run.spec, load_joint(store, run), 'nll').joint.mean), 2)} nats"
    except CapVizError:  # Its sentence stands beside the run once it is picked.
        return "damaged"
    return ""
