"""Comparison of two stored runs: head scores head by head, evaluations question by question."""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.panels import caution, empty, escaped, p_words, problem, tile
from cap_viz.dashboard.runs.words import plain
from cap_viz.dashboard.stored import paired_in
from cap_viz.dashboard.tasks.data import STANDARDISED, TaskPair, measured_in
from cap_viz.dashboard.tasks.pair import pair_section
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.eval_metrics import ACC, EXACT_MATCH, TOKEN_LOSS, Measure
from cap_viz.evaluation.verdict import grade_of
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.evaluation import load_answers, measures_of
from cap_viz.runs.run_queries import is_head_scores, is_run_of
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import PairedComparison, compare_paired, usual_top
from cap_viz.tasks.pairing import check_same_items


def overlay(store: Store, first: StoredRun, second: StoredRun) -> None:
    try:
        if is_head_scores(first) and is_head_scores(second):
            overlay_scores(store, first, second)
        elif is_run_of(first, EvalSpec) and is_run_of(second, EvalSpec):
            overlay_evaluations(store, first, second)
        else:
            empty(
                "These two cannot be compared", "Pick two exact head scores, or two evaluations of the same questions."
            )
    except CapVizError as error:
        problem(str(error))


def overlay_scores(store: Store, first: StoredRun[ScoreSpec], second: StoredRun[ScoreSpec]) -> None:
    if first.spec.model != second.spec.model:
        caution("The two runs are of different weights: a head has the same number in both, but not the same weights.")
    one, other = (measured_in(store, run, suffix=f" {run.key[:6]}") for run in (first, second))
    pair_section(store, TaskPair(one, other, STANDARDISED, usual_top(one.stats.estimate.rank.size)), selected=None)


def paired_evaluations(
    store: Store, first: StoredRun[EvalSpec], second: StoredRun[EvalSpec]
) -> tuple[Measure, PairedComparison]:
    """Compare item by item: right answers, or the loss per token of texts (running text, worked solutions).

    Raises `CapVizError` if the items or the kinds of answers differ.
    """
    measures = {measures_of(run.spec)[0] for run in (first, second)}
    if measures == {EXACT_MATCH}:
        one, other = (load_answers(store, run) for run in (first, second))
        check_same_items(one.items, other.items)
        return EXACT_MATCH, compare_paired(one.correct, other.correct)
    if EXACT_MATCH in measures:
        raise UsageError("One of the two wrote its answers out and the other did not; pick two of a kind.")
    measure = ACC if measures == {ACC} else TOKEN_LOSS
    return measure, paired_in(store, first, second, measure)


def overlay_evaluations(store: Store, first: StoredRun[EvalSpec], second: StoredRun[EvalSpec]) -> None:
    measure, found = paired_evaluations(store, first, second)
    names = [f"{plain(run.spec)} ({run.key[:6]})" for run in (first, second)]
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
    tiles = (("Difference", f"{difference} {measure.steps}", f"[{low}, {high}]"), middle, test)
    for place, facts in zip(st.columns(3), tiles, strict=True):
        with place:
            tile(*facts)
    smallest = f"{measure.scale * found.minimum_detectable:.{measure.digits}f} {measure.steps}"
    st.caption(f"{meaning} With {found.n} {items}, differences from {smallest} on would usually be found.")
