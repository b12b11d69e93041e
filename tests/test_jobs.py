"""The job queue: one at a time, shared, cancellable, and open to short questions while it works."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cap_viz.doctor import weights_digest
from cap_viz.engines import Engine, Here
from cap_viz.errors import CapVizError
from cap_viz.example_sets import calibration_set, evaluation_set
from cap_viz.jobs import MAX_EXAMPLES, Job, JobQueue, State, advance, next_turn
from cap_viz.mask_specs import mask_spec_for
from cap_viz.models import ReasoningModel
from cap_viz.progress import Progress, finish
from cap_viz.reading import read_report
from cap_viz.runs import run_steps
from cap_viz.spec import EvalSpec, RunSpec, ScoreSpec
from cap_viz.store import Store, StoredRun
from cap_viz.tasks import Task


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
        monkeypatch.setattr("cap_viz.runs.run_steps", self.steps)

    def steps(
        self, spec: RunSpec, model: ReasoningModel, store: Store, engine: Engine
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
    assert len(read_report(queue.store, job.result)) == 4
    assert job.progress.share == 1
    assert weights_digest(tiny_model) == before


def test_jobs_are_computed_by_the_engine_of_the_queue(
    tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path
) -> None:
    asked: list[str] = []

    class Counting(Here):
        def facts(self) -> dict[str, Any]:
            asked.append("facts")
            return {"engine": "counting"}

    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    queue = JobQueue(store, lambda model_id: tiny_model, engine=Counting, most_together=1)
    job = queue.submit(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4)), "dense")
    wait_for(job, "done", "failed")
    assert job.result is not None
    assert job.result.provenance["engine"] == "counting"
    assert asked == ["facts"]


def test_an_engine_that_is_not_there_is_the_error_of_the_job(
    tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path
) -> None:
    def missing() -> Engine:
        raise CapVizError("Ray is not installed here.")

    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    queue = JobQueue(store, lambda model_id: tiny_model, engine=missing)
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

    monkeypatch.setattr("cap_viz.runs.run_steps", fails)
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
    monkeypatch.setattr("cap_viz.jobs.MAX_QUEUED", 1)
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
    monkeypatch.setitem(MAX_EXAMPLES, "score", 2)
    with pytest.raises(CapVizError, match="3 examples are too many for one job of the dashboard"):
        queue.submit(ScoreSpec(tiny_model.ref, calibration_set("tiny", 3)), "too large")
    assert queue.listing() == []


def test_evaluations_of_the_same_questions_take_turns(
    queue: JobQueue, tiny_model: ReasoningModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = evaluation_set("tiny", 20)
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.5, task="tiny", n=2)
    found = [
        Job(0, EvalSpec(tiny_model.ref, examples), "dense"),
        Job(1, EvalSpec(tiny_model.ref, examples, mask=mask), "pruned"),
    ]
    order: list[int] = []

    def watched(job: Job, steps: Generator[Progress, None, StoredRun]) -> State | None:
        order.append(job.number)
        return advance(job, steps)

    monkeypatch.setattr("cap_viz.jobs.advance", watched)
    queue.waiting.extend(found)
    together = queue.next_jobs()
    assert together == found
    queue.compute(together)
    # The second begins before the first has ended, and each is stepped to its own end.
    assert order.index(1) < len(order) - 1 - order[::-1].index(0)
    alone = Store(shipped=tmp_path / "none", local=tmp_path / "alone")
    for job in found:
        assert job.state == "done"
        assert job.result is not None
        assert job.result.checksums == finish(run_steps(job.spec, tiny_model, alone)).checksums


def test_one_of_two_side_by_side_can_be_cancelled_or_fail_alone(queue: JobQueue, tiny_model: ReasoningModel) -> None:
    examples = evaluation_set("tiny", 20)
    foreign = replace(tiny_model.ref, fingerprint="other")
    good, cancelled = (Job(number, EvalSpec(tiny_model.ref, examples), str(number)) for number in range(2))
    broken = Job(2, EvalSpec(foreign, examples), "2")
    cancelled.cancel_asked.set()
    queue.compute([good, cancelled, broken])
    assert [job.state for job in (good, cancelled, broken)] == ["done", "cancelled", "failed"]
    assert "fingerprint other" in broken.error


def test_other_jobs_keep_their_order(queue: JobQueue, tiny_model: ReasoningModel) -> None:
    examples = evaluation_set("tiny", 4)
    score = Job(0, ScoreSpec(tiny_model.ref, calibration_set("tiny", 2)), "score")
    first, second = (Job(n, EvalSpec(tiny_model.ref, examples), "eval") for n in (1, 2))
    other = Job(3, EvalSpec(tiny_model.ref, evaluation_set("tiny", 5)), "others")
    queue.waiting.extend([score, first, second, other])
    assert [queue.next_jobs() for _ in range(4)] == [[score], [first, second], [other], []]


def test_who_has_shown_nothing_goes_first_then_who_had_least_time(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    spec = EvalSpec(tiny_model.ref, evaluation_set("tiny", 4))
    first, second, third = (Job(number, spec, "") for number in range(3))
    spent = {0: 3.0, 1: 1.0, 2: 2.0}
    first.progress = replace(first.progress, partial="some")
    second.progress = replace(first.progress, partial="")
    assert next_turn([first, second, third], spent) == 1
    second.progress = third.progress = first.progress
    assert next_turn([first, second, third], spent) == 1
    assert next_turn([first, third], spent) == 2
