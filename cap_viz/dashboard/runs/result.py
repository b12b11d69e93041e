"""The main result of a stored run: a few words for the table, tiles and a sentence for the run itself."""

from __future__ import annotations

from dataclasses import dataclass

from cap_viz.dashboard.components.head_map import head_name
from cap_viz.dashboard.components.panels import percent, percent_interval
from cap_viz.dashboard.stored import cached_by_run, level_in, report_of, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, ACC_NORM, against_guessing
from cap_viz.evaluation.generation import LENGTH
from cap_viz.evaluation.perplexity import perplexity_of
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.kinds.joint import judged, load_joint
from cap_viz.runs.protocols import ChoiceProtocol, GenerationProtocol, PerplexityProtocol, SolutionProtocol, protocol_in
from cap_viz.runs.run_queries import is_head_scores, is_run_of
from cap_viz.runs.spec import JointSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import wilson
from cap_viz.tasks import load_task


@cached_by_run(2048)
def result_of(store: Store, run: StoredRun) -> str:
    """Return accuracy, perplexity, loss or the head of largest effect; "" for runs without one main number."""
    try:
        return main_number(store, run)
    except CapVizError:  # Its sentence stands beside the run once it is picked.
        return "damaged"


def main_number(store: Store, run: StoredRun) -> str:
    match protocol_in(run.spec):
        case ChoiceProtocol():
            return percent(report_of(store, run).acc)
        case GenerationProtocol():
            return f"{percent(float(load_answers(store, run).correct.mean()))} exact match"
        case PerplexityProtocol():
            return f"{perplexity_of(report_of(store, run)).value:.2f} perplexity"
        case SolutionProtocol():
            return f"{solution_loss_of(report_of(store, run)).value:.3f} nats per token"
    if is_head_scores(run) or is_head_scores(run, "gradient"):
        estimate = statistics_of(store, run, "nll").estimate
        return f"{head_name(*estimate.top_head)} {signed(float(estimate.mean[estimate.top_head]), 2)} nats"
    if is_run_of(run, JointSpec):
        return f"{signed(float(judged(run.spec, load_joint(store, run), 'nll').joint.mean), 2)} nats"
    return ""


@dataclass(frozen=True)
class Facts:
    """Result of an evaluation: label, value and interval of each number, and a sentence on all."""

    tiles: tuple[tuple[str, str, str], ...]
    sentence: str


def facts_of(store: Store, run: StoredRun) -> Facts | None:
    """Return the result of an evaluation, None for other runs. Raises `CapVizError` for a damaged one."""
    match protocol_in(run.spec):
        case ChoiceProtocol():
            report = report_of(store, run)
            test = against_guessing(load_task(run.spec.examples.task), report)
            levels = [(measure.title, level_in(store, run, measure)) for measure in (ACC, ACC_NORM)]
            verdict = "clearly above" if test.clearly_above else "not clearly above"
            return Facts(
                tuple((title, percent(level.value), percent_interval(level.ci)) for title, level in levels),
                f"{int(report.correct.sum())} of {len(report)} questions right; {verdict} chance "
                f"({percent(test.chance)}).",
            )
        case GenerationProtocol():
            answers = load_answers(store, run)
            sides = {"strict": answers.correct, "flexible": answers.correct_flexible}
            return Facts(
                tuple(
                    (
                        f"Exact match, {side}",
                        percent(float(right.mean())),
                        percent_interval(wilson(int(right.sum()), len(right))),
                    )
                    for side, right in sides.items()
                ),
                f"{len(answers)} answers, {int(answers.tokens.sum()):,} tokens; an answer found in "
                f"{percent(answers.parse_rate, 0)} (strict) and {percent(answers.parse_rate_flexible, 0)} (flexible), "
                f"{percent(float((answers.ended == LENGTH).mean()), 0)} cut off.",
            )
        case PerplexityProtocol():
            found = perplexity_of(report_of(store, run))
            return Facts(
                (("Perplexity", f"{found.value:.2f}", f"[{found.ci.low:.2f}, {found.ci.high:.2f}]"),),
                f"{found.n_windows} windows of text, {found.n_tokens:,} tokens scored; the interval resamples windows.",
            )
        case SolutionProtocol():
            loss = solution_loss_of(report_of(store, run))
            return Facts(
                (("Loss on solutions", f"{loss.value:.3f} nats", f"[{loss.ci.low:.3f}, {loss.ci.high:.3f}]"),),
                f"Per token of {loss.n} worked solutions, {loss.n_tokens:,} tokens; the interval resamples examples.",
            )
    return None
