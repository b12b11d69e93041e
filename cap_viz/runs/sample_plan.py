"""Head scores to compute: both parts of a hybrid run, its sizes planned from a pilot, and the time scoring takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from cap_viz.attribution.hybrid import plan_hybrid
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.run_queries import is_head_scores
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats.budget import ExampleCost, HybridPlan
from cap_viz.stats.hybrid import FEWEST_EXACT
from cap_viz.tasks.example_sets import ExampleSet

# Runs record hundredths of a second; a tiny model's time can round to 0.
LEAST_SECONDS = 0.01


def hybrid_specs(exact: ScoreSpec, metric: str | None, many: ExampleSet) -> dict[str, ScoreSpec]:
    """Make the specs of both parts of a hybrid run, by estimator; ablations take values from the exact examples."""
    gradient = replace(exact, estimator="gradient", metric=metric, examples=many, reference=exact.values_from)
    return {"exact": exact, "gradient": gradient}


def can_combine(exact: ScoreSpec, gradient: ScoreSpec) -> bool:
    """Whether these are the parts of a hybrid run: the exact examples are some of the gradient's, all else is alike."""
    few, many = exact.examples.ids, gradient.examples.ids
    alike = gradient == hybrid_specs(exact, gradient.metric, gradient.examples)["gradient"]
    same_prompt = exact.examples.prompt == gradient.examples.prompt
    return alike and same_prompt and FEWEST_EXACT <= len(few) < len(many) and set(few) <= set(many)


def pilot_specs(exact: ScoreSpec, metric: str) -> dict[str, ScoreSpec]:
    """Make the specs of a pilot, by estimator: the examples of `exact`, `FEWEST_EXACT` of them, measured by both."""
    return {"exact": exact, "gradient": replace(exact, estimator="gradient", metric=metric)}


def plan_from(
    store: Store,
    pilot: Mapping[str, StoredRun],
    *,
    available: int,
    seconds: float | None = None,
    half_width: float | None = None,
) -> HybridPlan:
    """Plan the sizes of a hybrid run for a time, or a median half-width of the interval in the metric's unit.

    `pilot` holds the two stored runs by estimator; the seconds they took are the cost of an example. Raises
    `UsageError` where the budget cannot be met with the `available` examples.
    """
    return plan_hybrid(
        load_scores(store, pilot["exact"]),
        load_gradient(store, pilot["gradient"]),
        ExampleCost(exact=seconds_each(pilot["exact"]), gradient=seconds_each(pilot["gradient"])),
        available=available,
        seconds=seconds,
        half_width=half_width,
    )


def seconds_each(run: StoredRun) -> float:
    """Return the seconds per example that a run took."""
    return max(LEAST_SECONDS, run.provenance["seconds"]) / len(run.spec.examples.ids)


def seconds_of_passes(runs: Iterable[StoredRun], model: ModelRef, task: str, passes: int, n_heads: int) -> float | None:
    """Expect the time of passes with heads removed, at the pace of a stored run of head scores; None without one."""
    basis = timed_run(runs, model, task)
    return None if basis is None else passes * seconds_each(basis) / n_heads


def timed_run(
    runs: Iterable[StoredRun], model: ModelRef, task: str, *, estimator: str = "exact"
) -> StoredRun[ScoreSpec] | None:
    """Find the best uninterrupted run to time by: of the task, then stored locally, then with most examples."""
    timed = [
        run
        for run in runs
        if is_head_scores(run, estimator) and run.spec.model == model and not run.provenance["resumed_batches"]
    ]
    return max(
        timed,
        key=lambda run: (run.spec.examples.task == task, run.origin == "live", len(run.spec.examples.ids)),
        default=None,
    )
