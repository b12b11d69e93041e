"""Jobs: what a session submits to the queue, and what pages see of it.

A job is queued, loads its model, then runs step by step until it is done, failed or cancelled; in between it may wait
for another process that computes the same run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import ModelRef
from cap_viz.progress import Progress
from cap_viz.runs.kinds import KINDS
from cap_viz.runs.spec import ENGINE_VERSION, SCHEMA_VERSION, MaskSpec, RunSpec, key_of, mask_dict, spec_key
from cap_viz.runs.store import StoredRun

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

State = Literal["queued", "loading", "running", "waiting", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
# State -> possible next states; "loading" goes back to "queued" where running jobs leave no memory for the model.
NEXT_STATES: dict[State, tuple[State, ...]] = {
    "queued": ("loading", "cancelled"),
    "loading": ("running", "queued", "failed", "cancelled"),
    "running": ("waiting", *ENDED),
    "waiting": ("running", *ENDED),
}

# Share of the work after which the pace tells how long the rest takes; before, estimates jump.
PACE_SHARE = 0.05

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class PrunedWeights:
    """Spec of pruned weights, a job for the Playground whose result stays in memory."""

    model: ModelRef
    mask: MaskSpec

    kind = "weights"

    @property
    def key(self) -> str:
        content = {"kind": self.kind, "model": asdict(self.model), "mask": mask_dict(self.mask)}
        return key_of(content, ENGINE_VERSION, SCHEMA_VERSION)


@dataclass(frozen=True)
class ExportedModel(PrunedWeights):
    """Spec of a pruned model as a folder of files (see `runs/exports.py`)."""

    kind = "export"


JobSpec = RunSpec | PrunedWeights


@dataclass
class Job:
    """A submitted run and its state. Pages read it; only the worker writes it (except for `JobQueue.cancel`).

    `sessions` are those that submitted it. `waits_for` says in one sentence why a queued job cannot start yet, where
    the order alone does not explain it. `spent` is the total seconds of its turns. The pace counts from the first
    results: `started`, `start_share` and `start_spent` are moved there.
    """

    number: int
    spec: JobSpec
    title: str
    sessions: list[str] = field(default_factory=lambda: [""])
    state: State = "queued"
    progress: Progress = field(default_factory=lambda: Progress(0, 1, "waiting for its turn"))
    waits_for: str = ""
    error: str = ""
    result: StoredRun | None = None
    started: float | None = None
    ended: float | None = None
    start_share: float = 0.0
    start_spent: float = 0.0
    spent: float = 0.0
    look_again: float = 0.0
    steps: Generator[Progress, None, StoredRun | None] | None = None
    cancel_asked: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> str:
        return job_key(self.spec)

    @property
    def active(self) -> bool:
        return self.state not in ENDED

    @property
    def is_started(self) -> bool:
        return self.state in ("loading", "running", "waiting")

    @property
    def seconds(self) -> float:
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started

    @property
    def seconds_left(self) -> float | None:
        """Remaining seconds at this process's pace so far; None before the pace is known."""
        return self.left_after(self.seconds)

    @property
    def turns_left(self) -> float | None:
        """Remaining seconds of the job's own turns, whatever runs beside it; None before the pace is known."""
        return self.left_after(self.spent - self.start_spent)

    def left_after(self, seconds: float) -> float | None:
        gained = self.progress.share - self.start_share
        if self.state != "running" or gained < PACE_SHARE or self.seconds < 1:
            return None
        return seconds * (1 - self.progress.share) / gained

    @property
    def holds_weights(self) -> bool:
        """Whether the job, once started, holds a pruned copy of the weights."""
        return isinstance(self.spec, PrunedWeights) or KINDS[self.spec.kind].holds_weights(self.spec)

    def may_run_beside(self, other: Job) -> bool:
        """Whether two jobs of a session may be computed side by side."""
        if isinstance(self.spec, PrunedWeights) or self.spec.kind != other.spec.kind:
            return False
        return KINDS[self.spec.kind].side_by_side(self.spec, other.spec)

    def enter(self, state: State) -> None:
        """Move to another state. Raises `RuntimeError` for a transition not in `NEXT_STATES`."""
        if state not in NEXT_STATES.get(self.state, ()):
            raise RuntimeError(f"job {self.number} cannot go from {self.state} to {state}")
        self.state = state


class Request(Future[Answer]):
    """A short computation on a model. `waits_for` says why it has not run yet, where that may take long."""

    def __init__(self, model_id: str, question: Callable[[ReasoningModel], Answer]) -> None:
        super().__init__()
        self.model_id, self.question = model_id, question
        self.waits_for = ""
        self.look_again = 0.0


def job_key(spec: JobSpec) -> str:
    return spec.key if isinstance(spec, PrunedWeights) else spec_key(spec)


def check_size(spec: JobSpec) -> None:
    """Raise `CapVizError` for a run with more examples than a queue shared by several sessions should accept."""
    if isinstance(spec, PrunedWeights):
        return
    n, most = len(spec.examples.ids), KINDS[spec.kind].most_examples
    if n > most:
        raise CapVizError(
            f"{n} examples are too many for one job of the dashboard (at most {most}); run it in the shell, "
            "the dashboard shows it when it is done."
        )


def sentence(error: BaseException) -> str:
    """Turn an error into one sentence for the user: our own messages as they are, others with advice."""
    if isinstance(error, CapVizError):
        return str(error)
    if isinstance(error, OSError):
        return f"A file could not be written or read ({error.strerror or error}); check disk space and permissions."
    if isinstance(error, MemoryError):
        return "The machine ran out of memory; use fewer examples or a smaller model."
    return f"Something unexpected went wrong ({type(error).__name__}); the log has the details."
