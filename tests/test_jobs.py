"""The job queue: shared, fair, cancellable, open to short questions while it works, and not to be killed by a job."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from cap_viz.attribution.self_test import weights_digest
from cap_viz.errors import CapVizError, NotEnoughMemory
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import Progress, finish
from cap_viz.pruning import prune_mask
from cap_viz.runs.backends.local import Here
from cap_viz.runs.batched_runs import Backend
from cap_viz.runs.execute import run_steps
from cap_viz.runs.jobs import NEXT_STATES, Job, PrunedWeights
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.scores import Scores, load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.queue import JobQueue, first_in_line
from cap_viz.runs.spec import EvalSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun, lock_file
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set


@pytest.fixture
def queue(tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path) -> JobQueue:
    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    return JobQueue(store, lambda model_id: tiny_model)


def wait_for(job: Job, *states: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while job.state not in states:
        assert time.monotonic() < end, f"job is {job.state}: {job.progress} {job.error}"
        time.sleep(0.01)


class Gate:
    """Lets a fake run take its steps one by one, so that tests decide what happens between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Semaphore(0)
        self.closed = 0
        monkeypatch.setattr("cap_viz.runs.execute.run_steps", self.steps)

    def steps(
        self, spec: RunSpec, model: ReasoningModel, store: Store, backend: Backend
    ) -> Generator[Progress, None, StoredRun]:
        try:
            for i in range(1000):
                self.open.acquire()
                yield Progress(i, 1000, partial=i)
            raise AssertionError("nobody stopped the run")
        finally:
            self.closed += 1


def test_a_job_ends_with_a_stored_run(queue: JobQueue, tiny_model: ReasoningModel) -> None:
    mask = mask_spec_for(tiny_model.ref, "cap", 0.2, task="tiny", n=3)
    job = queue.submit(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4), mask), "cap at 20 %")
    before = weights_digest(tiny_model)
    wait_for(job, "done", "failed")
    assert job.error == ""
    assert job.result is not None
    assert len(load_report(queue.store, job.result)) == 4
    assert job.progress.share == 1
    assert weights_digest(tiny_model) == before


def test_jobs_are_computed_by_the_backend_of_the_queue(
    tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Counting(Here):
        def facts(self) -> dict[str, Any]:
            asked.append("facts")
            return {"backend": "counting"}

    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    queue = JobQueue(store, lambda model_id: tiny_model, backend=Counting, most_together=1)
    job = queue.submit(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4)), "dense")
    wait_for(job, "done", "failed")
    assert job.result is not None
    assert job.result.provenance["backend"] == "counting"
    assert asked == ["facts"]


def test_a_backend_that_is_not_there_is_the_error_of_the_job(
    tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path
) -> None:
    def missing() -> Backend:
        raise CapVizError("Ray is not installed here.")

    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    queue = JobQueue(store, lambda model_id: tiny_model, backend=missing)
    job = queue.submit(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4)), "dense")
    wait_for(job, "failed")
    assert job.error == "Ray is not installed here."


def test_the_same_request_shares_a_job(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gate(monkeypatch)
    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", 3))
    first, second = queue.submit(spec, "a"), queue.submit(spec, "b")
    assert first is second
    other = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 4)), "c")
    assert other is not first
    wait_for(first, "running")
    assert (queue.position(first), queue.position(other)) == (0, 1)
    for job in (other, first):
        queue.cancel(job)


def test_cancel_stops_at_the_next_step_and_frees_the_queue(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    first = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 3)), "first")
    waiting = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 4)), "waiting")
    wait_for(first, "running")
    queue.cancel(waiting)
    assert waiting.state == "cancelled"
    queue.cancel(first)
    gate.open.release()
    wait_for(first, "cancelled")
    assert gate.closed == 1, "the generator was closed, so that locks and hooks are released"
    again = queue.submit(first.spec, "again")
    assert again is not first
    wait_for(again, "running")
    queue.cancel(again)
    gate.open.release()
    wait_for(again, "cancelled")


