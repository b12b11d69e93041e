"""Sections that compare stored runs: heads whose role changed (Prune), and other ways to score a head (Heads)."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.dashboard.heads.controls import concerns
from cap_viz.dashboard.names import job_title
from cap_viz.figures.theme import signed
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.scores import load_changes
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.run_queries import masked_pair, score_runs
from cap_viz.runs.spec import MaskSpec, ScoreSpec
from cap_viz.runs.specifications import curve_of, missing_runs, stored_choices
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import PROJECT
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.maps import SEEN, drawn, head_maps
from tests.words import saying

N, SPARSITY = 4, 0.5
HEADS = 12


@pytest.fixture
def scores(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> ScoreSpec:
    """Exact scores on calibration examples, stored: CAP is built on them."""
    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", N))
    finish(run_steps(spec, tiny_model, store))
    return spec


def cap_mask(model: ReasoningModel) -> MaskSpec:
    return mask_spec_for(model.ref, "cap", SPARSITY, task="tiny", n=N)


def opened(page: str, model: ReasoningModel, **params: str) -> AppTest:
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    at.switch_page(f"pages/{page}.py")
    for name, value in {"model": model.ref.id, "task": "tiny", **params}.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def prune_page(model: ReasoningModel, **params: str) -> AppTest:
    return opened("prune", model, criterion="cap", sparsity=str(round(100 * SPARSITY)), **params)


def measured(at: AppTest, key: str) -> AppTest:
    """Click a button that measures, wait for its jobs, and draw the page again."""
    at.button(key=key).click().run()
    end = time.monotonic() + 60
    while any(job.active for job in shared_queue().listing()) and time.monotonic() < end:
        time.sleep(0.02)
    assert {job.state for job in shared_queue().listing()} == {"done"}
    at.run()
    assert not at.exception
    return at


def offers(at: AppTest, key: str) -> bool:
    return key in [button.key for button in at.button]


# Heads whose role changed --------------------------------------------------------------------------------------------


def test_changes_are_offered_with_their_cost_and_shown_as_stored(
    store: Store, tiny_model: ReasoningModel, scores: ScoreSpec
) -> None:
    at, mask = prune_page(tiny_model, layer="1", head="2"), cap_mask(tiny_model)
    assert not head_maps(at)
    assert saying(at, "20 evaluation questions", "dense and pruned", f"{2 * 20 * HEADS} ablated passes")
    measured(at, "prune_roles_start")
    assert not offers(at, "prune_roles_start")
    pair = masked_pair(Store().runs(), tiny_model.ref, "tiny", mask)
    assert pair is not None
    found = load_changes(store, *pair)
    assert saying(at, "CAP at 50 %", "20 evaluation questions", found.counted("nll"))
    change, head = found.estimated("nll"), (1, 2)
    assert np.abs(drawn(at) - change.mean).max() < SEEN
    assert head_maps(at)[0]["clickable"]
    sides = [signed(side.mean_effect("nll")[head]) for side in (found.before, found.after)]
    interval = f"[{signed(change.low[head])}, {signed(change.high[head])}]"
    assert saying(at, "Head 2 of layer 1", *sides, signed(change.mean[head]), found.kinds("nll")[1][2])
    assert interval in saying(at, "Head 2 of layer 1", "before", "after")[0]


def test_only_the_missing_side_is_offered(store: Store, tiny_model: ReasoningModel, scores: ScoreSpec) -> None:
    finish(run_steps(ScoreSpec(tiny_model.ref, evaluation_set("tiny", 20)), tiny_model, store))
    at = prune_page(tiny_model)
    assert saying(at, "20 evaluation questions", "pruned", f"{20 * HEADS} ablated passes")
    assert not saying(at, "dense and pruned")
    # Nothing changes where nothing is pruned.
    assert not offers(opened("prune", tiny_model, criterion="cap", sparsity="0"), "prune_roles_start")


def test_the_pair_with_most_questions_is_shown(store: Store, tiny_model: ReasoningModel, scores: ScoreSpec) -> None:
    mask = cap_mask(tiny_model)
    few, most = (ScoreSpec(tiny_model.ref, evaluation_set("tiny", n)) for n in (2, 3))
    specs = [few, replace(few, mask=mask), most, replace(most, mask=mask), replace(scores, mask=mask)]
    runs: list[StoredRun] = [finish(run_steps(spec, tiny_model, store)) for spec in specs]
    assert masked_pair(runs, tiny_model.ref, "tiny", mask) == (runs[2], runs[3])
    assert masked_pair(runs[:3], tiny_model.ref, "tiny", mask) == (runs[0], runs[1])
    assert masked_pair(runs[2:3], tiny_model.ref, "tiny", mask) is None
    # Scores on evaluation questions are never the first choice, and those under a mask are named by it.
    assert [len(run.spec.examples.ids) for run in score_runs(store.runs(), tiny_model.ref, "tiny")] == [N, 3, 2]
    assert job_title(specs[3]).count("CAP at 50 %") == 1


def test_scores_under_a_mask_belong_to_prune_not_to_heads(
    store: Store, tiny_model: ReasoningModel, tiny_task: Task, scores: ScoreSpec
) -> None:
    """Guards: the Heads page listed such a job among its runs, and the Runs page failed on a stored one."""
    pruned = replace(scores, mask=cap_mask(tiny_model))
    frame: Any = SimpleNamespace(model=tiny_model.ref, task=tiny_task)
    assert (concerns(scores, frame), concerns(pruned, frame)) == (True, False)
    run = finish(run_steps(pruned, tiny_model, store))
    at = opened("runs", tiny_model, runs=run.key)
    assert at.button(key="runs_open").label == "Open on Prune"


# Would other choices have said the same? -----------------------------------------------------------------------------


def test_a_head_under_other_choices_has_the_numbers_of_the_stored_curve(
    store: Store, tiny_model: ReasoningModel, tiny_task: Task, scores: ScoreSpec
) -> None:
    second_draw = replace(scores, examples=calibration_set("tiny", N, 1), ablation="mean")
    finish(run_steps(second_draw, tiny_model, store))
    choices = stored_choices(store.runs(), tiny_model.ref, tiny_task)
    assert len(missing_runs(store, tiny_model.ref, tiny_task, choices)) == 2
    at = opened("heads", tiny_model, layer="1", head="2")
    assert_shows_curve(at, store, tiny_model, tiny_task, 8)
    assert at.button(key="heads_choices_start").label == "Compute the 2 missing runs"
    assert saying(at, "8 specifications are missing", "about")
    measured(at, "heads_choices_start")
    assert not offers(at, "heads_choices_start")
    assert_shows_curve(at, store, tiny_model, tiny_task, 16)


def assert_shows_curve(at: AppTest, store: Store, model: ReasoningModel, task: Task, n: int) -> None:
    curve = curve_of(store, model.ref, task, stored_choices(store.runs(), model.ref, task))
    row = curve.to_pandas().set_index(["layer", "head"]).loc[1, 2]
    share, ranks = f"{row['share_top']:.0%}", f"{row['rank_low']:g} to {row['rank_high']:g}"
    assert len(curve.specifications) == n
    assert [said for said in saying(at, "L1H2", f"{n} specifications", f"Ranks {ranks}") if share in said]


def test_one_way_of_scoring_has_no_curve(
    store: Store, tiny_model: ReasoningModel, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = ScoreSpec(tiny_model.ref, calibration_set("tiny", N), "gradient", metric="nll")
    finish(run_steps(gradient, tiny_model, store))
    monkeypatch.setattr("cap_viz.dashboard.heads.other_choices.applicable_metrics", lambda task: ("nll",))
    at = opened("heads", tiny_model)
    assert saying(at, "scored in one way only")
    assert not at.error
