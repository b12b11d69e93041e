"""Picked runs: one with its result, files and how it was made, two compared, several deleted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import streamlit as st

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.dashboard.components.head_map import head_map
from cap_viz.dashboard.components.panels import (
    age,
    caution,
    cut_words,
    empty,
    escaped,
    examples_fact,
    is_refused_here,
    p_words,
    percent,
    problems_told,
    provenance,
    tile,
)
from cap_viz.dashboard.components.share import Download, download_button
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import model_name, run_words, task_name
from cap_viz.dashboard.selection import choose, go_button
from cap_viz.dashboard.stored import levels_in, paired_in, report_of, statistics_of
from cap_viz.dashboard.tasks.data import STANDARDISED, TaskPair, measured_in
from cap_viz.dashboard.tasks.page import pair_section
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.eval_metrics import TOKEN_LOSS, Measure, against_guessing
from cap_viz.evaluation.generation import LENGTH, GenerationProtocol
from cap_viz.evaluation.verdict import grade_of
from cap_viz.figures.head_grid import Grid
from cap_viz.figures.theme import signed
from cap_viz.runs.archive import archive_bytes
from cap_viz.runs.html_page import html_of
from cap_viz.runs.kinds import numbers_of
from cap_viz.runs.kinds.evaluation import load_answers, measures_of
from cap_viz.runs.notebook import notebook_of
from cap_viz.runs.protocols import ChoiceProtocol, PerplexityProtocol, protocol_of
from cap_viz.runs.run_labels import ablation_words, making_of
from cap_viz.runs.run_queries import is_head_scores, is_run_of, of_whole_model
from cap_viz.runs.score_sources import shown_name
from cap_viz.runs.spec import (
    EvalSpec,
    JointSpec,
    PairSpec,
    PathSpec,
    PositionSpec,
    ProfileSpec,
    RemovalSpec,
    RoleSpec,
    ScoreSpec,
)
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import PairedComparison, usual_top
from cap_viz.tasks import load_task

# Session key of what the page says about a run, by its key; by "" what it says about several.
SAID = "runs_said"
# The page that shows a run in full, by kind.
PAGE_OF_KIND = {
    **dict.fromkeys((ScoreSpec.kind, RoleSpec.kind, JointSpec.kind), "Heads"),
    **dict.fromkeys((PathSpec.kind, PairSpec.kind, PositionSpec.kind, RemovalSpec.kind), "Circuit"),
    ProfileSpec.kind: "Prune",
    EvalSpec.kind: "Compare",
}


def picked_section(view: Frame, runs: Sequence[StoredRun]) -> None:
    """Draw the picked run; of two only that they are compared, which `overlay` does."""
    if not runs:
        st.caption("Pick a run to see its result and how it was made, two to compare them.")
    elif len(runs) == 1:
        detail(view, runs[0])
    else:
        st.caption("They are compared below." if len(runs) == 2 else "Two picked runs are compared, not more.")
        delete_button(view.store, runs)


def detail(view: Frame, run: StoredRun) -> None:
    spec = run.spec
    st.markdown(f"##### {escaped(task_name(spec.examples.task))} · {escaped(run_words(spec))}")
    provenance([model_name(spec.model.id), examples_fact(spec.examples), age(run.created)], origin=run.origin)
    if cut := cut_words(run):
        caution(cut)
    with problems_told():
        headline(view.store, run)
    open_button(view.runs, run)
    with st.container(horizontal=True, gap="xsmall"):
        for one in files(view.store, run):
            download_button(one, "runs_file", icon=":material/download:" if one.suffix == "zip" else None)
    with st.container(horizontal=True, gap="xsmall"):
        st.button("Verify checksums", key="runs_verify", on_click=verify, args=(view.store, run))
        delete_button(view.store, [run])
    if run.key in (said := st.session_state.get(SAID, {})):
        st.caption(said[run.key])
    with st.expander("How it was made", icon=":material/description:"):
        st.caption(escaped(making_of(run)))
        st.json(run.manifest)


def headline(store: Store, run: StoredRun) -> None:
    """Draw the main result of a run: tiles, map or table. Raises `CapVizError` for a damaged one."""
    if is_head_scores(run):
        unit = METRICS["nll"].unit
        grid = Grid.of(statistics_of(store, run, "nll").estimate, ends=ablation_words(run.spec).ends)
        head_map(grid, key="runs_map", unit=unit, label="Effect of each head, answer loss", small=True)
        st.caption(f"Effect of each head on the answer loss, {unit}.")
    elif is_run_of(run, EvalSpec) and (levels := levels_in(store, run)):
        tiles((one.title, one.words(level.value), one.interval_words(level.ci)) for one, level in levels.items())
        st.caption(sentence_on(store, run))
    else:
        st.dataframe(numbers_of(store, run), height=240, hide_index=True)


def sentence_on(store: Store, run: StoredRun[EvalSpec]) -> str:
    """Say what the numbers of an evaluation are of. Raises `CapVizError` for a damaged run."""
    protocol = protocol_of(run.spec)
    if isinstance(protocol, GenerationProtocol):
        answers = load_answers(store, run)
        return (
            f"{len(answers)} answers, {int(answers.tokens.sum()):,} tokens; an answer found in "
            f"{percent(answers.parse_rate, 0)} (strict) and {percent(answers.parse_rate_flexible, 0)} (flexible), "
            f"{percent(float((answers.ended == LENGTH).mean()), 0)} cut off."
        )
    report = report_of(store, run)
    if isinstance(protocol, ChoiceProtocol):
        test = against_guessing(load_task(run.spec.examples.task), report)
        verdict = "clearly above" if test.clearly_above else "not clearly above"
        right = f"{int(report.correct.sum())} of {len(report)} questions right"
        return f"{right}; {verdict} chance ({percent(test.chance)})."
    items = "windows of text" if isinstance(protocol, PerplexityProtocol) else "worked solutions"
    n_tokens = int(report.questions.tokens[:, 0].sum())
    return f"{len(report)} {items}, {n_tokens:,} tokens scored; the interval resamples {items}."


def tiles(texts: Iterable[tuple[str, str, str]]) -> None:
    """Draw numbers side by side: label, value and what stands below it."""
    found = list(texts)
    for place, one in zip(st.columns(len(found)), found, strict=True):
        with place:
            tile(*one)


def open_button(runs: Sequence[StoredRun], run: StoredRun) -> None:
    """Draw the button to the page that shows the run in full; `runs` are all stored runs."""
    page, spec = PAGE_OF_KIND.get(run.kind), run.spec
    if page is None:
        return
    params: dict[str, object] = {"model": spec.model.id, "task": spec.examples.task}
    if is_run_of(run, ScoreSpec):
        if of_whole_model(run.spec):
            params["run"] = shown_name(runs, run)
        elif (mask := run.spec.mask) is not None:
            page = "Prune"
            params |= {"criterion": mask.criterion, "sparsity": round(100 * mask.sparsity)}
    go_button(f"Open on {page}", page.lower(), key="runs_open", params=params)


def files(store: Store, run: StoredRun) -> list[Download]:
    def numbers() -> pd.DataFrame:
        return numbers_of(store, run)

    return [
        Download("Run as zip", lambda: archive_bytes(run), f"{run.title}.zip", "application/zip"),
        Download("CSV", lambda: csv_text(numbers()), f"{run.title}.csv", "text/csv"),
        Download(
            "Parquet", lambda: numbers().to_parquet(index=False), f"{run.title}.parquet", "application/octet-stream"
        ),
        Download("JSON", lambda: str(numbers().to_json(orient="records")), f"{run.title}.json", "application/json"),
        Download("HTML", lambda: html_of(store, run), f"{run.title}.html", "text/html"),
        Download("Notebook", lambda: notebook_of(store, run), f"{run.title}.ipynb", "application/x-ipynb+json"),
    ]


def delete_button(store: Store, runs: Sequence[StoredRun]) -> None:
    """Draw the button that deletes the local ones of these runs, after one confirmation for all."""
    local = [run for run in runs if run.origin == "live"]
    if is_refused_here("deleting runs"):
        return
    if not local:
        st.caption("Came with CAP Viz: only read, not deleted here.")
        return
    whose = "this run" if len(local) == 1 else f"{len(local)} runs"
    with st.popover(f"Delete {whose}", icon=":material/delete:"):
        st.markdown("\n".join(f"- {escaped(run.title)}" for run in local))
        kept = "" if len(local) == len(runs) else f" The other {len(runs) - len(local)} came with CAP Viz and stay."
        st.markdown(f"Delete {whose} from this machine? What is deleted can only be computed again.{kept}")
        st.button(f"Yes, delete {whose}", key="runs_delete", type="primary", on_click=delete, args=(store, runs, local))


def verify(store: Store, run: StoredRun) -> None:
    try:
        store.verify(run)
        sentence = f":green-badge[sound] All {len(run.digests)} tables match their checksums."
    except CapVizError as error:
        sentence = f":red-badge[damaged] {escaped(str(error))}"
    st.session_state[SAID] = {run.key: sentence}


def delete(store: Store, picked: Sequence[StoredRun], local: Sequence[StoredRun]) -> None:
    """Delete runs; a callback, so that the page drawn next no longer lists them."""
    gone: list[StoredRun] = []
    try:
        for run in local:
            store.delete(run)
            gone.append(run)
        sentence = f"{local[0].title} was deleted." if len(local) == 1 else f"{len(local)} runs were deleted."
    except CapVizError as error:
        sentence = str(error)
    st.session_state[SAID] = {"": sentence}
    choose({"runs": [run.key for run in picked if run not in gone] or None})


def overlay(store: Store, first: StoredRun, second: StoredRun) -> None:
    """Compare two runs: head scores head by head, evaluations question by question."""
    with problems_told():
        if is_head_scores(first) and is_head_scores(second):
            if first.spec.model != second.spec.model:
                caution("The two runs are of different weights: heads of the same number need not do the same.")
            one, other = (measured_in(store, run, suffix=f" {run.key[:6]}") for run in (first, second))
            pair_section(store, TaskPair(one, other, STANDARDISED, usual_top(one.stats.estimate.rank.size)))
        elif is_run_of(first, EvalSpec) and is_run_of(second, EvalSpec):
            overlay_evaluations(store, first, second)
        else:
            empty(
                "These two cannot be compared", "Pick two exact head scores, or two evaluations of the same questions."
            )


def paired_evaluations(
    store: Store, first: StoredRun[EvalSpec], second: StoredRun[EvalSpec]
) -> tuple[Measure, PairedComparison]:
    """Compare item by item: right answers, or the loss per token of texts (running text, worked solutions).

    Raises `CapVizError` if the items or the kinds of answers differ.
    """
    measures = measures_of(first.spec)
    if not measures or measures != measures_of(second.spec):
        raise UsageError("The two are evaluations of different kinds; pick two of a kind.")
    measure = measures[0] if measures[0].is_share else TOKEN_LOSS
    return measure, paired_in(store, first, second, measure)


def overlay_evaluations(store: Store, first: StoredRun[EvalSpec], second: StoredRun[EvalSpec]) -> None:
    measure, found = paired_evaluations(store, first, second)
    names = [f"{run_words(run.spec)} ({run.key[:6]})" for run in (first, second)]
    st.markdown(f"#### {escaped(names[0])} against {escaped(names[1])}")
    if measure.is_share:
        items = "questions"
        middle = ("Flips", f"{found.only_a} : {found.only_b}", f"of {found.n} questions; right in one only")
        test = ("McNemar p", p_words(found.p_value), "exact, paired")
        verdict = "differ" if grade_of(found) == "clear" else "cannot be told apart on these questions"
        meaning = f"The two {verdict} (5 % level, not corrected for looking at several pairs)."
    else:
        items = "texts"
        middle = ("Losses", f"{found.mean_a:.3f} and {found.mean_b:.3f}", f"means of {found.n} texts")
        test = ("t-test p", p_words(found.p_value), "paired")
        meaning = "The same texts, loss per token: positive means that the first is more surprised."
    values = (found.difference, found.ci.low, found.ci.high)
    difference, low, high = (signed(measure.scale * value, measure.digits) for value in values)
    tiles([("Difference", f"{difference} {measure.steps}", f"[{low}, {high}]"), middle, test])
    smallest = f"{measure.scale * found.minimum_detectable:.{measure.digits}f} {measure.steps}"
    st.caption(f"{meaning} With {found.n} {items}, differences from {smallest} on would usually be found.")
