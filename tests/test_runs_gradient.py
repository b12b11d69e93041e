"""Gradient runs in the store: found again, resumed to the same bits, good enough to prune by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cap_viz.attribution.estimators import score_heads
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.attribution.hybrid import hybrid_scores
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import prune_mask
from cap_viz.runs.execute import mask_steps, run_steps
from cap_viz.runs.kinds.scores import load_gradient
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import ScoreSpec, spec_dict, spec_from_dict
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def spec(tiny_model: ReasoningModel, tiny_task: Task) -> ScoreSpec:
    examples = calibration_set("tiny", 6)
    return ScoreSpec(model=tiny_model.ref, examples=examples, estimator="gradient", metric="choice_nll")


def test_stored_effects_equal_computed_ones(
    spec: ScoreSpec, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    assert spec_from_dict(spec_dict(spec)) == spec
    run = finish(run_steps(spec, tiny_model, store))
    stored = load_gradient(store, run)
    fresh = gradient_effects(tiny_model, tiny_task.calibration(6), metric="choice_nll", units=True)
    np.testing.assert_array_equal(stored.per_example, fresh.per_example)
    np.testing.assert_array_equal(stored.known_logliks, fresh.known_logliks)
    assert stored.units is not None
    assert fresh.units is not None
    np.testing.assert_array_equal(stored.units, fresh.units)
    assert (stored.metric, stored.questions.ids) == ("choice_nll", fresh.questions.ids)
    assert store.get(spec) == run


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_interrupted_gradients_resume_to_the_same_bits(
    spec: ScoreSpec, tiny_model: ReasoningModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    monkeypatch.setattr("cap_viz.attribution.gradient.TOKENS_PER_BACKWARD", 1)
    whole_store = Store(shipped=tmp_path / "none", local=tmp_path / "whole")
    whole = load_gradient(whole_store, finish(run_steps(spec, tiny_model, whole_store)))
    store = Store(shipped=tmp_path / "none", local=tmp_path / "resumed")
    steps = run_steps(spec, tiny_model, store)
    for _ in range(stop_after):
        next(steps)
    steps.close()
    monkeypatch.setattr("cap_viz.attribution.gradient.TOKENS_PER_BACKWARD", 10_000)
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == stop_after - 1
    resumed = load_gradient(store, run)
    np.testing.assert_array_equal(resumed.per_example, whole.per_example)
    np.testing.assert_array_equal(resumed.units, whole.units)


def test_pages_that_want_exact_scores_do_not_get_gradients(
    spec: ScoreSpec, tiny_model: ReasoningModel, store: Store
) -> None:
    run = finish(run_steps(spec, tiny_model, store))
    assert score_runs(store.runs(), tiny_model.ref, "tiny") == []
    assert score_runs(store.runs(), tiny_model.ref, "tiny", estimator="gradient") == [run]


def test_pruning_by_gradient_scores(spec: ScoreSpec, tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    wanted = mask_spec_for(tiny_model.ref, "cap", 0.4, task="tiny", n=6, metric="choice_nll", scores=spec)
    mask = finish(mask_steps(wanted, tiny_model, store))
    scores = gradient_effects(tiny_model, tiny_task.calibration(6), metric="choice_nll")
    by_hand = prune_mask(tiny_model, "cap", sparsity=0.4, scores=scores, metric="choice_nll")
    assert mask.digest == by_hand.digest
    other = replace(wanted, metric="nll")
    with pytest.raises(UsageError, match=r"'choice_nll'.*'nll'"):
        finish(mask_steps(other, tiny_model, store))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"metric": None}, r"\bgradient\b.*\bone metric\b"),
        ({"estimator": "exact"}, r"\b[Ee]xact\b.*\bevery metric\b"),
        ({"estimator": "hybrid"}, r"\b[Hh]ybrid\b.*`hybrid_scores`"),
        ({"estimator": "magic"}, r"estimator 'magic'.*exact"),
        ({"metric": "accuracy"}, r"'accuracy'.*\bgradient\b.*\bnll\b"),
    ],
)
def test_specs_that_contradict_themselves(
    spec: ScoreSpec, tiny_model: ReasoningModel, store: Store, change: dict[str, str | None], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        finish(run_steps(replace(spec, **change), tiny_model, store))


def test_hybrid_needs_the_exact_examples_among_the_others(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    gradient = gradient_effects(tiny_model, tiny_task.calibration(4))
    exact = score_heads(tiny_model, tiny_task.evaluation(2))
    with pytest.raises(UsageError, match=rf"{exact.questions.ids[0]!r}.*\b2 of 2\b"):
        hybrid_scores(exact, gradient)
