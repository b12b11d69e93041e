"""Head scores by name: stored runs, the hybrid combinations of two, and runs being computed.

The name (`n48-seed0-zero`) stands in links and stays when a job becomes a run. Runs of the same name (with different
reference examples, for instance) get their keys appended.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.jobs import Job
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.sample_plan import can_combine
from cap_viz.runs.spec import ScoreSpec, spec_key
from cap_viz.runs.store import StoredRun


@dataclass(frozen=True)
class ScoreSource:
    """Named head scores; exactly one of `run` and `job` is set.

    A hybrid source combines two runs: `run` is the exact part, `gradient` the gradient part.
    """

    name: str
    spec: ScoreSpec
    run: StoredRun[ScoreSpec] | None = None
    job: Job | None = None
    gradient: StoredRun[ScoreSpec] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Key of the run, stored or being computed; for a combination the keys of both parts."""
        return tuple(part.key for part in (self.run, self.job, self.gradient) if part is not None)

    @property
    def seniority(self) -> tuple[bool, bool, str, int, tuple[str, ...]]:
        """Sort key to decide which source keeps a shared name: shipped runs, then the longest stored, jobs last."""
        runs = [run for run in (self.run, self.gradient) if run is not None]
        stored = max((run.created for run in runs), default="")
        number = 0 if self.job is None else self.job.number
        return not runs, any(run.origin != "precomputed" for run in runs), stored, number, self.keys

    @property
    def estimator(self) -> str:
        return "hybrid" if self.gradient is not None else self.spec.estimator

    @property
    def metric(self) -> str | None:
        """The only metric of the source; None if it holds all metrics."""
        return (self.spec if self.gradient is None else self.gradient.spec).metric


def run_name(spec: ScoreSpec) -> str:
    n, seed = len(spec.examples.ids), spec.examples.seed
    drawn = f"seed{seed}" if spec.examples.split == "calibration" else f"{spec.examples.split}-{spec_key(spec)[:6]}"
    estimator = "" if spec.estimator == "exact" else f"-{spec.estimator}-{spec.metric}"
    reference = "" if spec.reference is None else f"-ref{len(spec.reference.ids)}"
    asked = "" if spec.examples.prompt is None else f"-prompt-{spec_key(spec)[:6]}"
    return f"n{n}-{drawn}-{spec.ablation}{reference}{estimator}{asked}"


def hybrid_name(exact: ScoreSpec, gradient: ScoreSpec) -> str:
    return f"n{len(exact.examples.ids)}of{run_name(replace(gradient, estimator='hybrid'))[1:]}"


def stored_sources(runs: Iterable[StoredRun], model: ModelRef, task: str) -> list[ScoreSource]:
    """Return the stored sources under their usual names, which may repeat.

    Exact runs come first, then hybrid combinations, then gradient runs; in each group zero ablation comes before other
    ablations, and more examples before fewer.
    """
    runs = list(runs)
    exact, gradient = (
        [
            ScoreSource(run_name(run.spec), run.spec, run)
            for run in score_runs(runs, model, task, estimator=estimator, any_prompt=True)
        ]
        for estimator in ("exact", "gradient")
    )
    combined = [
        ScoreSource(hybrid_name(few.spec, many.spec), few.spec, few.run, gradient=many.run)
        for many in gradient
        for few in exact
        if can_combine(few.spec, many.spec)
    ]
    return [
        source
        for group in (exact, combined, gradient)
        for source in sorted(
            group, key=lambda source: (source.spec.examples.prompt or "", source.spec.ablation != "zero")
        )
    ]


def told_apart(found: Sequence[ScoreSource]) -> list[ScoreSource]:
    """Make names unique: the most senior source of a name keeps it, the others get their keys appended.

    A link thus keeps showing its run when another run of the same name is stored.
    """
    eldest: dict[str, ScoreSource] = {}
    for source in sorted(found, key=lambda source: source.seniority):
        eldest.setdefault(source.name, source)
    return [
        source
        if source is eldest[source.name]
        else replace(source, name="-".join([source.name, *(key[:8] for key in source.keys)]))
        for source in found
    ]


def shown_name(runs: Iterable[StoredRun], run: StoredRun) -> str:
    """Return the name of a stored run of head scores, among all stored `runs`."""
    available = told_apart(stored_sources(runs, run.spec.model, run.spec.examples.task))
    return next(source.name for source in available if source.keys == (run.key,))
