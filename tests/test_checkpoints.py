"""Parts of an unfinished run: used where they are whole and of the plan's examples, else computed again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from cap_viz.attribution.batch_plan import BatchPlan
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.checkpoints import Checkpoints
from cap_viz.runs.execute import run_steps
from cap_viz.runs.repair import repair
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set

PLAN = BatchPlan(((0, 2), (1,)), packed=True, most_tokens=8)
ARRAYS = {"logliks": np.arange(6, dtype=np.float32).reshape(3, 2).T, "ended": np.array([1, 0], dtype=np.int8)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def spec(tiny_model: ReasoningModel, tiny_task: Task) -> ScoreSpec:
    return ScoreSpec(model=tiny_model.ref, examples=calibration_set("tiny", 6))


@pytest.fixture
def twin(spec: ScoreSpec, tiny_model: ReasoningModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StoredRun:
    """The undisturbed run, in small batches as all runs of this test."""
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 40)
    return finish(run_steps(spec, tiny_model, Store(shipped=tmp_path / "none", local=tmp_path / "twin")))


def interrupted(spec: ScoreSpec, model: ReasoningModel, store: Store, parts: int = 2) -> Path:
    """Leave a run after some finished batches; returns its folder."""
    steps = run_steps(spec, model, store)
    while len(list(store.partial_run_dir(spec).glob("batch-*"))) < parts:
        next(steps)
    steps.close()
    return store.partial_run_dir(spec)


PLANS: dict[str, Callable[[dict], object]] = {
    "half a file": lambda plan: None,
    "another kind": lambda plan: [plan],
    "an example is missing": lambda plan: {**plan, "batches": plan["batches"][:-1]},
    "an example comes twice": lambda plan: {**plan, "batches": [*plan["batches"], plan["batches"][0]]},
    "an example that is not there": lambda plan: {**plan, "batches": [*plan["batches"], [99]]},
    "an example of the wrong kind": lambda plan: {**plan, "batches": [["0"], *plan["batches"][1:]]},
    "a batch of nothing": lambda plan: {**plan, "batches": [*plan["batches"], []]},
    "no tokens in a step": lambda plan: {**plan, "most_tokens": 0},
}


@pytest.mark.parametrize("damage", PLANS)
def test_a_damaged_plan_costs_neither_the_spec_nor_the_parts_it_still_fits(
    damage: str, spec: ScoreSpec, twin: StoredRun, tiny_model: ReasoningModel, store: Store
) -> None:
    partial_run_dir = interrupted(spec, tiny_model, store)
    written = (partial_run_dir / "plan.json").read_text()
    changed = PLANS[damage](json.loads(written))
    (partial_run_dir / "plan.json").write_text(written[:-9] if changed is None else json.dumps(changed))
    steps = run_steps(spec, tiny_model, store)
    next(steps)
    steps.close()
    assert store.unfinished() == [spec], "still to be resumed"
    assert repair(store).removed == ()
    assert (partial_run_dir / "plan.damaged.json").is_file()
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == 2
    assert run.digests == twin.digests
    assert not partial_run_dir.exists()


def test_parts_of_batches_a_new_plan_does_not_have_are_computed_again(
    spec: ScoreSpec, twin: StoredRun, tiny_model: ReasoningModel, store: Store
) -> None:
    """As after halved batches whose plan was lost: the numbers are the same, the examples are others."""
    partial_run_dir = interrupted(spec, tiny_model, store)
    checkpoints = Checkpoints(partial_run_dir, spec.examples.ids)
    plan = checkpoints.plan()
    assert plan is not None
    first, second = checkpoints.finished(plan).values()
    other = replace(plan, batches=(plan.batches[1], plan.batches[0], *plan.batches[2:], (0,)))
    for number, arrays in ((0, second), (1, first), (len(plan.batches), first)):
        checkpoints.add(other, number, arrays)
    (partial_run_dir / "plan.json").write_text("{")
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == 0
    assert run.digests == twin.digests


def cut(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-9])


def flip(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[-5] ^= 1
    part.write_bytes(bytes(content))


def swap(part: Path) -> None:
    other = part.with_name("batch-00001.safetensors")
    content = part.read_bytes()
    part.write_bytes(other.read_bytes())
    other.write_bytes(content)


def as_written_before(part: Path) -> None:
    """Without ids and digest."""
    part.write_bytes(save(load(part.read_bytes())))


@pytest.mark.parametrize(
    ("damage", "lost"),
    [(cut, 1), (flip, 1), (swap, 2), (as_written_before, 1), (lambda part: part.write_bytes(b""), 1)],
)
def test_a_part_that_cannot_be_trusted_is_named_in_the_log_and_computed_again(
    damage: Callable[[Path], object],
    lost: int,
    spec: ScoreSpec,
    twin: StoredRun,
    tiny_model: ReasoningModel,
    store: Store,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A flipped bit in the values, and the part of other examples, were taken in unseen."""
    part = interrupted(spec, tiny_model, store) / "batch-00000.safetensors"
    damage(part)
    with caplog.at_level(logging.WARNING, logger="cap_viz.runs.checkpoints"):
        run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == 2 - lost
    assert sum(str(part) in record.getMessage() for record in caplog.records) == 1
    assert run.digests == twin.digests


def test_arrays_and_plan_come_back_as_they_were(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, ("a", "b", "c"))
    assert checkpoints.plan() is None
    checkpoints.start(PLAN)
    checkpoints.add(PLAN, 0, ARRAYS)
    assert asdict(checkpoints.plan() or PLAN) == asdict(PLAN)
    (found,) = checkpoints.finished(PLAN).values()
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    halves = replace(PLAN, batches=((0, 2), (1,)), most_tokens=4)
    assert list(checkpoints.finished(halves)) == [0], "what memory ran out for changes no finished part"


@pytest.mark.parametrize("other", [{"packed": False}, {"direct": True}, {"batches": ((2, 0), (1,))}])
def test_a_part_is_of_its_examples_in_their_order_and_lay_out(tmp_path: Path, other: dict) -> None:
    checkpoints = Checkpoints(tmp_path, ("a", "b", "c"))
    checkpoints.add(PLAN, 0, ARRAYS)
    assert checkpoints.finished(replace(PLAN, **other)) == {}
    assert Checkpoints(tmp_path, ("x", "b", "c")).finished(PLAN) == {}
