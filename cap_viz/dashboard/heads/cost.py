"""Cost of a new head measurement, estimated from stored runs of the same estimator."""

from __future__ import annotations

from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.source import shape_of
from cap_viz.progress import duration
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun

UNKNOWN = {
    "exact": "Every head is ablated in turn on every example. No run has been timed here yet, so the time is unknown.",
    "gradient": "One backward pass per example judges all heads, about a hundredth of the exact estimator's time.",
}


def cost_sentence(view: Frame, n: int, task: str, estimator: str = "exact") -> str:
    """State the passes and time to score `n` examples of a task, and the run the estimate rests on."""
    basis = timed_run(view, task, estimator)
    if basis is None:
        return UNKNOWN[estimator]
    shape, seconds = shape_of(basis), seconds_each(basis)
    heads = shape.n_layers * shape.n_heads
    passes = f"{n * heads:,} ablated passes ({n} × {heads} heads)" if estimator == "exact" else f"{n} backward passes"
    return (
        f"{passes}, about **{duration(n * seconds)}**, "
        f"judged from {seconds:.2g} s per example in the stored run of {len(basis.spec.examples.ids)} on "
        f"{basis.spec.examples.task} ({basis.provenance.get('threads', '?')} threads; other machines differ)."
    )


def seconds_each(run: StoredRun) -> float:
    return run.provenance["seconds"] / len(run.spec.examples.ids)


def timed_run(view: Frame, task: str, estimator: str = "exact") -> StoredRun | None:
    """Return the best uninterrupted run to time by: of the task, then stored locally, then with most examples."""
    timed = [
        run
        for run in view.runs
        if isinstance(run.spec, ScoreSpec)
        and run.spec.model == view.model
        and run.spec.estimator == estimator
        and run.spec.parts is None
        and not run.provenance["resumed_batches"]
    ]
    return max(
        timed,
        key=lambda run: (run.spec.examples.task == task, run.origin == "live", len(run.spec.examples.ids)),
        default=None,
    )
