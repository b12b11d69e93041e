"""Comparison of two stored runs: head scores head by head, evaluations question by question."""

from __future__ import annotations

import streamlit as st

from cap_viz.dashboard.components.panels import caution, empty, escaped, p_words, problem, tile
from cap_viz.dashboard.stored import paired_in, statistics_of
from cap_viz.dashboard.tasks.controls import STANDARDISED, TaskPair
from cap_viz.dashboard.tasks.data import METRIC, Measured
from cap_viz.dashboard.tasks.pair import pair_section
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.eval_metrics import ACC, TOKEN_LOSS
from cap_viz.evaluation.generation import GenerationProtocol
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds import describe
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.protocols import PerplexityProtocol, SolutionProtocol, protocol_in, protocol_of
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import PairedComparison, compare_paired, true_spread, usual_top
from cap_viz.tasks import load_task
from cap_viz.tasks.pairing import check_same_items


def overlay(store: Store, first: StoredRun, second: StoredRun) -> None:
    try:
        if is_exact(first) and is_exact(second):
            overlay_scores(store, first, second)
        elif isinstance(first.spec, EvalSpec) and isinstance(second.spec, EvalSpec):
            if reads_text(first.spec) or reads_text(second.spec):
                overlay_losses(store, first, second)
            else:
                overlay_accuracies(store, first, second)
        else:
            empty(
                "These two cannot be compared", "Pick two exact head scores, or two evaluations of the same questions."
            )
    except CapVizError as error:
        problem(str(error))


def is_exact(run: StoredRun) -> bool:
    return isinstance(run.spec, ScoreSpec) and run.spec.estimator == "exact" and run.spec.parts is None


def overlay_scores(store: Store, first: StoredRun, second: StoredRun) -> None:
    if first.spec.model != second.spec.model:
        caution("The two runs are of different weights: a head has the same number in both, but not the same weights.")
    both = [scored(store, run) for run in (first, second)]
    top = usual_top(both[0].stats.estimate.rank.size)
    pair_section(store, TaskPair(both[0], both[1], STANDARDISED, top), selected=None)


def scored(store: Store, run: StoredRun) -> Measured:
    stats = statistics_of(store, run, METRIC)
    task = load_task(run.spec.examples.task)
    return Measured(task, run, stats, true_spread(stats.effects), label=f"{task.title} {run.key[:6]}")


def paired_evaluations(store: Store, first: StoredRun, second: StoredRun) -> PairedComparison:
    """Compare right answers item by item. Raises `CapVizError` if the questions or the kinds of answers differ."""
    written = [isinstance(protocol_in(run.spec), GenerationProtocol) for run in (first, second)]
    if not any(written):
        return paired_in(store, first, second, ACC)
    if not all(written):
        raise UsageError("One of the two wrote its answers out and the other chose among options; pick two of a kind.")
    one, other = (load_answers(store, run) for run in (first, second))
    check_same_items(one.items, other.items)
    return compare_paired(one.correct, other.correct)


def reads_text(spec: EvalSpec) -> bool:
    """Whether an evaluation measures the loss on given text: perplexity, or the loss on solutions."""
    return isinstance(protocol_of(spec), SolutionProtocol | PerplexityProtocol)


def overlay_losses(store: Store, first: StoredRun, second: StoredRun) -> None:
    """Compare the loss per token text by text. Raises `CapVizError` if the texts differ."""
    found = paired_in(store, first, second, TOKEN_LOSS)
    names = [f"{describe(run.spec)} ({run.key[:6]})" for run in (first, second)]
    st.markdown(f"#### {escaped(names[0])} against {escaped(names[1])}")
    difference, losses, p_value = st.columns(3)
    with difference:
        limits = f"[{signed(found.ci.low, 3)}, {signed(found.ci.high, 3)}]"
        tile("Difference", f"{signed(found.difference, 3)} nats per token", limits)
    with losses:
        tile("Losses", f"{found.mean_a:.3f} and {found.mean_b:.3f}", f"means of {found.n} texts")
    with p_value:
        tile("t-test p", p_words(found.p_value), "paired")
    st.caption(
        f"The same texts, loss per token: positive means that the first is more surprised. With {found.n} texts, "
        f"differences from {found.minimum_detectable:.3f} nats on would usually be found."
    )


def overlay_accuracies(store: Store, first: StoredRun, second: StoredRun) -> None:
    found = paired_evaluations(store, first, second)
    names = [f"{describe(run.spec)} ({run.key[:6]})" for run in (first, second)]
    st.markdown(f"#### {escaped(names[0])} against {escaped(names[1])}")
    difference, flips, p_value = st.columns(3)
    with difference:
        tile(
            "Difference",
            f"{signed(100 * found.difference, 1)} points",
            f"[{signed(100 * found.ci.low, 1)}, {signed(100 * found.ci.high, 1)}]",
        )
    with flips:
        tile("Flips", f"{found.only_a} : {found.only_b}", f"of {found.n} questions; right in one only")
    with p_value:
        tile("McNemar p", p_words(found.p_value), "exact, paired")
    verdict = "differ" if found.is_clear else "cannot be told apart on these questions"
    st.caption(
        f"The two {verdict} (5 % level, not corrected for looking at several pairs). With {found.n} questions, "
        f"differences from {100 * found.minimum_detectable:.1f} points on would usually be found."
    )
