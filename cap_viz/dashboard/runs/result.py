"""The main result of a stored run: a few words for the table, and a sentence on an evaluation."""

from __future__ import annotations

from functools import lru_cache

from cap_viz.dashboard.components.head_map import head_name
from cap_viz.dashboard.components.panels import percent
from cap_viz.dashboard.stored import levels_in, report_of, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, TOKEN_LOSS, against_guessing
from cap_viz.evaluation.generation import LENGTH, GenerationProtocol
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.kinds.joint import judged, load_joint
from cap_viz.runs.protocols import ChoiceProtocol, PerplexityProtocol, protocol_of
from cap_viz.runs.run_queries import is_head_scores, is_run_of
from cap_viz.runs.spec import EvalSpec, JointSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import load_task


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
