"""The job queue: one worker thread that owns the models and computes jobs in turns of one step.

Before every turn the worker answers interactive requests. Turns go to the least-served session, so that a visitor's
short job does not wait behind an hour-long one of somebody else. Within a session, jobs run in order, but evaluations
of the same questions run side by side, so that dense and pruned accuracies fill in together. Two sessions that submit
the same run share one job. A job continues when its page is closed, and its result is stored.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from cap_viz.errors import CapVizError
from cap_viz.progress import Progress
from cap_viz.runs.backends import LOCAL, backend_named, requested_backend
from cap_viz.runs.backends.local import HERE
from cap_viz.runs.batched_runs import Backend
from cap_viz.runs.jobs import (
    Answer,
    ExportedModel,
    Job,
    JobSpec,
    PrunedWeights,
    Request,
    State,
    check_size,
    job_key,
    sentence,
)
from cap_viz.runs.loaded_models import LoadedModels, ModelBusy
from cap_viz.runs.store import Store, StoredRun

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

log = logging.getLogger(__name__)

KEEP_ENDED = 50
MAX_QUEUED = 64
# Limited, since every started job may hold a pruned copy of the weights.
MOST_TOGETHER = 3
MOST_STARTED = 8
# Interval at which waiting jobs and requests are tried again.
LOOK_AGAIN_SECONDS = 0.5
# A turn counts as at least this long, so that sessions with very short turns alternate, too.
SHORTEST_TURN = 0.01


class FairShare:
    """Fair scheduling: the next turn goes to the session served least; a session without jobs loses its count."""

    def __init__(self) -> None:
        self.served: dict[str, float] = {}

    def join(self, session: str, active: Collection[str]) -> None:
        """Add a session that submits a job; it starts level with the least served of the `active` sessions."""
        self.served = {one: self.served[one] for one in active}
        self.served.setdefault(session, min(self.served.values(), default=0.0))

    def least_served(self, sessions: Iterable[str]) -> str:
        return min(sessions, key=lambda session: self.served[session])

    def charge(self, session: str, seconds: float) -> None:
        self.served[session] = self.served.get(session, 0.0) + max(seconds, SHORTEST_TURN)


class JobQueue:
    """Jobs of all sessions, computed by one daemon thread that starts with the first of them."""

    def __init__(
        self,
        store: Store,
        load_model: Callable[[str], ReasoningModel],
        backend: Callable[[], Backend] = lambda: HERE,
        most_together: int = MOST_TOGETHER,
        most_started: int = MOST_STARTED,
    ) -> None:
        self.store = store
        self.models = LoadedModels(load_model)
        self.backend = backend
        self.most_together = most_together
        self.most_started = most_started
        self.jobs: dict[int, Job] = {}
        self.requests: list[Request[Any]] = []
        self.share = FairShare()
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.wake = threading.Event()
        self.thread: threading.Thread | None = None

    # Called from any thread

    def submit(self, spec: JobSpec, title: str, session: str = "") -> Job:
        """Queue a job for a session, or join the active job of the same spec; return the job.

        Raises `CapVizError` when the queue is full or the run has too many examples.
        """
        check_size(spec)
        key = job_key(spec)
        with self.lock:
            active = [job for job in self.jobs.values() if job.active]
            self.share.join(session, {one for job in active for one in job.sessions})
            for job in active:
                if job.key == key and not job.cancel_asked.is_set():
                    if session not in job.sessions:
                        job.sessions.append(session)
                    return job
            if sum(job.state == "queued" for job in active) >= MAX_QUEUED:
                raise CapVizError(f"{MAX_QUEUED} jobs are waiting already; cancel some or try again later.")
            job = Job(number=next(self.numbers), spec=spec, title=title, sessions=[session])
            self.jobs[job.number] = job
            self.forget_old()
        self.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Cancel a job; a started one stops before its next turn, and its finished batches are kept for resuming."""
        job.cancel_asked.set()
        with self.lock:
            if job.state == "queued":
                job.enter("cancelled")
        self.notify()

    def ask(self, model_id: str, question: Callable[[ReasoningModel], Answer]) -> Request[Answer]:
        """Run a short question on the model between the steps of whatever is running."""
        request = Request(model_id, question)
        with self.lock:
            self.requests.append(request)
        self.notify()
        return request

    def find(self, spec: JobSpec) -> Job | None:
        """Find the newest job of a spec, active or ended."""
        with self.lock:
            same = (job for job in reversed(self.jobs.values()) if job.spec == spec)
            # Equal specs differ in key where one has 0 and the other 0.0; keys take longer to compute.
            return next((job for job in same if job.key == job_key(spec)), None)

    def listing(self) -> list[Job]:
        """List all remembered jobs, oldest first."""
        with self.lock:
            return list(self.jobs.values())

    def position(self, job: Job) -> int:
        """Count the active earlier jobs of the same sessions; 0 for a job that is not queued."""
        if job.state != "queued":
            return 0
        earlier = (other for other in self.listing() if other.active and other.number < job.number)
        return sum(not set(other.sessions).isdisjoint(job.sessions) for other in earlier)

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

    # Called by the worker only

    def work(self) -> None:
        while True:
            # Cleared before looking for work, so that anything submitted meanwhile is seen in the next round.
            self.wake.clear()
            self.answer_requests()
            self.end_cancelled()
            chosen = self.next_turn()
            if chosen is None:
                self.wake.wait(self.seconds_to_next_look())
            else:
                self.take_turn(*chosen)

    def answer_requests(self) -> None:
        """Answer all pending requests; those with a model that does not fit into memory yet stay pending."""
        with self.lock:
            asked, self.requests = self.requests, []
        left = [request for request in asked if not self.is_answered(request)]
        with self.lock:
            self.requests = left + self.requests

    def is_answered(self, request: Request[Any]) -> bool:
        if request.cancelled():
            return True
        if request.look_again > time.monotonic():
            return False
        try:
            model = self.models.get(request.model_id, self.models_in_use())
            if request.set_running_or_notify_cancel():
                request.set_result(request.question(model))
        except ModelBusy as busy:
            request.waits_for, request.look_again = str(busy), time.monotonic() + LOOK_AGAIN_SECONDS
            return False
        except BaseException as error:
            if request.running() or request.set_running_or_notify_cancel():
                request.set_exception(error)
        return True

    def models_in_use(self) -> set[str]:
        """Collect the ids of the models of started jobs, whose generators hold them."""
        return {job.spec.model.id for job in self.listing() if job.is_started}

    def end_cancelled(self) -> None:
        for job in self.listing():
            if job.is_started and job.cancel_asked.is_set():
                self.end(job, "cancelled")

    def next_turn(self) -> tuple[Job, str] | None:
        """Choose the job to advance and the session to charge for the turn; None when no job is ready."""
        now = time.monotonic()
        with self.lock:
            ready: dict[str, list[Job]] = {}
            for job in self.jobs.values():
                if job.active and job.look_again <= now:
                    for session in job.sessions:
                        if job.is_started or self.may_start(job, session):
                            ready.setdefault(session, []).append(job)
            if not ready:
                return None
            session = self.share.least_served(ready)
            job = first_in_line(ready[session])
            if job.state == "queued":
                job.enter("loading")
                job.started, job.progress = time.monotonic(), Progress(0, 1, "loading the model")
            return job, session

    def may_start(self, job: Job, session: str) -> bool:
        """Whether a queued job may start now: as the only one of its session, or side by side with its other jobs."""
        earlier = [other for other in self.jobs.values() if other.active and other.number < job.number]
        if any(other.waits_for and other.spec.model.id != job.spec.model.id for other in earlier):
            return False  # Otherwise the memory the earlier job waits for might never become free.
        if any(request.waits_for and request.model_id != job.spec.model.id for request in self.requests):
            return False
        started = [other for other in self.jobs.values() if other.is_started]
        if len(started) >= self.most_started:
            return False
        copies = sum(other.holds_weights for other in started)
        if copies and job.holds_weights and not self.models.has_room(job.spec.model.id, copies + 1):
            return False
        # A job that waits for another process does not block its session.
        own = [other for other in earlier if session in other.sessions and other.state != "waiting"]
        own += [other for other in started if session in other.sessions and other.number > job.number]
        if not own:
            return True
        return len(own) < self.most_together and all(job.may_run_beside(other) for other in own)

    def seconds_to_next_look(self) -> float | None:
        """Return the seconds until the next waiting job or request is tried again; None when none is waiting."""
        now = time.monotonic()
        with self.lock:
            looks = [job.look_again for job in self.jobs.values() if job.active]
            looks += [request.look_again for request in self.requests]
        return min((look - now for look in looks if look > now), default=None)

    def take_turn(self, job: Job, session: str) -> None:
        """Load the model of a job, or advance the job by one step. An error fails the job, not the worker."""
        began = time.monotonic()
        try:
            if job.steps is None:
                self.start(job)
            else:
                self.step(job, job.steps)
        except ModelBusy as busy:
            job.enter("queued")
            job.waits_for, job.look_again = str(busy), time.monotonic() + LOOK_AGAIN_SECONDS
        except BaseException as error:
            log.exception("job %d (%s) failed", job.number, job.title)
            self.end(job, "failed", sentence(error))
        seconds = time.monotonic() - began
        job.spent += seconds
        if job.is_started and job.progress.partial is None and not isinstance(job.spec, PrunedWeights):
            # The pace counts from the first results; pruned weights have none before they are done.
            job.start_share, job.start_spent, job.started = job.progress.share, job.spent, time.monotonic()
        with self.lock:
            self.share.charge(session, seconds)

    def start(self, job: Job) -> None:
        model = self.models.get(job.spec.model.id, self.models_in_use())
        job.waits_for = ""
        job.steps = self.steps_of(job.spec, model)
        job.enter("running")

    def step(self, job: Job, steps: Generator[Progress, None, StoredRun | None]) -> None:
        try:
            job.progress = next(steps)
        except StopIteration as stop:
            # A server keeps its jobs, not their tables.
            job.result = None if stop.value is None else stop.value.let_go()
            self.end(job, "done")
            return
        if job.progress.waiting:
            job.look_again = time.monotonic() + LOOK_AGAIN_SECONDS
        if job.progress.waiting != (job.state == "waiting"):
            job.enter("waiting" if job.progress.waiting else "running")

    def steps_of(self, spec: JobSpec, model: ReasoningModel) -> Generator[Progress, None, StoredRun | None]:
        from cap_viz.runs.execute import pruned_weights_steps, run_steps
        from cap_viz.runs.exports import export_steps

        if isinstance(spec, ExportedModel):
            return (yield from export_steps(spec, model, self.store, self.backend()))
        if isinstance(spec, PrunedWeights):
            weights = yield from pruned_weights_steps(spec.mask, model, self.store, self.backend())
            self.models.keep_pruned(spec.model, spec.mask, weights)
            return None
        return (yield from run_steps(spec, model, self.store, self.backend()))

    def end(self, job: Job, state: State, error: str = "") -> None:
        """End a job in the given state and close its generator, which releases locks and hooks.

        The job fails if closing fails.
        """
        steps, job.steps = job.steps, None
        if steps is not None:
            try:
                steps.close()
            except BaseException as failure:
                log.exception("job %d (%s) could not be ended properly", job.number, job.title)
                state, error = "failed", error or sentence(failure)
        job.error, job.ended = error, time.monotonic()
        job.enter(state)
        with self.lock:
            # Waiting jobs and requests may have been waiting for this job.
            for waiting in (*self.jobs.values(), *self.requests):
                waiting.look_again = 0.0


def first_in_line(jobs: Collection[Job]) -> Job:
    """Choose the first job without partial results, so that a comparison can be shown soon; else the job with the least
    time spent."""
    silent = [job for job in jobs if not job.progress.partial]
    return silent[0] if silent else min(jobs, key=lambda job: job.spent)


@cache
def shared_queue() -> JobQueue:
    """Return the process's only queue. Streamlit's caches would not do: any visitor can clear them for everyone."""
    from cap_viz.models.catalogue import resolve
    from cap_viz.models.loading import load

    choice = requested_backend()
    # A cluster computes one run at a time on all its workers.
    at_once = {} if choice.name == LOCAL else {"most_together": 1, "most_started": 1}
    return JobQueue(
        Store(),
        lambda model_id: load(resolve(model_id)),
        # Created with the first job, so that an unknown backend fails that job.
        backend=cache(lambda: backend_named(choice)),
        **at_once,
    )
