"""Comparison of two stored runs: head scores head by head, evaluations question by question."""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.panels import caution, empty, escaped, p_words, problem, tile
from cap_viz.dashboard.runs.table import plain
from cap_viz.dashboard.stored import paired_in, statistics_of
from cap_viz.dashboard.tasks.data import METRIC, STANDARDISED, Measured, TaskPair
from cap_viz.dashboard.tasks.pair import pair_section
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.eval_metrics import ACC, TOKEN_LOSS
from cap_viz.evaluation.generation import GenerationProtocol
from cap_viz.evaluation.verdict import grade_of
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.protocols import PerplexityProtocol, SolutionProtocol, protocol_in
from cap_viz.runs.run_queries import is_head_scores, is_run_of
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import PairedComparison, compare_paired, true_spread, usual_top
from cap_viz.tasks import load_task
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
    both = [scored(store, run) for run in (first, second)]
    top = usual_top(both[0].stats.estimate.rank.size)
    pair_section(store, TaskPair(both[0], both[1], STANDARDISED, top), selected=None)


def scored(store: Store, run: StoredRun[ScoreSpec]) -> Measured:
    stats = statistics_of(store, run, METRIC)
    task = load_task(run.spec.examples.task)
    return Measured(task, run, stats, true_spread(stats.effects), label=f"{task.title} {run.key[:6]}")


def paired_evaluations(store: Store, first: StoredRun, second: StoredRun) -> PairedComparison:
    """Compare item by item: right answers, or the loss per token of texts (running text, worked solutions).

    Raises `CapVizError` if the items or the kinds of answers differ.
    """
    protocols = [protocol_in(run.spec) for run in (first, second)]
    if any(isinstance(protocol, SolutionProtocol | PerplexityProtocol) for protocol in protocols):
        return paired_in(store, first, second, TOKEN_LOSS)
    written = [isinstance(protocol, GenerationProtocol) for protocol in protocols]
    if not any(written):
        return paired_in(store, first, second, ACC)
    if not all(written):
        raise UsageError("One of the two wrote its answers out and the other chose among options; pick two of a kind.")
    one, other = (load_answers(store, run) for run in (first, second))
    check_same_items(one.items, other.items)
    return compare_paired(one.correct, other.correct)


def overlay_evaluations(store: Store, first: StoredRun, second: StoredRun) -> None:
    found = paired_evaluations(store, first, second)
    names = [f"{plain(run.spec)} ({run.key[:6]})" for run in (first, second)]
    st.markdown(f"#### {escaped(names[0])} against {escaped(names[1])}")
    if found.only_a is not None:
        items, unit, scale, digits = "questions", "points", 100, 1
        middle = ("Flips", f"{found.only_a} : {found.only_b}", f"of {found.n} questions; right in one only")
        test = ("McNemar p", p_words(found.p_value), "exact, paired")
        verdict = "differ" if grade_of(found) == "clear" else "cannot be told apart on these questions"
        meaning = f"The two {verdict} (5 % level, not corrected for looking at several pairs)."
    else:
        items, unit, scale, digits = "texts", "nats per token", 1, 3
        middle = ("Losses", f"{found.mean_a:.3f} and {found.mean_b:.3f}", f"means of {found.n} texts")
        test = ("t-test p", p_words(found.p_value), "paired")
        meaning = "The same texts, loss per token: positive means that the first is more surprised."
    difference, low, high = (signed(scale * value, digits) for value in (found.difference, found.ci.low, found.ci.high))
    tiles = (("Difference", f"{difference} {unit}", f"[{low}, {high}]"), middle, test)
    for place, facts in zip(st.columns(3), tiles, strict=True):
        with place:
            tile(*facts)
    smallest = f"{scale * found.minimum_detectable:.{digits}f} {unit}"
    st.caption(f"{meaning} With {found.n} {items}, differences from {smallest} on would usually be found.")
