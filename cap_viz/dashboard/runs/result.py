"""The main result of a stored run in a few words, for the table on the Runs page."""

from __future__ import annotations

from cap_viz.dashboard.components.head_map import head_name
from cap_viz.dashboard.components.panels import percent
from cap_viz.dashboard.stored import cached_by_run, report_of, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.evaluation.perplexity import perplexity_of
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.evaluation import load_answers
from cap_viz.runs.kinds.joint import judged, load_joint
from cap_viz.runs.protocols import ChoiceProtocol, GenerationProtocol, PerplexityProtocol, SolutionProtocol, protocol_in
from cap_viz.runs.run_queries import is_head_scores, is_run_of
from cap_viz.runs.spec import JointSpec
from cap_viz.runs.store import Store, StoredRun


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
