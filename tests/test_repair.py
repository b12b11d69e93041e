"""Full and read-only disks, damaged and foreign files, interrupted runs, and what `runs repair` does about them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from streamlit.testing.v1 import AppTest

from cap_viz.errors import CapVizError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.backends.local import Here
from cap_viz.runs.batched_runs import BatchedRun, BatchStep
from cap_viz.runs.execute import run_steps
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.repair import repair
from cap_viz.runs.spec import EvalSpec, RunSpec, ScoreSpec, spec_key
from cap_viz.runs.store import Store, StoredRun
from cap_viz.runs.unfinished import Ending, ending_of, stopped
from cap_viz.settings import PROJECT
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.shell import Shell
from tests.words import saying

TASK = "mini_science"
FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


@pytest.fixture
def store() -> Iterator[Store]:
    """The store of this test's own cache folder, as pages and the shell find it."""
    shared_queue.cache_clear()
    yield Store()
    for job in shared_queue().listing():
        shared_queue().cancel(job)
    shared_queue.cache_clear()


@pytest.fixture
def spec(tiny_model: ReasoningModel) -> ScoreSpec:
    return ScoreSpec(model=tiny_model.ref, examples=calibration_set(TASK, 24))


@pytest.fixture
def dense(store: Store, tiny_model: ReasoningModel) -> StoredRun:
    return finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set(TASK, 4)), tiny_model, store))


def interrupted(spec: ScoreSpec, model: ReasoningModel, store: Store) -> None:
    """Leave a run after its first finished batch, as a closed program does."""
    steps = run_steps(spec, model, store)
    while not any(store.partial_run_dir(spec).glob("batch-*")):
        next(steps)
    steps.close()


