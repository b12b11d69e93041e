"""Gradient and hybrid runs, budgets and whole layers on the Heads page, on real runs of the tiny model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.effect_metrics import METRICS, Metric
from cap_viz.attribution.hybrid import hybrid_scores
from cap_viz.dashboard.heads.data import View, head_table
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.kinds.scores import load_blocks, load_gradient, load_scores
from cap_viz.runs.run_queries import block_spec
from cap_viz.runs.score_sources import stored_sources
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import rank_agreement, split_half
from cap_viz.tasks.example_sets import calibration_set
from tests.maps import SEEN, drawn, head_maps
from tests.test_ui_pages import opened, text
from tests.test_ui_text import computed, score_spec, store, wait_for_jobs
from tests.words import saying

__all__ = ["store"]


def gradient_spec(model: ReasoningModel, n: int) -> ScoreSpec:
    examples = calibration_set("mini_science", n)
    return ScoreSpec(model=model.ref, examples=examples, estimator="gradient", metric="nll")


@pytest.fixture
def exact(store: Store, tiny_model: ReasoningModel) -> StoredRun:
    return computed(store, tiny_model, score_spec(tiny_model, "mini_science", 16))


@pytest.fixture
def gradient(store: Store, tiny_model: ReasoningModel) -> StoredRun:
    return computed(store, tiny_model, gradient_spec(tiny_model, 40))


def heads_page(shown: StoredRun, **parameters: str) -> AppTest:
    at = opened("pages/heads.py", model=shown.spec.model.id, task="mini_science", **parameters)
    assert not at.exception
    return at


def test_exact_runs_come_first_then_hybrids_and_gradients(exact: StoredRun, gradient: StoredRun) -> None:
    at = heads_page(exact)
    assert at.selectbox(key="run").options == [
        "16 examples, zeroed",
        "16 + 40 examples, zeroed, hybrid, answer loss",
        "40 examples, zeroed, gradient, answer loss",
    ]


def test_the_gradient_grid_holds_the_mean_gradient_effects(store: Store, exact: StoredRun, gradient: StoredRun) -> None:
    at = heads_page(exact, run="n40-seed0-zero-gradient-nll")
    np.testing.assert_allclose(drawn(at), load_gradient(store, gradient).mean_effect("nll"), atol=SEEN)
    effects = [load_scores(store, exact).effects("nll"), load_gradient(store, gradient).effects("nll")]
    means, (first, second) = [one.mean(axis=-1) for one in effects], [split_half(one).full for one in effects]
    ranks = rank_agreement(means[0], means[1], first, second)
    assert saying(at, "16 examples, zeroed", f"{ranks.correlation:.2f}", f"{ranks.ceiling:.2f}")
    assert saying(at, f"{second:.2f}", "40")
    assert saying(at, METRICS["nll"].title, "gradient")
    assert saying(at, "interval does not cover its error")
    assert "metric" not in [control.key for control in at.segmented_control], "the run is about one"


def test_an_unknown_noise_ceiling_is_not_mentioned(store: Store, exact: StoredRun, tiny_model: ReasoningModel) -> None:
    """Three examples have no reliability; the page said "noise ceiling nan"."""
    computed(store, tiny_model, gradient_spec(tiny_model, 3))
    shown = text(heads_page(exact, run="n3-seed0-zero-gradient-nll"))
    assert "Rank correlation with the exact run of 16 examples, zeroed" in shown
    assert "ceiling" not in shown


def test_the_hybrid_grid_holds_the_combination(store: Store, exact: StoredRun, gradient: StoredRun) -> None:
    at = heads_page(exact, run="n16of40-seed0-zero-hybrid-nll", layer="2", head="3")
    found = hybrid_scores(load_scores(store, exact), load_gradient(store, gradient))
    np.testing.assert_allclose(drawn(at), found.estimate.mean, atol=SEEN)
    assert saying(at, "narrower", "16", "40")
    assert at.number_input(key="layer").value == 2


def test_the_hybrid_table_holds_the_combination(store: Store, exact: StoredRun, gradient: StoredRun) -> None:
    """It held the effects of the exact part, under the name of the combination."""
    (source,) = [one for one in stored_sources(store.runs(), exact.spec.model, "mini_science") if one.gradient]
    found = hybrid_scores(load_scores(store, exact), load_gradient(store, gradient)).estimate
    table = head_table(store, View(source, "nll")).sort_values(["layer", "head"])
    np.testing.assert_allclose(table["mean_effect"], found.mean.ravel())
    np.testing.assert_allclose(table["ci_low"], found.low.ravel())


def test_a_hybrid_run_started_on_the_page_is_shown_when_both_parts_are_there(store: Store, exact: StoredRun) -> None:
    at = heads_page(exact)
    at.session_state["heads_new_run"] = True
    at.run()
    at.segmented_control(key="heads_estimator").set_value("hybrid").run()
    at.number_input(key="heads_hybrid_big_n").set_value(24).run()
    at.button(key="heads_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert at.selectbox(key="run").value == "n16of24-seed0-zero-hybrid-nll"


def test_sizes_are_planned_from_a_pilot(store: Store, exact: StoredRun) -> None:
    at = heads_page(exact)
    at.session_state["heads_new_run"] = True
    at.run()
    at.segmented_control(key="heads_estimator").set_value("hybrid").run()
    at.segmented_control(key="heads_sizes").set_value("time budget").run()
    assert "heads_start" not in [button.key for button in at.button]
    at.button(key="heads_pilot").click().run()
    wait_for_jobs()
    at.session_state["heads_new_run"] = True
    at.run()
    at.segmented_control(key="heads_estimator").set_value("hybrid").run()
    at.segmented_control(key="heads_sizes").set_value("time budget").run()
    assert not at.exception
    assert "heads_pilot" not in [button.key for button in at.button]
    assert "heads_start" in [button.key for button in at.button]
    assert saying(at, "±", METRICS["nll"].unit)


def test_whole_layers_stand_beside_the_heads(store: Store, exact: StoredRun) -> None:
    at = heads_page(exact)
    assert head_maps(at)[0]["blocks"] is None
    at.button(key="heads_blocks_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert "heads_blocks_start" not in [button.key for button in at.button]
    assert isinstance(exact.spec, ScoreSpec)
    run = store.get(block_spec(exact.spec))
    assert run is not None
    effects = load_blocks(store, run).mean_effect("nll")
    beside = head_maps(at)[0]["blocks"]
    np.testing.assert_allclose(np.reshape(beside["mean"], (-1, 2)), effects, atol=SEEN)


def test_the_ranking_is_compared_with_other_ablations_of_the_same_examples(
    store: Store, exact: StoredRun, tiny_model: ReasoningModel
) -> None:
    alone = heads_page(exact)
    assert not saying(alone, "ρ")
    assert [said for said in saying(alone, "zero ablation") if "-badge[" not in said]
    other = computed(store, tiny_model, score_spec(tiny_model, "mini_science", 16, "mean"))
    means = [load_scores(store, run).mean_effect("nll") for run in (exact, other)]
    wanted, _ = spearmanr(means[0].ravel(), means[1].ravel())
    assert f"mean ρ = {wanted:.2f}" in text(heads_page(exact))


def test_a_metric_of_another_package_is_shown_like_the_others(
    store: Store, exact: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page looked for its help in the glossary and for its wording in a table, which know ours only."""
    twice = Metric(lambda *numbers: 2 * METRICS["nll"](*numbers), "Twice the loss", "nats", origin="demo 1.0")
    monkeypatch.setitem(METRICS, "twice", twice)
    at = heads_page(exact, metric="twice")
    np.testing.assert_allclose(drawn(at), 2 * load_scores(store, exact).mean_effect("nll"), atol=2 * SEEN)
    assert at.segmented_control(key="metric").value == "twice"
    assert saying(at, "**", f"{twice.unit}**")
