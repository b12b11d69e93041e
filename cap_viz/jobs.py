"""The job queue: one worker thread that owns the models and computes runs one after another.

Evaluations of the same questions that wait in a row take turns, so that dense and pruned accuracies fill in together.
Long jobs advance step by step; between steps the worker serves interactive requests and looks at the cancel
flag. Two people asking for the same run share one job. Closing a page loses nothing: the job goes on, and its
result is stored.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from cap_viz.engines import HERE, LOCAL, Engine, asked_engine, engine_named
from cap_viz.errors import CapVizError
from cap_viz.progress import Progress
from cap_viz.spec import EvalSpec, RunSpec, spec_key
from cap_viz.store import Store, StoredRun

if TYPE_CHECKING:
    from cap_viz.models import ReasoningModel

log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
KEEP_ENDED = 50
MAX_QUEUED = 64
# More would keep everybody else waiting for hours; the shell takes any number.
MAX_EXAMPLES = {"score": 1_000, "eval": 10_000, "profile": 1_000, "roles": 1_000, "joint": 1_000}
# Each holds a pruned copy of the weights.
MOST_TOGETHER = 3

Answer = TypeVar("Answer")


@dataclass
class Job:
    """One run being computed. Pages read it; only the worker writes it (but for `cancel`)."""

    number: int
    spec: RunSpec
    title: str
    state: State = "queued"
    progress: Progress = field(default_factory=lambda: Progress(0, 1, "waiting for its turn"))
    error: str = ""
    result: StoredRun | None = None
    started: float | None = None
    ended: float | None = None
    start_share: float = 0.0
    cancel_asked: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> str:
        return spec_key(self.spec)

    @property
    def active(self) -> bool:
        return self.state not in ENDED

    @property
    def seconds(self) -> float:
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started

    @property
    def seconds_left(self) -> float | None:
        """Judged from this process's own pace; None until there is one."""
        gained = self.progress.share - self.start_share
        if self.state != "running" or gained <= 0 or self.seconds < 1:
            return None
        return self.seconds * (1 - self.progress.share) / gained