def failing_after(number: int, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `number` flushes to disk succeed and all others fail."""
    fsync, seen = os.fsync, iter(range(10**6))

    def full(descriptor: int) -> None:
        if next(seen) >= number:
            raise error
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize("number", range(6))
def test_a_full_disk_loses_nothing(
    number: int, spec: ScoreSpec, tiny_model: ReasoningModel, store: Store, tmp_path: Path
) -> None:
    twin = finish(run_steps(spec, tiny_model, Store(shipped=tmp_path / "none", local=tmp_path / "twin")))
    with pytest.MonkeyPatch.context() as patch:
        failing_after(number, FULL, patch)
        with pytest.raises(OSError, match="No space left"):
            finish(run_steps(spec, tiny_model, store))
    assert [run for run in store.runs() if run.origin == "live"] == []
    assert store.damaged() == []
    assert list(store.local.parent.rglob("*.part")) == []
    assert finish(run_steps(spec, tiny_model, store)).digests == twin.digests


def test_the_shell_says_that_the_disk_is_full(shell: Shell, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_after(1, FULL, monkeypatch)
    code, _, err = shell("score", "--model", str(tiny_folder), "--task", TASK, "--n", "4", "--metric", "nll")
    assert code == 1
    assert "The disk is full; finished parts are kept" in err
    assert "Traceback" not in err


def test_runs_can_be_read_from_a_read_only_cache(
    store: Store, dense: StoredRun, few_shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything moved there; beside a damaged local run everything else is still found."""
    bad = store.local / f"{dense.title[:-4]}beef"
    shutil.copytree(dense.folder, bad)

    def refuse(*_: object, **__: object) -> None:
        raise READ_ONLY

    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdir", "rename", "replace"):
            patch.setattr(Path, name, refuse)
        found = store.runs()
    assert dense.key in {run.key for run in found}
    assert {run.folder for run in found if run.origin == "precomputed"} == {few_shipped}
    assert len(found) > 2
    assert bad.is_dir()


def test_an_interrupted_run_is_listed_until_it_is_finished(
    spec: ScoreSpec, tiny_model: ReasoningModel, store: Store
) -> None:
    assert store.unfinished() == []
    interrupted(spec, tiny_model, store)
    assert store.unfinished() == [spec]
    finish(run_steps(spec, tiny_model, store))
    assert store.unfinished() == []
    assert not store.partial_run_dir(spec).exists()


def test_the_runs_page_offers_to_resume(spec: ScoreSpec, tiny_model: ReasoningModel, store: Store) -> None:
    interrupted(spec, tiny_model, store)
    at = runs_page()
    assert not at.exception
    at.button(key=f"runs_resume_{spec_key(spec)}").click().run()
    assert not at.exception
    assert [job.key for job in shared_queue().listing()] == [spec_key(spec)]
    end = time.monotonic() + 60
    while shared_queue().listing()[0].active and time.monotonic() < end:
        time.sleep(0.05)
    assert shared_queue().listing()[0].state == "done"
    assert store.get(spec) is not None


def runs_page() -> AppTest:
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    at.switch_page("pages/runs.py")
    return at.run()


def failing(spec: RunSpec, model: ReasoningModel, store: Store, error: Exception) -> None:
    """Let a run fail at its first batch."""

    class Failing(Here):
        def steps(self, run: BatchedRun, wanted: Sequence[int]) -> Iterator[BatchStep]:
            raise error

    with pytest.raises(type(error)):
        finish(run_steps(spec, model, store, Failing()))


def test_failed_cancelled_and_interrupted_are_told_apart(
    spec: ScoreSpec, tiny_model: ReasoningModel, store: Store
) -> None:
    steps = run_steps(spec, tiny_model, store)
    next(steps)
    assert stopped(store) == [], "it is being computed"
    assert store.unfinished() == [spec]
    assert ending_of(store, spec).state == "interrupted", "a program that dies now can write nothing"
    steps.close()
    assert stopped(store) == [spec]
    assert ending_of(store, spec).state == "cancelled"
    failing(spec, tiny_model, store, CapVizError("Worker 7 is gone."))
    assert ending_of(store, spec) == Ending("failed", "Worker 7 is gone.")
    finish(run_steps(spec, tiny_model, store))
    assert stopped(store) == []
    assert not store.partial_run_dir(spec).exists()


def test_a_run_that_fails_before_its_plan_leaves_nothing_to_resume(tiny_model: ReasoningModel, store: Store) -> None:
    spec = EvalSpec(tiny_model.ref, evaluation_set("toy_math", 2), protocol="generate-fewshot-100000")
    with pytest.raises(CapVizError, match="100000"):
        finish(run_steps(spec, tiny_model, store))
    assert store.unfinished() == []
    assert not store.partial_run_dir(spec).exists()


def test_the_runs_page_says_why_runs_stopped_and_discards_them(
    spec: ScoreSpec, tiny_model: ReasoningModel, store: Store
) -> None:
    failing(spec, tiny_model, store, CapVizError("Worker 7 is gone."))
    at = runs_page()
    assert [box.label.split()[0] for box in at.expander] == ["1"]
    assert saying(at, "failed", "7")
    other = EvalSpec(tiny_model.ref, evaluation_set(TASK, 6))
    steps = run_steps(other, tiny_model, store)
    next(steps)
    steps.close()
    at = runs_page()
    assert [box.label.split()[0] for box in at.expander] == ["2"]
    assert saying(at, "cancelled")
    at.button(key=f"runs_discard_{spec_key(other)}").click().run()
    assert not at.exception
    assert store.unfinished() == [spec]
    steps = run_steps(other, tiny_model, store)
    next(steps)
    steps.close()
    at.run()
    at.button(key="runs_discard_all").click().run()
    assert not at.exception
    assert store.unfinished() == []
    assert not at.expander


def test_a_resumed_run_that_fails_at_once_says_why_on_the_page(
    spec: ScoreSpec, tiny_model: ReasoningModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(spec, tiny_model, store)
    for part in store.partial_run_dir(spec).glob("[bp]*"):  # As a program leaves it that dies before its plan.
        part.unlink()

    def refuse(*_: object) -> None:
        raise CapVizError("The texts of task 99 are not on this machine.")

    monkeypatch.setattr("cap_viz.runs.execute.computed", refuse)
    at = runs_page()
    at.button(key=f"runs_resume_{spec_key(spec)}").click().run()
    end = time.monotonic() + 60
    while shared_queue().listing()[0].active and time.monotonic() < end:
        time.sleep(0.05)
    at.run()
    assert not at.exception
    assert store.unfinished() == []
    assert saying(at, "failed", "99")
    assert f"runs_resume_{spec_key(spec)}" not in {button.key for button in at.button}
    at.button(key=f"runs_discard_{spec_key(spec)}").click().run()
    assert not saying(at, "failed", "99")


DAMAGE = {
    "flipped bit": (lambda folder: flip(folder / "options.parquet"), "does not match its checksum"),
    "truncated table": (lambda folder: truncate(folder / "options.parquet"), "does not match its checksum"),
    "truncated manifest": (lambda folder: truncate(folder / "manifest.json"), "no readable manifest"),
    "missing table": (lambda folder: (folder / "options.parquet").unlink(), "lacks its file"),
    "future schema": (lambda folder: edit(folder, schema=99), "has schema 99"),
    "changed spec": (lambda folder: edit(folder, key="0" * 16), "does not match its key"),
    "foreign manifest": (lambda folder: (folder / "manifest.json").write_text('["mine"]'), "no readable manifest"),
}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("kind", DAMAGE)
def test_repair_sets_damaged_runs_aside_with_the_reason(kind: str, store: Store, dense: StoredRun) -> None:
    damage, reason = DAMAGE[kind]
    damage(dense.folder)
    done = repair(store)
    assert len(done.set_aside) == 1
    assert reason in done.set_aside[0]
    assert not dense.folder.exists()
    assert len(list(store.quarantine.glob("*/reason.txt"))) == 1
    assert any(reason in sentence for sentence in store.damaged())
    assert repair(store).set_aside == ()


def test_repair_removes_what_dead_processes_left_and_keeps_what_can_be_resumed(
    spec: ScoreSpec, tiny_model: ReasoningModel, store: Store, dense: StoredRun
) -> None:
    interrupted(spec, tiny_model, store)
    old, fresh = store.local / ".score-old.building", store.local / ".score-fresh.building"
    stray = store.partial_runs_dir / "score-nobody-knows"
    for folder in (old, fresh, stray):
        folder.mkdir(parents=True)
        (folder / "options.parquet").write_bytes(b"half")
    free, held = store.partial_runs_dir / "a.lock", store.partial_runs_dir / "b.lock"
    long_ago = time.time() - 7200
    for path in (free, held, *old.iterdir(), old):
        path.touch()
        os.utime(path, (long_ago, long_ago))
    with FileLock(held):
        os.utime(held, (long_ago, long_ago))
        done = repair(store)
    assert set(done.removed) == {old.name, stray.name, free.name}
    assert fresh.is_dir()
    assert held.exists()
    assert store.unfinished() == [spec]
    assert store.get(dense.spec) is not None


def test_the_shell_repairs(shell: Shell, store: Store, dense: StoredRun) -> None:
    flip(dense.folder / "options.parquet")
    code, out, err = shell("runs", "repair")
    assert code == 0
    assert "1 runs set aside" in out
    assert "does not match its checksum" in " ".join(err.split())


def test_whoever_waits_for_a_run_reads_it(spec: ScoreSpec, tiny_model: ReasoningModel, store: Store) -> None:
    computing, waiting = (run_steps(spec, tiny_model, store) for _ in range(2))
    while not any(store.partial_run_dir(spec).glob("batch-*")):
        next(computing)
    for _ in range(3):
        assert next(waiting).waiting
    run = finish(computing)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cap_viz.runs.kinds.scores.batch_steps", None)  # Nothing may be computed.
        assert finish(waiting) == run
    assert [found.key for found in store.runs() if found.origin == "live"] == [run.key]


@pytest.mark.long
def test_two_processes_share_the_work_of_one_run(tiny_folder: Path, tmp_path: Path) -> None:
    """Both are asked for the same run at once: one computes, the other waits and reads."""
    environment = {**os.environ, "CAP_VIZ_CACHE": str(tmp_path / "shared"), "CAP_VIZ_THREADS": "1"}
    command = [sys.executable, "-m", "cap_viz", "score", "--model", str(tiny_folder), "--task", TASK, "--n", "24"]
    both = [
        subprocess.Popen([*command, "--json"], cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [json.loads(process.communicate(timeout=100)[0]) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert results[0]["key"] == results[1]["key"]
    assert results[0]["created"] == results[1]["created"]
    local = Store(shipped=tmp_path / "none", local=tmp_path / "shared")
    assert [run.key for run in local.runs()] == [results[0]["key"]]
