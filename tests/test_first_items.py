"""Runs that are the first items of a longer one: their manifest says so, and nobody judges the pace by them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.notebook import notebook_of
from cap_viz.runs.prefix_reuse import computing_seconds, expected_seconds
from cap_viz.runs.repair import repair
from cap_viz.runs.run_labels import making_of
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import evaluation_set
from studies.run_many import computed_in_turn
from tests.tiny import listed_run

LONG, SHORT, SHORTER = 20, 7, 3
# As a run on two workers that took its time, lost one of them and was resumed.
MAKING: dict[str, Any] = {"seconds": 4000.0, "resumed_batches": 2, "workers": 2, "lost_workers": 1}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def spec_of(model: ReasoningModel, n: int, **changes: Any) -> EvalSpec:
    return EvalSpec(model.ref, evaluation_set("tiny", n), **changes)


@pytest.fixture
def longer(tiny_task: Task, tiny_model: ReasoningModel, store: Store) -> StoredRun:
    run = finish(run_steps(spec_of(tiny_model, LONG), tiny_model, store))
    return store.save(run.spec, {"options": store.table(run, "options")}, {**run.provenance, **MAKING})


def cut(model: ReasoningModel, store: Store, n: int) -> StoredRun:
    return finish(run_steps(spec_of(model, n), model, store))


def as_once_written(store: Store, run: StoredRun, longer: StoredRun) -> StoredRun:
    """The run with the manifest the first versions wrote: the longer run's, with a share of its seconds."""
    share = MAKING["seconds"] * len(run.spec.examples.ids) / LONG
    made = {**longer.provenance, "taken_from": longer.key, "seconds": share}
    return store.save(run.spec, {"options": store.table(run, "options")}, made)


def test_the_manifest_says_where_the_items_are_from_and_claims_nothing_about_others(
    tiny_model: ReasoningModel, store: Store, longer: StoredRun
) -> None:
    """Guards against the plan, resumed batches and seconds of items the run does not have."""
    assert sum(map(len, longer.provenance["plan"]["batches"])) == LONG
    started = time.perf_counter()
    made = cut(tiny_model, store, SHORT).provenance
    assert made["seconds"] <= time.perf_counter() - started + 0.01
    assert (made["taken_from"], made["taken_of"]) == (longer.key, LONG)
    assert (made["plan"], made["resumed_batches"]) == (None, 0)
    assert not {"workers", "lost_workers"} & made.keys()
    kept = ("data", "device", "dtype", "threads", "machine", "title", "shape", "versions")
    assert {name: made[name] for name in kept} == {name: longer.provenance[name] for name in kept}


def test_the_first_items_of_first_items_name_the_run_they_were_taken_from(
    tiny_model: ReasoningModel, store: Store, longer: StoredRun
) -> None:
    short = cut(tiny_model, store, SHORT)
    store.delete(longer)
    shorter = cut(tiny_model, store, SHORTER)
    assert (shorter.provenance["taken_from"], shorter.provenance["taken_of"]) == (short.key, SHORT)
    np.testing.assert_array_equal(load_report(store, shorter).logliks, load_report(store, short).logliks[:SHORTER])


@pytest.mark.parametrize("once", [False, True])
def test_the_pace_is_not_judged_by_first_items(
    tiny_model: ReasoningModel, store: Store, longer: StoredRun, once: bool
) -> None:
    """Their seconds are those of copying, once a share of all: neither says what an item takes."""
    short = cut(tiny_model, store, SHORT)
    short = as_once_written(store, short, longer) if once else short
    uninterrupted = listed_run(longer.spec, seconds=40.0, resumed_batches=0)
    wanted = spec_of(tiny_model, 10)
    assert expected_seconds([short], wanted) is None
    assert expected_seconds([short, uninterrupted], wanted) == pytest.approx(20.0)
    assert computing_seconds(short) is None
    assert computing_seconds(uninterrupted) == 40.0


def test_a_series_does_not_judge_what_is_left_by_first_items(
    tiny_model: ReasoningModel, store: Store, longer: StoredRun
) -> None:
    """The pace of copying would promise that the rest takes no time."""
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.5, task="tiny", n=2)
    specs = [spec_of(tiny_model, SHORT), spec_of(tiny_model, LONG, mask=mask), spec_of(tiny_model, 5, mask=mask)]
    first, second, _ = [turn.line for turn in computed_in_turn(specs, tiny_model, store)]
    assert longer.key in first
    assert "to go" not in first
    assert "to go" in second


@pytest.mark.parametrize("once", [False, True])
def test_first_items_are_shown_as_such(tiny_model: ReasoningModel, store: Store, longer: StoredRun, once: bool) -> None:
    """Runs page and notebook name the longer run and give no computing time; runs of earlier versions as well."""
    short = cut(tiny_model, store, SHORT)
    short = as_once_written(store, short, longer) if once else short
    assert store.get(short.spec) == short
    introduction = "".join(json.loads(notebook_of(store, short))["cells"][0]["source"])
    for text in (making_of(short), introduction):
        assert longer.key in text
        assert re.search(r"\d s\b", text) is None
    assert re.search(r"\d s\b", making_of(longer)) is not None
    assert repair(store).set_aside == ()
