"""One stored run: headline, link to its page, manifest, downloads, verification and deletion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from cap_viz.attribution.results import EvalReport
from cap_viz.dashboard.components.panels import (
    age,
    caution,
    cut_words,
    escaped,
    making_of,
    percent,
    percent_interval,
    problem,
    provenance,
    tile,
)
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.source import shown_name
from cap_viz.dashboard.runs.html import html_of, run_grid
from cap_viz.dashboard.serving import REFUSAL, is_shared
from cap_viz.dashboard.state import go_button
from cap_viz.dashboard.stored import level_in, report_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, ACC_NORM, against_guessing
from cap_viz.evaluation.generation import LENGTH, GenerationProtocol, GenerationReport
from cap_viz.evaluation.perplexity import perplexity_of
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.figures.head_grid import grid_width, head_grid
from cap_viz.figures.theme import CONFIG
from cap_viz.runs.archive import archive_bytes
from cap_viz.runs.kinds import describe, numbers_of
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.notebook import notebook_of
from cap_viz.runs.protocols import ChoiceProtocol, PerplexityProtocol, SolutionProtocol, protocol_in
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import is_head_scores, is_run_of
from cap_viz.runs.spec import EvalSpec, JointSpec, ProfileSpec, RoleSpec, ScoreSpec
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import wilson
from cap_viz.tasks import load_task

SAID = "runs_said"
# The page that shows a run in full, by kind.
PAGE_OF_KIND = {
    ScoreSpec.kind: "Heads",
    RoleSpec.kind: "Heads",
    JointSpec.kind: "Heads",
    ProfileSpec.kind: "Prune",
    EvalSpec.kind: "Compare",
}


def detail(view: Frame, run: StoredRun) -> None:
    spec = run.spec
    st.markdown(f"#### {escaped(describe(spec))} · {spec.examples.task}")
    provenance(
        [spec.model.id, f"{len(spec.examples.ids)} {spec.examples.split} examples", age(run.created)],
        origin=run.origin,
    )
    if cut := cut_words(run):
        caution(cut)
    with st.container(horizontal=True, gap="medium"):
        with st.container(width=430):
            headline(view.store, run)
        with st.container(width="stretch"):
            open_button(view.runs, run)
            st.caption(escaped(making_of(run)))
            files(view.store, run)
            housekeeping(view.store, run)
    with st.expander("Manifest", icon=":material/description:"):
        st.json(run.manifest)


def headline(store: Store, run: StoredRun) -> None:
    """Draw the main result of a run: tiles, head grid or table."""
    try:
        match protocol_in(run.spec):
            case GenerationProtocol():
                written_tiles(load_answers(store, run))
            case SolutionProtocol():
                solution_tile(report_of(store, run))
            case PerplexityProtocol():
                perplexity_tile(report_of(store, run))
            case ChoiceProtocol():
                accuracy_tiles(store, run)
            case _ if is_head_scores(run):
                small_grid(store, run)
            case _:
                st.dataframe(numbers_of(store, run), height=300, hide_index=True)
    except CapVizError as error:
        problem(str(error))


def perplexity_tile(report: EvalReport) -> None:
    found = perplexity_of(report)
    tile("Perplexity", f"{found.value:.2f}", f"[{found.ci.low:.2f}, {found.ci.high:.2f}]")
    st.caption(f"{found.n_windows} windows of text, {found.n_tokens:,} tokens scored; the interval resamples windows.")


def solution_tile(report: EvalReport) -> None:
    found = solution_loss_of(report)
    tile("Loss on solutions", f"{found.value:.3f} nats per token", f"[{found.ci.low:.3f}, {found.ci.high:.3f}]")
    st.caption(f"{found.n} worked solutions, {found.n_tokens:,} tokens scored; the interval resamples examples.")


def written_tiles(report: GenerationReport) -> None:
    """Draw strict and flexible exact match, and how often an answer was found at all."""
    readings = (
        ("Exact match, strict", report.correct, report.parse_rate),
        ("Exact match, flexible", report.correct_flexible, report.parse_rate_flexible),
    )
    for place, (title, right, parsed) in zip(st.columns(2), readings, strict=True):
        with place:
            tile(title, percent(float(right.mean())), percent_interval(wilson(int(right.sum()), len(right))))
            st.caption(f"an answer found in {percent(parsed, 0)}")
    cut = float((report.ended == LENGTH).mean())
    st.caption(f"{len(report)} answers, {int(report.tokens.sum()):,} tokens; {percent(cut, 0)} were cut off.")


def accuracy_tiles(store: Store, run: StoredRun) -> None:
    report = report_of(store, run)
    test = against_guessing(load_task(run.spec.examples.task), report)
    for place, measure in zip(st.columns(2), (ACC, ACC_NORM), strict=True):
        level = level_in(store, run, measure)
        with place:
            tile(measure.title, percent(level.value), percent_interval(level.ci))
    verdict = "clearly above" if test.clearly_above else "not clearly above"
    st.caption(
        f"{int(report.correct.sum())} of {len(report)} questions right; {verdict} chance ({percent(test.chance)})."
    )


def small_grid(store: Store, run: StoredRun[ScoreSpec]) -> None:
    grid, words = run_grid(store, run), ablation_words(run.spec)
    st.plotly_chart(
        head_grid(grid, unit="nats", tallest=320),
        key=f"runs_grid_{run.key}",
        width=min(420, grid_width(*grid.shape, 320)),
        config=CONFIG,
        alt=f"Effect of {words.doing} each head{words.by}, answer loss, run {run.key}",
    )


def open_button(runs: Sequence[StoredRun], run: StoredRun) -> None:
    """Draw the button to the page that shows the run in full; `runs` are all stored runs."""
    page, spec = PAGE_OF_KIND.get(run.kind), run.spec
    if page is None:
        return
    names_heads = is_run_of(run, ScoreSpec) and run.spec.parts is None
    go_button(
        f"Open on {page}",
        f"pages/{page.lower()}.py",
        key="runs_open",
        selection={"model": spec.model.id, "task": spec.examples.task},
        params={"run": shown_name(runs, run)} if names_heads else {},
    )


def files(store: Store, run: StoredRun) -> None:
    """Draw the downloads. Each is made on the click: the page stays fast, and damage is reported only then."""
    downloads: dict[str, tuple[Callable[[], bytes], str, str]] = {
        "Run as zip": (lambda: archive_bytes(run), "zip", "application/zip"),
        "CSV": (lambda: csv_text(numbers_of(store, run)).encode(), "csv", "text/csv"),
        "Parquet": (lambda: parquet(numbers_of(store, run)), "parquet", "application/octet-stream"),
        "JSON": (lambda: json_rows(numbers_of(store, run)), "json", "application/json"),
        "HTML": (lambda: html_of(store, run).encode(), "html", "text/html"),
        "Notebook": (lambda: notebook_of(store, run), "ipynb", "application/x-ipynb+json"),
    }
    with st.container(horizontal=True, gap="xsmall"):
        for label, (make, ending, mime) in downloads.items():
            st.download_button(
                label,
                make,
                f"{run.title}.{ending}",
                mime,
                key=f"runs_file_{ending}",
                on_click="ignore",
                icon=":material/download:" if ending == "zip" else None,
            )


def parquet(table: pd.DataFrame) -> bytes:
    return table.to_parquet(None, index=False)


def json_rows(table: pd.DataFrame) -> bytes:
    return (table.to_json(None, orient="records") or "[]").encode()


def housekeeping(store: Store, run: StoredRun) -> None:
    with st.container(horizontal=True, gap="xsmall"):
        st.button("Verify checksums", key="runs_verify", on_click=verify, args=(store, run))
        if is_shared():
            st.caption(REFUSAL.format(what="deleting runs"))
        elif run.origin == "live":
            with st.popover("Delete", icon=":material/delete:"):
                st.markdown(f"Delete **{escaped(run.title)}** from this machine? It can only be computed again.")
                st.button("Delete this run", key="runs_delete", type="primary", on_click=delete, args=(store, run))
        else:
            st.caption("Came with CAP Viz: it is only read, and cannot be deleted here.")
    if run.key in (said := st.session_state.get(SAID, {})):
        st.caption(said[run.key])


def verify(store: Store, run: StoredRun) -> None:
    try:
        store.verify(run)
        sentence = f":green-badge[sound] All {len(run.digests)} tables match their checksums."
    except CapVizError as error:
        sentence = f":red-badge[damaged] {escaped(str(error))}"
    st.session_state[SAID] = {run.key: sentence}


def delete(store: Store, run: StoredRun) -> None:
    """Delete the run; a callback, so that the page drawn next no longer lists it."""
    try:
        store.delete(run)
        sentence = f"{run.title} was deleted."
    except CapVizError as error:
        sentence = str(error)
    st.session_state[SAID] = {"": sentence}
    st.session_state["runs"] = [key for key in st.session_state.get("runs", []) if key != run.key]
