"""A device without room for a batch: smaller ones by a new plan, which is stored; what was finished stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cap_viz.attribution.batch_plan import BatchPlan, halved
from cap_viz.attribution.exact import MOST_TOKENS_PER_STEP
from cap_viz.attribution.forward.llama_fast_path import DirectModel
from cap_viz.errors import OutOfMemory
from cap_viz.models.batch_size import MOST_TIMES
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set

GPU_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
CPU_ERROR = RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def roomy(store: Store) -> Store:
    """Where the same runs are computed with room for everything."""
    return Store(shipped=store.shipped, local=store.local.parent / "other")


Work = Callable[..., Any]


def with_room_for(most: int, work: Work, size: Callable[..., int], error: Exception) -> Work:
    """`work`, failing as torch does on more than `most`; the first call has room for anything."""
    calls = iter(range(10**6))

    def limited(*arguments: Any, **options: Any) -> Any:
        if next(calls) > 0 and size(*arguments) > most:
            raise error
        return work(*arguments, **options)

    return limited


@pytest.mark.parametrize("error", [GPU_ERROR, CPU_ERROR, MemoryError()], ids=["gpu", "cpu", "python"])
def test_an_evaluation_goes_on_in_smaller_batches_and_keeps_what_it_had(
    tiny_model: ReasoningModel,
    tiny_task: Task,
    store: Store,
    roomy: Store,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    from cap_viz.evaluation import choice

    monkeypatch.setattr(choice, "TOKENS_PER_FORWARD", 60)
    spec = EvalSpec(tiny_model.ref, evaluation_set("tiny", 20))
    whole = finish(run_steps(spec, tiny_model, roomy))
    planned = whole.provenance["plan"]["batches"]
    assert len(planned[0]) > 2
    limited = with_room_for(1, choice.dense_logliks, lambda model, encoded: len(encoded), error)
    monkeypatch.setattr(choice, "dense_logliks", limited)
    run = finish(run_steps(spec, tiny_model, store))
    followed = run.provenance["plan"]["batches"]
    assert followed[0] == planned[0], "what was finished keeps its batch"
    assert {len(batch) for batch in followed[1:]} == {1}
    assert sorted(i for batch in followed for i in batch) == list(range(20))
    np.testing.assert_allclose(
        load_report(store, run).logliks, load_report(roomy, whole).logliks, rtol=0, atol=1e-5, equal_nan=True
    )


def test_scores_go_on_too_and_a_killed_process_follows_the_new_plan(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, roomy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cap_viz.attribution import exact

    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", 12))
    whole = load_scores(roomy, finish(run_steps(spec, tiny_model, roomy)))
    with monkeypatch.context() as patch:
        limited = with_room_for(3, exact.dense_pass, lambda model, batch: len(batch.tokens), GPU_ERROR)
        patch.setattr(exact, "TOKENS_PER_FORWARD", 60)
        patch.setattr(exact, "dense_pass", limited)
        steps = run_steps(spec, tiny_model, store)
        while len(list(store.partial_run_dir(spec).glob("batch-*"))) < 2:
            next(steps)
        steps.close()
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == 2
    assert max(len(batch) for batch in run.provenance["plan"]["batches"][1:]) <= 3
    np.testing.assert_allclose(load_scores(store, run).ablated, whole.ablated, rtol=0, atol=1e-5, equal_nan=True)


def test_without_room_for_one_example_it_is_a_sentence_and_what_was_finished_stays(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cap_viz.evaluation import choice

    monkeypatch.setattr(choice, "TOKENS_PER_FORWARD", 60)
    spec = EvalSpec(tiny_model.ref, evaluation_set("tiny", 20))
    with monkeypatch.context() as patch:
        limited = with_room_for(0, choice.dense_logliks, lambda model, encoded: len(encoded), GPU_ERROR)
        patch.setattr(choice, "dense_logliks", limited)
        with pytest.raises(OutOfMemory, match="The memory ran out; finished batches are kept"):
            finish(run_steps(spec, tiny_model, store))
    assert finish(run_steps(spec, tiny_model, store)).provenance["resumed_batches"] == 1


def test_other_errors_are_not_taken_for_it(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("something else")

    monkeypatch.setattr("cap_viz.evaluation.choice.dense_logliks", broken)
    with pytest.raises(RuntimeError, match="something else"):
        finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4)), tiny_model, store))


def test_halves_by_hand() -> None:
    plan = BatchPlan(((0, 1, 2), (3,), (4, 5)), packed=True)
    assert halved(plan, [0, 1, 2]) == BatchPlan(((0, 1), (3,), (4,), (2,), (5,)), packed=True)
    assert halved(plan, [2]) == BatchPlan(((0, 1, 2), (3,), (4,), (5,)), packed=True)
    assert halved(plan, [1]) is None
    limited = BatchPlan(((0,), (1,)), packed=True, most_tokens=5)
    assert halved(limited, [1]) == BatchPlan(((0,), (1,)), packed=True, most_tokens=2), "fewer heads at a time"
    assert halved(replace(limited, most_tokens=1), [1]) is None


def test_a_single_example_goes_on_with_fewer_heads_at_a_time(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, roomy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", 1))
    whole = load_scores(roomy, finish(run_steps(spec, tiny_model, roomy)))
    heads = tiny_model.shape.n_heads
    limited = with_room_for(1, DirectModel.ablate_heads, lambda *arguments: len(arguments[-1]), GPU_ERROR)
    monkeypatch.setattr(DirectModel, "ablate_heads", limited)
    run = finish(run_steps(spec, tiny_model, store))
    assert heads > 1
    assert run.provenance["plan"]["most_tokens"] < MOST_TOKENS_PER_STEP * MOST_TIMES / heads
    np.testing.assert_allclose(load_scores(store, run).ablated, whole.ablated, rtol=0, atol=1e-5, equal_nan=True)
