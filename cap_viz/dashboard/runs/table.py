"""The history on the Runs page: filters, and one table row per stored run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from cap_viz.dashboard.components.panels import age, note
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.runs.result import result_of
from cap_viz.dashboard.state import bad_choice, bad_choices, keep_valid_ones
from cap_viz.runs.kinds import KINDS, describe
from cap_viz.runs.prefix_reuse import computing_seconds
from cap_viz.runs.store import Store, StoredRun

TABLE = "runs_table"
# Reading a result takes 5 ms the first time; eight rows are in sight.
MOST_RESULTS = 40
# Two runs can be compared.
MOST_PICKED = 2
ANY = "all"
TITLES = {ANY: "", **{kind.title: kind.name for kind in KINDS.values()}}
EVERYWHERE, THIS_TASK = "all models and tasks", "this model and task"
WHERE = (EVERYWHERE, "this model", THIS_TASK)
ORIGINS = (ANY, "precomputed", "live")


@dataclass(frozen=True)
class Shown:
    """Runs that pass the filters, newest first, and the picked ones."""

    runs: list[StoredRun]
    picked: list[StoredRun]


def history(view: Frame) -> Shown:
    """Draw filters, table and picked keys; filters and keys are bound to the URL."""
    runs = filtered(view)
    if runs:
        draw_table(view.store, runs)
    else:
        st.caption("No stored run passes these filters.")
    return Shown(runs, picked_runs(view.runs))


def filtered(view: Frame) -> list[StoredRun]:
    notes = [
        bad_choice("kind", list(TITLES), ANY, "runs of kind"),
        bad_choice("where", WHERE, EVERYWHERE, "runs of"),
        bad_choice("origin", ORIGINS, ANY, "runs that are"),
    ]
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        with st.container(width="stretch"):
            asked = st.text_input(
                "Find", key="find", bind="query-params", placeholder="task, criterion, model, key", max_chars=80
            )
        with st.container(width=140):
            kind = st.selectbox(
                "Kind",
                list(TITLES),
                key="kind",
                bind="query-params",
                help="  \n".join(f"`{one.title}` {one.summary}" for one in KINDS.values()),
            )
        with st.container(width=220):
            where = st.selectbox("About", WHERE, key="where", bind="query-params")
        with st.container(width=150):
            origin = st.selectbox(
                "Origin",
                ORIGINS,
                key="origin",
                bind="query-params",
                help="precomputed: came with CAP Viz and is only read  \nlive: computed or imported on this machine",
            )
    for sentence in filter(None, notes):
        note(sentence)
    wanted, words = TITLES[kind], (asked or "").casefold().split()
    return [
        run
        for run in view.runs
        if wanted in ("", run.kind)
        and origin in (ANY, run.origin)
        and (where == EVERYWHERE or run.spec.model == view.model)
        and (where != THIS_TASK or run.spec.examples.task == view.task.name)
        and has_words(run, words)
    ]


def has_words(run: StoredRun, words: Sequence[str]) -> bool:
    """Return whether every one of the folded words is in what the table says about the run."""
    spec = run.spec
    said = " ".join((run.kind, spec.examples.task, describe(spec), spec.model.id, run.key)).casefold()
    return all(word in said for word in words)


def draw_table(store: Store, runs: Sequence[StoredRun]) -> None:
    table = table_of(runs)
    results = [result_of(store, run) for run in runs[:MOST_RESULTS]]
    table.insert(3, "result", pd.Series(results, dtype=str))
    st.dataframe(
        table,
        key=TABLE,
        height=min(318, 38 + 35 * len(runs)),
        hide_index=True,
        on_select=lambda: take_rows(runs),
        selection_mode="multi-row",
        column_config={
            "result": st.column_config.TextColumn(
                help=f"Accuracy, perplexity, loss or the head of largest effect, for the first {MOST_RESULTS} rows: "
                "filter to see those of others"
            ),
            "seconds": st.column_config.NumberColumn(
                format="%.0f", help="Computing time; empty for the first items of another run"
            ),
            "examples": st.column_config.NumberColumn(format="%d"),
        },
    )


def table_of(runs: Sequence[StoredRun]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kind": [run.kind for run in runs],
            "task": [run.spec.examples.task for run in runs],
            "what": [describe(run.spec) for run in runs],
            "examples": [len(run.spec.examples.ids) for run in runs],
            "age": [age(run.created) for run in runs],
            "seconds": [computing_seconds(run) for run in runs],
            "origin": [run.origin for run in runs],
            "model": [run.spec.model.id for run in runs],
            "key": [run.key for run in runs],
        }
    )


def take_rows(runs: Sequence[StoredRun]) -> None:
    """Copy ticked rows into the URL-bound list of keys; of more than two, keep the last two."""
    rows = (st.session_state.get(TABLE) or {}).get("selection", {}).get("rows", [])
    st.session_state["runs"] = [runs[row].key for row in rows if row < len(runs)][-MOST_PICKED:]


def picked_runs(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """Draw the URL-bound list of keys, also the keyboard's way to pick, and return its runs."""
    by_key = {run.key: run for run in runs}
    if sentence := bad_choices("runs", list(by_key), "the run"):
        note(sentence)
    keep_valid_ones("runs", list(by_key))
    chosen = st.multiselect(
        "Picked runs",
        list(by_key),
        key="runs",
        bind="query-params",
        max_selections=MOST_PICKED,
        placeholder="Tick a row above, or type the beginning of a key; two runs can be compared",
    )
    return [by_key[key] for key in chosen]