def test_short_questions_are_answered_between_steps(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    job = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 3)), "long")
    wait_for(job, "running")
    answer = queue.ask("tiny", lambda model: model.shape.n_heads)
    gate.open.release()
    assert answer.result(timeout=30) == 4
    assert job.state == "running"
    failing = queue.ask("tiny", lambda model: 1 // 0)
    gate.open.release()
    with pytest.raises(ZeroDivisionError):
        failing.result(timeout=30)
    queue.cancel(job)
    gate.open.release()
    wait_for(job, "cancelled")


def test_a_failing_job_says_why_and_the_next_one_runs(queue: JobQueue, tiny_model: ReasoningModel) -> None:
    bad = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 3), estimator="guess"), "bad")
    good = queue.submit(EvalSpec(tiny_model.ref, evaluation_set("tiny", 2)), "good")
    wait_for(good, "done")
    assert bad.state == "failed"
    assert bad.error == "Unknown estimator 'guess'; choose one of exact, gradient."


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device"), "No space left on device); check disk space"),
        (MemoryError(), "ran out of memory"),
        (KeyError("x"), "Something unexpected went wrong (KeyError); the log has the details."),
        (CapVizError("Our own sentence."), "Our own sentence."),
    ],
)
def test_errors_become_sentences(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str
) -> None:
    def fails(*args: object) -> Generator[Progress, None, StoredRun]:
        yield Progress(0, 1)
        raise error

    monkeypatch.setattr("cap_viz.runs.execute.run_steps", fails)
    job = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 3)), "x")
    wait_for(job, "failed")
    assert sentence in job.error


def test_remaining_time_follows_this_process_pace() -> None:
    job = Job(number=1, spec=None, title="")  # pyright: ignore[reportArgumentType]
    assert job.seconds_left is None
    job.state, job.started = "running", time.monotonic() - 10
    job.start_share, job.progress = 0.5, Progress(75, 100)
    # A quarter of the work in 10 s; a quarter is left. The half that an earlier process did does not count.
    assert job.seconds_left == pytest.approx(10, abs=0.5)


def test_a_full_queue_refuses(queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    monkeypatch.setattr("cap_viz.runs.queue.MAX_QUEUED", 1)
    running = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 1)), "running")
    wait_for(running, "running")
    queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 2)), "waiting")
    with pytest.raises(CapVizError, match="jobs are waiting already"):
        queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 3)), "too many")
    for job in queue.listing()[::-1]:
        queue.cancel(job)
    gate.open.release()
    wait_for(running, "cancelled")


def test_a_run_too_large_for_the_queue_is_sent_to_the_shell(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scores, "most_examples", 2)
    with pytest.raises(CapVizError, match="3 examples are too many for one job of the dashboard"):
        queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 3)), "too large")
    assert queue.listing() == []


def test_evaluations_of_the_same_questions_take_turns(
    queue: JobQueue, tiny_model: ReasoningModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = evaluation_set("tiny", 20)
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.5, task="tiny", n=2)
    order: list[RunSpec] = []
    real = run_steps

    def watched(spec: RunSpec, *others: Any) -> Generator[Progress, None, StoredRun]:
        steps = real(spec, *others)
        while True:
            order.append(spec)
            try:
                yield next(steps)
            except StopIteration as stop:
                return stop.value

    monkeypatch.setattr("cap_viz.runs.execute.run_steps", watched)
    specs = [EvalSpec(tiny_model.ref, examples), EvalSpec(tiny_model.ref, examples, mask=mask)]
    found = at_once(queue, *specs)
    for job in found:
        wait_for(job, "done", "failed")
    # The second begins before the first has ended, and each is stepped to its own end.
    assert order.index(specs[1]) < len(order) - 1 - order[::-1].index(specs[0])
    alone = Store(shipped=tmp_path / "none", local=tmp_path / "alone")
    for job, spec in zip(found, specs, strict=True):
        assert job.state == "done"
        assert job.result is not None
        assert job.result.digests == finish(real(spec, tiny_model, alone)).digests