class JobQueue:
    """Jobs in order of arrival, computed by one daemon thread that starts with the first of them."""

    def __init__(
        self,
        store: Store,
        load_model: Callable[[str], ReasoningModel],
        engine: Callable[[], Engine] = lambda: HERE,
        most_together: int = MOST_TOGETHER,
    ) -> None:
        self.store = store
        self.load_model = load_model
        self.engine = engine
        self.most_together = most_together
        self.jobs: dict[int, Job] = {}
        self.waiting: deque[Job] = deque()
        self.requests: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self.model: ReasoningModel | None = None
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.thread: threading.Thread | None = None

    def submit(self, spec: RunSpec, title: str) -> Job:
        """Queue a run; the active job of the same spec is returned if there is one.

        Raises `CapVizError` when the queue is full or the run is too large for one.
        """
        check_size(spec)
        key = spec_key(spec)
        with self.lock:
            for job in self.jobs.values():
                if job.active and job.key == key and not job.cancel_asked.is_set():
                    return job
            if len(self.waiting) >= MAX_QUEUED:
                raise CapVizError(f"{MAX_QUEUED} jobs are waiting already; cancel some or try again later.")
            job = Job(number=next(self.numbers), spec=spec, title=title)
            self.jobs[job.number] = job
            self.waiting.append(job)
            self.forget_old()
        self.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Ask a job to stop; a running one does at its next step, and what it has finished stays for a resume."""
        job.cancel_asked.set()
        with self.lock:
            if job in self.waiting:
                self.waiting.remove(job)
                job.state = "cancelled"
        self.notify()

    def ask(self, model_id: str, question: Callable[[ReasoningModel], Answer]) -> Future[Answer]:
        """Run a short question on the model between the steps of whatever is running."""
        future: Future[Answer] = Future()
        self.requests.put((lambda: question(self.model_for(model_id)), future))
        self.notify()
        return future

    def find(self, spec: RunSpec) -> Job | None:
        """The newest job of that spec, active or ended."""
        key = spec_key(spec)
        with self.lock:
            return next((job for job in reversed(self.jobs.values()) if job.key == key), None)

    def listing(self) -> list[Job]:
        """All remembered jobs, oldest first."""
        with self.lock:
            return list(self.jobs.values())

    def position(self, job: Job) -> int:
        """How many jobs go first: 0 for the running one and for the next in line when nothing runs."""
        with self.lock:
            if job not in self.waiting:
                return 0
            running = any(other.state == "running" for other in self.jobs.values())
            return self.waiting.index(job) + int(running)

    def forget_old(self) -> None:
        ended = [job for job in self.jobs.values() if not job.active]
        for job in ended[: max(0, len(ended) - KEEP_ENDED)]:
            del self.jobs[job.number]

    def notify(self) -> None:
        with self.lock:
            if self.thread is None or not self.thread.is_alive():
                self.thread = threading.Thread(target=self.work, name="cap-viz-worker", daemon=True)
                self.thread.start()
        self.wake.set()

    def work(self) -> None:
        while True:
            self.wake.wait()
            self.wake.clear()
            while True:
                self.answer_requests()
                jobs = self.next_jobs()
                if not jobs:
                    break
                self.compute(jobs)

    def next_jobs(self) -> list[Job]:
        """The next job, with those behind it that answer the same questions: they take turns, so that results that
        are to be compared fill in together."""
        with self.lock:
            jobs = [self.waiting.popleft()] if self.waiting else []
            while jobs and self.waiting and len(jobs) < self.most_together and side_by_side(jobs[0], self.waiting[0]):
                jobs.append(self.waiting.popleft())
            for job in jobs:
                job.state, job.started = "running", time.monotonic()
        return jobs

    def answer_requests(self) -> None:
        while True:
            try:
                answer, future = self.requests.get_nowait()
            except queue.Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(answer())
            except BaseException as error:
                future.set_exception(error)

    def compute(self, jobs: Sequence[Job]) -> None:
        """Take steps of the jobs in turn until all have ended: `next_turn` says whose."""
        running = {job.number: (job, self.steps_of(job)) for job in jobs}
        spent = dict.fromkeys(running, 0.0)
        while running:
            # Between any two steps, so that a cancelled job does not wait for the others.
            for number, (job, steps) in list(running.items()):
                if job.cancel_asked.is_set():
                    end(job, steps, "cancelled")
                    del running[number]
            if running:
                number = next_turn([job for job, _ in running.values()], spent)
                job, steps = running[number]
                started = time.monotonic()
                if (state := advance(job, steps)) is not None:
                    end(job, steps, state)
                    del running[number]
                spent[number] += time.monotonic() - started
            self.answer_requests()

    def steps_of(self, job: Job) -> Generator[Progress, None, StoredRun]:
        from cap_viz.runs import run_steps

        job.progress = Progress(0, 1, "loading the model")
        # Loading is the first step, so that a failure is this job's alone.
        return (yield from run_steps(job.spec, self.model_for(job.spec.model.id), self.store, self.engine()))

    def model_for(self, model_id: str) -> ReasoningModel:
        """The loaded model, or the asked one in its place: one model is held at a time."""
        if self.model is None or self.model.ref.id != model_id:
            self.model = None
            self.model = self.load_model(model_id)
        return self.model


def check_size(spec: RunSpec) -> None:
    """Raise `CapVizError` for a run of more examples than a shared queue should take."""
    n, most = len(spec.examples.ids), MAX_EXAMPLES[spec.kind]
    if n > most:
        raise CapVizError(
            f"{n} examples are too many for one job of the dashboard (at most {most}); run it in the shell, "
            "the dashboard shows it when it is done."
        )


def side_by_side(first: Job, second: Job) -> bool:
    """Whether two jobs evaluate the same weights, differently pruned, on the same questions asked alike."""
    one, other = first.spec, second.spec
    if not isinstance(one, EvalSpec) or not isinstance(other, EvalSpec):
        return False
    return (one.model, one.examples, one.protocol) == (other.model, other.examples, other.protocol)


def next_turn(jobs: Sequence[Job], spent: Mapping[int, float]) -> int:
    """The first job that has shown nothing yet, so that there soon is something to compare; else the one that has had
    the least time."""
    silent = [job.number for job in jobs if not job.progress.partial]
    return silent[0] if silent else min((job.number for job in jobs), key=lambda number: spent[number])


def advance(job: Job, steps: Generator[Progress, None, StoredRun]) -> State | None:
    """One step; the state the job ends with, or None while it goes on."""
    first = job.progress.note == "loading the model"
    try:
        job.progress = next(steps)
    except StopIteration as stop:
        job.result = stop.value
        return "done"
    except Exception as error:
        job.error = sentence(error)
        log.exception("job %d (%s) failed", job.number, job.title)
        return "failed"
    if first or job.progress.partial is None:
        job.start_share, job.started = job.progress.share, time.monotonic()
    return None


def end(job: Job, steps: Generator[Progress, None, StoredRun], state: State) -> None:
    steps.close()
    job.ended = time.monotonic()
    job.state = state


@cache
def shared_queue() -> JobQueue:
    """The process's one queue. Not in Streamlit's caches, which any visitor can clear for everyone."""
    from cap_viz.models import load, resolve

    choice = asked_engine()
    return JobQueue(
        Store(),
        lambda model_id: load(resolve(model_id)),
        # With the first job, whose error it is if there is no such engine.
        engine=cache(lambda: engine_named(choice)),
        # A cluster computes one run at a time, on all its workers.
        most_together=MOST_TOGETHER if choice.name == LOCAL else 1,
    )


def sentence(error: Exception) -> str:
    """What to show for an error: our own sentences as they are, a full disk by name, the rest with a pointer."""
    if isinstance(error, CapVizError):
        return str(error)
    if isinstance(error, OSError):
        return f"A file could not be written or read ({error.strerror or error}); check disk space and permissions."
    if isinstance(error, MemoryError):
        return "The machine ran out of memory; use fewer examples or a smaller model."
    return f"Something unexpected went wrong ({type(error).__name__}); the log has the details."
