"""Page, address and shared link of Heads agree: after a new run, a cancelled one, another run or another model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.models import loading
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import calibration_set
from tests.test_ui_pages import computed, opened, opened_heads, scores, store, text, wait_for_jobs
from tests.words import saying

__all__ = ["scores", "store"]


def top_head(store: Store, run: StoredRun, metric: str = "nll") -> tuple[int, int]:
    mean = load_scores(store, run).mean_effect(metric)
    layer, head = np.unravel_index(int(np.argmax(mean)), mean.shape)
    return int(layer), int(head)


def shown_head(at: AppTest) -> tuple[int, int]:
    layer, head = (at.number_input(key=key).value for key in ("layer", "head"))
    assert isinstance(layer, int)
    assert isinstance(head, int)
    return layer, head


def mirrored(store: Store, run: StoredRun) -> StoredRun:
    """A run of another model, whose heads stand in the opposite order."""
    assert isinstance(run.spec, ScoreSpec)
    found = load_scores(store, run)
    other = replace(found, ablated=np.ascontiguousarray(found.ablated[::-1, ::-1]))
    spec = replace(run.spec, model=replace(run.spec.model, id="other", fingerprint="other"))
    return store.save(spec, other.to_tables(), run.provenance)


def shared(at: AppTest) -> dict[str, list[str]]:
    """What the link in the Share menu asks for."""
    at.session_state["heads_share"] = True
    at.run()
    assert not at.exception
    return parse_qs(urlsplit(at.code[0].value).query)


def test_the_shared_link_holds_what_is_shown(store: Store, scores: StoredRun) -> None:
    at = opened_heads(scores, n="20")
    link = shared(at)
    layer, head = top_head(store, scores)
    assert (link["model"], link["n"], link["layer"], link["head"]) == (
        [scores.spec.model.id],
        ["20"],
        [str(layer)],
        [str(head)],
    )
    at.number_input(key="head").set_value((head + 1) % 4).run()
    assert shared(at)["head"] == [str((head + 1) % 4)]


def test_another_model_is_shown_with_its_own_run_and_head(
    store: Store, scores: StoredRun, tiny_model: ReasoningModel, tiny_task: object
) -> None:
    computed(store, tiny_model, ScoreSpec(model=tiny_model.ref, examples=calibration_set("tiny", 4)))
    other = mirrored(store, scores)
    mirrored(store, computed(store, tiny_model, ScoreSpec(model=tiny_model.ref, examples=calibration_set("tiny", 4))))
    assert top_head(store, scores) != top_head(store, other)
    address = {"model": scores.spec.model.id, "task": "tiny"}
    for chosen in ({}, {"run": "n4-seed0-zero", "layer": "1", "head": "2", "together": ["L0H1"]}):
        at = opened("pages/heads.py", **address, **chosen)
        at.selectbox(key="model").set_value("other").run()
        assert not at.exception
        assert at.selectbox(key="run").value == "n8-seed0-zero"
        assert shown_head(at) == top_head(store, other)
        assert at.multiselect(key="together").value == []


def test_an_unchosen_head_follows_the_metric_and_a_chosen_one_stays(store: Store, scores: StoredRun) -> None:
    tops = {metric: top_head(store, scores, metric) for metric in ("nll", "choice_nll", "logit_diff")}
    metric = next((name for name, top in tops.items() if top != tops["nll"]), "choice_nll")
    at = opened_heads(scores)
    at.segmented_control(key="metric").set_value(metric).run()
    assert shown_head(at) == tops[metric]
    other = next((layer, head) for layer in range(2) for head in range(2) if (layer, head) not in tops.values())
    at.number_input(key="layer").set_value(other[0]).run()
    at.number_input(key="head").set_value(other[1]).run()
    at.segmented_control(key="metric").set_value("nll").run()
    assert shown_head(at) == other


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Jobs wait for the model until the returned function is called."""
    let_go, load = threading.Event(), loading.load

    def wait(source: object) -> ReasoningModel:
        assert let_go.wait(60)
        return load(source)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("cap_viz.models.loading.load", wait)
    return let_go.set


def test_after_cancel_the_stored_run_is_back_and_no_link_is_blamed(
    store: Store, scores: StoredRun, held: Callable[[], None]
) -> None:
    at = opened_heads(scores)
    at.number_input(key="heads_n").set_value(3).run()
    at.button(key="heads_start").click().run()
    assert at.selectbox(key="run").value == "n3-seed0-zero"
    # What the browser's address says by now.
    at.query_params["run"] = "n3-seed0-zero"
    (job,) = shared_queue().listing()
    shared_queue().cancel(job)
    held()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert at.selectbox(key="run").value == "n8-seed0-zero"
    assert at.session_state["run"] == "n8-seed0-zero", "written, for the box in the browser"
    assert "n3-seed0-zero" not in text(at)


def test_a_link_to_an_unknown_run_still_gets_a_note(store: Store, scores: StoredRun) -> None:
    at = opened("pages/heads.py", model=scores.spec.model.id, task="tiny", run="n99-seed0-zero")
    assert "n99-seed0-zero" in text(at)
    assert at.selectbox(key="run").value == "n8-seed0-zero"


@pytest.mark.parametrize("estimator", ["exact", "gradient"])
def test_a_first_run_ends_with_its_top_head(
    store: Store, tiny_model: ReasoningModel, tiny_task: object, held: Callable[[], None], estimator: str
) -> None:
    """While it ran the first head was shown, and that head stayed chosen."""
    computed(store, tiny_model, ScoreSpec(tiny_model.ref, calibration_set("mini_science", 2)))
    at = opened("pages/heads.py", model=tiny_model.ref.id, task="tiny")
    at.session_state["heads_new_run"] = True
    at.run()
    at.segmented_control(key="heads_estimator").set_value(estimator).run()
    at.number_input(key="heads_n").set_value(8).run()
    at.button(key="heads_start").click().run()
    assert not {"layer", "head"} & set(at.query_params), "no head is chosen by being shown"
    held()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert saying(at, "Rank **1**", "beyond chance") or saying(at, "Rank **1**", "q")
    assert shown_head(at) != (0, 0)


def test_prune_says_that_a_gradient_run_is_not_enough(
    store: Store, tiny_model: ReasoningModel, tiny_task: object
) -> None:
    address = {"model": tiny_model.ref.id, "task": "tiny", "criterion": "cap"}
    examples = calibration_set("tiny", 4)
    computed(store, tiny_model, ScoreSpec(tiny_model.ref, examples, estimator="gradient", metric="nll"))
    assert saying(opened("pages/prune.py", **address), "Tiny", "Gradient", "exact")