def test_one_of_two_side_by_side_can_be_cancelled_or_fail_alone(queue: JobQueue, tiny_model: ReasoningModel) -> None:
    examples = evaluation_set("tiny", 20)
    foreign = replace(tiny_model.ref, fingerprint="other")
    good, broken, cancelled = at_once(
        queue,
        EvalSpec(tiny_model.ref, examples),
        EvalSpec(foreign, examples),
        EvalSpec(tiny_model.ref, evaluation_set("tiny", 19)),
        cancel=2,
    )
    for job in (good, broken, cancelled):
        wait_for(job, "done", "cancelled", "failed")
    assert [job.state for job in (good, broken, cancelled)] == ["done", "failed", "cancelled"]
    assert "fingerprint other" in broken.error


def at_once(queue: JobQueue, *specs: RunSpec, cancel: int | None = None) -> list[Job]:
    """Jobs that come in while the worker is busy, so that it sees them together."""
    busy = threading.Event()
    held = queue.ask("tiny", lambda model: busy.wait(60))
    jobs = [queue.submit(spec, str(number)) for number, spec in enumerate(specs)]
    if cancel is not None:
        queue.cancel(jobs[cancel])
    busy.set()
    held.result(60)
    return jobs


def test_jobs_of_a_session_keep_their_order_and_like_ones_start_together(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, examples = Gate(monkeypatch), evaluation_set("tiny", 4)
    mask = mask_spec_for(tiny_model.ref, "magnitude", 0.5, task="tiny", n=2)
    score, first, second, other = at_once(
        queue,
        ScoreSpec(tiny_model.ref, calibration_set("tiny", 2)),
        EvalSpec(tiny_model.ref, examples),
        EvalSpec(tiny_model.ref, examples, mask=mask),
        EvalSpec(tiny_model.ref, evaluation_set("tiny", 5)),
    )
    wait_for(score, "running")
    assert [job.state for job in (first, second, other)] == ["queued"] * 3
    assert [queue.position(job) for job in (first, second, other)] == [1, 2, 3]
    queue.cancel(score)
    gate.open.release(20)
    wait_for(first, "running")
    wait_for(second, "running")
    assert other.state == "queued"
    for job in (other, second, first):
        queue.cancel(job)
    gate.open.release(1000)
    wait_for(first, "cancelled")


def test_who_has_shown_nothing_goes_first_then_who_had_least_time(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    spec = EvalSpec(tiny_model.ref, evaluation_set("tiny", 4))
    first, second, third = (Job(number, spec, "") for number in range(3))
    first.spent, second.spent, third.spent = 3.0, 1.0, 2.0
    first.progress = replace(first.progress, partial="some")
    second.progress = replace(first.progress, partial="")
    assert first_in_line([first, second, third]) is second
    second.progress = third.progress = first.progress
    assert first_in_line([first, second, third]) is second
    assert first_in_line([first, third]) is third


def test_a_state_follows_only_from_some_others() -> None:
    """Guards the state machine: an ended job never lives again, and nothing runs without having been loaded."""
    job = Job(number=1, spec=None, title="")  # pyright: ignore[reportArgumentType]
    with pytest.raises(RuntimeError, match="from queued to running"):
        job.enter("running")
    for state in ("loading", "running", "waiting", "running", "done"):
        job.enter(state)
    assert "done" not in NEXT_STATES
    with pytest.raises(RuntimeError, match="from done to running"):
        job.enter("running")


class Scripted:
    """Fake runs: what a spec's steps do is a function of the spec; counts the steps of each."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, steps: Callable[[RunSpec], Generator[Progress, None, None]]
    ) -> None:
        self.script = steps
        self.taken: list[RunSpec] = []
        monkeypatch.setattr("cap_viz.runs.execute.run_steps", self.steps)

    def steps(self, spec: RunSpec, *others: Any) -> Generator[Progress, None, None]:
        for progress in self.script(spec):
            self.taken.append(spec)
            yield progress


def test_a_job_that_waits_for_another_process_leaves_the_rotation(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: it had shown nothing, and so had 60 of 62 turns while the others starved."""
    examples = evaluation_set("tiny", 20)
    mask = mask_spec_for(tiny_model.ref, "magnitude", 0.5, task="tiny", n=2)
    blocked, free = EvalSpec(tiny_model.ref, examples), EvalSpec(tiny_model.ref, examples, mask=mask)

    def steps(spec: RunSpec) -> Generator[Progress, None, None]:
        for i in range(50) if spec == free else iter(int, 1):
            yield Progress(i, 50, partial=i, waiting=spec == blocked)

    scripted = Scripted(monkeypatch, steps)
    waiting, other = at_once(queue, blocked, free)
    wait_for(other, "done")
    assert waiting.state == "waiting"
    assert scripted.taken.count(blocked) <= 5, "it is looked at now and then only"
    queue.cancel(waiting)
    wait_for(waiting, "cancelled")


def test_a_run_that_another_process_computes_is_waited_for_and_then_taken(
    queue: JobQueue, tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    """Guards: the only worker slept while it waited for a lock, and nothing else was answered."""
    spec = EvalSpec(tiny_model.ref, evaluation_set("tiny", 3))
    partial_run_dir = queue.store.partial_run_dir(spec)
    partial_run_dir.parent.mkdir(parents=True)
    with FileLock(lock_file(partial_run_dir)):
        job = queue.submit(spec, "elsewhere")
        wait_for(job, "waiting")
        other = queue.submit(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4)), "free")
        wait_for(other, "done")
        assert queue.ask("tiny", lambda model: model.shape.n_heads).result(30) == 4
        assert job.state == "waiting"
    wait_for(job, "done")


class Weights:
    """In place of a model; tests count those alive."""

    def __init__(self, name: str) -> None:
        self.name = name


def name_of(model: Any) -> str:
    return model.name


class Memory:
    """Loads fake models, of which so many fit side by side."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.loaded: list[weakref.ref[Weights]] = []

    def alive(self) -> list[str]:
        gc.collect()
        return sorted(model.name for one in self.loaded if (model := one()) is not None)

    def load(self, model_id: str) -> Any:
        if len(self.alive()) >= self.room:
            raise NotEnoughMemory(f"{model_id} does not fit.")
        model = Weights(model_id)
        self.loaded.append(weakref.ref(model))
        return model


@pytest.fixture
def frozen() -> Iterator[None]:
    """Collections look only at what the test makes: each took a third of a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("room", [1, 2])
def test_one_copy_of_each_model_is_alive(
    tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Guards: a question to another model loaded a second while a job ran, and going back a third."""
    memory, gate = Memory(room), Gate(monkeypatch)
    queue = JobQueue(Store(tmp_path / "shipped", tmp_path / "local"), memory.load)
    first = ScoreSpec(replace(tiny_model.ref, id="a"), calibration_set("tiny", 3))
    job = queue.submit(first, "long")
    wait_for(job, "running")
    gate.open.release()
    asked = queue.ask("b", name_of)
    if room == 1:
        waits = time.monotonic() + 60
        while not asked.waits_for:
            gate.open.release()
            assert time.monotonic() < waits
            time.sleep(0.01)
        assert "beside a, which running jobs need" in asked.waits_for
        # A job of that model waits as well and says so.
        other = queue.submit(ScoreSpec(replace(tiny_model.ref, id="b"), calibration_set("tiny", 3)), "b", session="2")
        while not other.waits_for:
            gate.open.release()
            assert time.monotonic() < waits
            time.sleep(0.01)
        assert other.state == "queued"
        assert memory.alive() == ["a"]
        queue.cancel(job)
        gate.open.release(1000)
        assert asked.result(60) == "b"
        wait_for(other, "running")
        assert memory.alive() == ["b"]
        queue.cancel(other)
    else:
        gate.open.release(10)
        assert asked.result(60) == "b"
        gate.open.release(10)
        assert queue.ask("a", name_of).result(60) == "a"
        assert memory.alive() == ["a", "b"]
        assert len(memory.loaded) == 2
        queue.cancel(job)
    gate.open.release(1000)


def test_nothing_a_job_does_kills_the_worker(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: an error while a job's steps were closed ended the thread and left the job running for ever."""

    def steps(spec: RunSpec) -> Generator[Progress, None, None]:
        if len(spec.examples.ids) == 1:
            raise SystemExit("a library wanted to leave")
        try:
            for _ in iter(int, 1):
                yield Progress(0, 1)
        finally:
            raise OSError(28, "No space left on device")

    class Closing(Scripted):
        def steps(self, spec: RunSpec, *others: Any) -> Generator[Progress, None, None]:
            return self.script(spec)

    Closing(monkeypatch, steps)
    leaving = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 1)), "leaves")
    wait_for(leaving, "failed")
    worker = queue.thread
    full = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 2)), "full disk")
    wait_for(full, "running")
    queue.cancel(full)
    wait_for(full, "failed")
    assert "No space left on device" in full.error
    assert queue.ask("tiny", lambda model: model.shape.n_heads).result(30) == 4
    assert queue.thread is worker


