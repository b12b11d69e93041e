"""Source of the Heads page: a stored run or one being computed, selected by a name common to both.

The name (`n48-seed0-zero`) stands in links and stays when a job becomes a run; pages show the title (`48 examples,
zeroed`). Runs of the same name (with different reference examples, for instance) get their keys appended.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import streamlit as st

from cap_viz.dashboard.components.job_card import active_jobs
from cap_viz.dashboard.components.submission import own_jobs
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.names import run_title
from cap_viz.dashboard.selection import asked_for, choose
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.jobs import Job
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import JointSpec, RoleSpec, ScoreSpec, spec_key
from cap_viz.runs.store import StoredRun
from cap_viz.stats.hybrid import FEWEST_EXACT

# Session key: the keys of a run to show once it is available; a hybrid run waits for both of its parts.
WANTED_RUN = "heads_wanted"


@dataclass(frozen=True)
class Source:
    """Named run; exactly one of `run` and `job` is set.

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
    def title(self) -> str:
        if self.gradient is None:
            return run_title(self.spec)
        return f"{len(self.spec.examples.ids)} + {run_title(replace(self.gradient.spec, estimator='hybrid'))}"

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
    return f"n{n}-{drawn}-{spec.ablation}{reference}{estimator}"


def hybrid_name(exact: ScoreSpec, gradient: ScoreSpec) -> str:
    return f"n{len(exact.examples.ids)}of{run_name(replace(gradient, estimator='hybrid'))[1:]}"


def sources(frame: Frame) -> list[Source]:
    """Return stored runs of this model and task, then active jobs, each with a unique name.

    Exact runs come first, then hybrid combinations, then gradient runs; in each group zero ablation comes before other
    ablations, and more examples before fewer.
    """
    jobs = {job.number: job for job in (*frame.jobs, *active_jobs(lambda spec: concerns(spec, frame)))}.values()
    # In this order: a job that is no longer active has its result.
    states = [(job, job.active, job.result) for job in jobs if concerns(job.spec, frame)]
    stored = {run.key for run in frame.runs}
    ended_since = [result for _, _, result in states if result is not None and result.key not in stored]
    found = stored_sources([*frame.runs, *ended_since], frame.model, frame.task.name)
    known = {source.keys for source in found}
    found += [
        Source(run_name(job.spec), job.spec, job=job)
        for job, active, _ in states
        if active and concerns(job.spec, frame) and (job.key,) not in known
    ]
    return told_apart(found)


def concerns(spec: object, frame: Frame) -> TypeGuard[ScoreSpec]:
    """Whether a spec is about heads of the chosen model on the chosen task."""
    return (
        isinstance(spec, ScoreSpec)
        and spec.model == frame.model
        and spec.examples.task == frame.task.name
        and spec.parts is None
    )


def stored_sources(runs: Sequence[StoredRun], model: ModelRef, task: str) -> list[Source]:
    """Return the stored sources under their usual names, which may repeat."""
    exact, gradient = (
        [Source(run_name(run.spec), run.spec, run=run) for run in score_runs(runs, model, task, estimator=estimator)]
        for estimator in ("exact", "gradient")
    )
    combined = [
        Source(hybrid_name(few.spec, many.spec), few.spec, run=few.run, gradient=many.run)
        for many in gradient
        for few in exact
        if can_combine(few.spec, many.spec)
    ]
    return [
        source
        for group in (exact, combined, gradient)
        for source in sorted(group, key=lambda source: source.spec.ablation != "zero")
    ]


def can_combine(exact: ScoreSpec, gradient: ScoreSpec) -> bool:
    """Whether the exact examples are some of the gradient's, with the same values in place of a head's output."""
    few, many = exact.examples.ids, gradient.examples.ids
    alike = exact.ablation == gradient.ablation and gradient.reference == exact.values_from
    return alike and FEWEST_EXACT <= len(few) < len(many) and set(few) <= set(many)


def told_apart(found: Sequence[Source]) -> list[Source]:
    """Make names unique: the most senior source of a name keeps it, the others get their keys appended.

    A link thus keeps showing its run when another run of the same name is stored.
    """
    eldest: dict[str, Source] = {}
    for source in sorted(found, key=lambda source: source.seniority):
        eldest.setdefault(source.name, source)
    return [
        source
        if source is eldest[source.name]
        else replace(source, name="-".join([source.name, *(key[:8] for key in source.keys)]))
        for source in found
    ]


def name_of(frame: Frame, spec: ScoreSpec) -> str:
    """Return the name of a run that is stored or was just queued."""
    keys = (spec_key(spec),)
    return next((source.name for source in sources(frame) if source.keys == keys), run_name(spec))


def shown_name(runs: Sequence[StoredRun], run: StoredRun) -> str:
    """Return the name of a stored head-score run on the Heads page."""
    available = told_apart(stored_sources(runs, run.spec.model, run.spec.examples.task))
    return next(source.name for source in available if source.keys == (run.key,))


def pick_source(frame: Frame, available: list[Source]) -> Source | None:
    """Draw the run selector, first of all with a run that was waited for; return its source, None without any."""
    if not available:
        return None
    wanted = next((source for source in available if source.keys == st.session_state.get(WANTED_RUN)), None)
    if wanted is not None:
        del st.session_state[WANTED_RUN]
        choose({"run": wanted.name})
    titles = titles_of(available)
    chosen = frame.selection.selectbox(
        "Run",
        "run",
        list(titles),
        names=lambda name: titles.get(name, name),
        what="the run",
        help="Stored and running measurements. 16 + 128 examples: 16 exactly, corrected by the gradients of 128.",
    )
    return next(source for source in available if source.name == chosen)


def titles_of(available: Sequence[Source]) -> dict[str, str]:
    """Return a plain title for each name; sources of the same title are told apart by their keys."""
    titles = [source.title for source in available]
    return {
        source.name: f"{source.title} ({'+'.join(key[:6] for key in source.keys)})"
        if titles.count(source.title) > 1
        else source.title
        for source in available
    }


def last_failure(frame: Frame, available: Collection[Source]) -> Job | None:
    """Return the job about heads that this session started last, if it failed or was cancelled.

    Its run leaves the address, so that the page is back at a stored one and no link is blamed.
    """
    kinds = ScoreSpec | RoleSpec | JointSpec
    own = [job for job in own_jobs() if isinstance(job.spec, kinds) and job.spec.model == frame.model]
    job = own[-1] if own else None
    if job is None or job.state not in ("failed", "cancelled"):
        return None
    (asked,) = (asked_for("run") or ("",))[-1:]
    is_known = asked in [source.name for source in available]
    if isinstance(job.spec, ScoreSpec) and asked.startswith(run_name(job.spec)) and not is_known:
        choose({"run": None})
    return job