def test_a_short_job_of_another_session_is_not_stuck_behind_an_endless_one(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless, short = (ScoreSpec(tiny_model.ref, calibration_set("tiny", n)) for n in (3, 2))
    go = threading.Event()

    def steps(spec: RunSpec) -> Generator[Progress, None, None]:
        for i in range(10) if spec == short else iter(int, 1):
            if len(scripted.taken) >= 500:
                go.wait(60)
            yield Progress(i, 10, partial="some")

    scripted = Scripted(monkeypatch, steps)
    long_job = queue.submit(endless, "endless", session="first")
    while len(scripted.taken) < 500:
        time.sleep(0.01)
    job = queue.submit(short, "short", session="second")
    begun = len(scripted.taken)
    go.set()
    wait_for(job, "done")
    turns = scripted.taken[begun:]
    last = len(turns) - 1 - turns[::-1].index(short)
    assert turns[: last + 1].count(short) == 10
    assert last < 40, "ten steps end within forty turns"
    queue.cancel(long_job)
    wait_for(long_job, "cancelled")


def test_a_job_carries_the_sessions_that_asked_for_it(
    queue: JobQueue, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second to ask for a run that is queued behind its first asker's other job need not wait for that."""
    gate = Gate(monkeypatch)
    long_job = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 3)), "long", session="first")
    shared = queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 2)), "shared", session="first")
    wait_for(long_job, "running")
    assert queue.submit(shared.spec, "shared", session="second") is shared
    assert shared.sessions == ["first", "second"]
    gate.open.release(5)
    wait_for(shared, "running")
    for job in (shared, long_job):
        queue.cancel(job)
    gate.open.release(1000)
    wait_for(long_job, "cancelled")


def test_a_mask_is_a_job_and_questions_are_answered_while_it_waits(
    queue: JobQueue, tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    """Guards: the mask was built inside one question, and waited for ever where a suspended job held its scores."""
    mask = mask_spec_for(tiny_model.ref, "cap", 0.5, task="tiny", n=3)
    assert mask.scores is not None
    partial_run_dir = queue.store.partial_run_dir(mask.scores)
    partial_run_dir.parent.mkdir(parents=True)
    with FileLock(lock_file(partial_run_dir)):
        job = queue.submit(PrunedWeights(tiny_model.ref, mask), "pruning")
        wait_for(job, "waiting")
        assert queue.ask("tiny", lambda model: model.shape.n_heads).result(30) == 4
        assert not queue.models.has_pruned(tiny_model.ref, mask)
    wait_for(job, "done", "failed")
    assert job.error == ""
    stored = queue.store.get(mask.scores)
    assert stored is not None
    wanted = prune_mask(tiny_model, "cap", sparsity=0.5, scores=load_scores(queue.store, stored), metric="nll")
    found, expected = queue.models.pruned_weights(tiny_model.ref, mask), tiny_model.pruned_weights(wanted.keep)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_few_pruned_weights_are_kept(queue: JobQueue, tiny_model: ReasoningModel, tiny_task: Task) -> None:
    masks = [mask_spec_for(tiny_model.ref, "magnitude", share / 10, task="tiny", n=2) for share in range(1, 6)]
    for mask in masks:
        wait_for(queue.submit(PrunedWeights(tiny_model.ref, mask), "pruning"), "done")
    assert [queue.models.has_pruned(tiny_model.ref, mask) for mask in masks] == [False, False, True, True, True]
    with pytest.raises(CapVizError, match="no longer in memory"):
        queue.models.pruned_weights(tiny_model.ref, masks[0])
