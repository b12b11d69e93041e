"""The Playground as a script, with the tiny model behind the queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.prompt_intervention import encode_prompt, read_prompt
from cap_viz.dashboard.playground import data
from cap_viz.errors import CapVizError
from cap_viz.figures.next_tokens import coloured_prompt, unique, visible
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import Progress
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.store import Store, StoredRun
from tests.test_ui_pages import opened, text, wait_for_jobs
from tests.test_ui_text import computed, score_spec
from tests.words import saying

PROMPT = "Question: what is water ?\nAnswer:"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: tmp_path / "shipped")
    forget()
    yield Store()
    forget()


def forget() -> None:
    shared_queue.cache_clear()
    for cached in (data.outcome, data.pattern):
        cached.cache_clear()


@pytest.fixture
def scores(store: Store, tiny_model: ReasoningModel) -> StoredRun:
    return computed(store, tiny_model, score_spec(tiny_model, "mini_science", 6))


def played(scores: StoredRun, **parameters: str) -> AppTest:
    at = opened("pages/playground.py", model=scores.spec.model.id, task="mini_science", prompt=PROMPT, **parameters)
    assert not at.exception
    return at


def test_a_head_switched_off_changes_the_next_token_as_the_library_says(
    scores: StoredRun, tiny_model: ReasoningModel
) -> None:
    at = played(scores)
    assert not saying(at, "KL")
    at.multiselect(key="off").set_value(["L0H1", "L2H3"]).run()
    assert not at.exception
    tokens = encode_prompt(tiny_model, PROMPT)
    dense, changed = (read_prompt(tiny_model, tokens, heads) for heads in ((), ((0, 1), (2, 3))))
    found = data.outcome(scores.spec.model, PROMPT, data.Change(heads=((0, 1), (2, 3))))
    np.testing.assert_allclose(found.changed.next_logprobs, changed.next_logprobs, atol=1e-5)
    np.testing.assert_allclose(found.token_change[1:], (changed.token_logprobs - dense.token_logprobs)[1:], atol=1e-5)
    assert saying(at, "2 heads", f"{found.divergence:.3f} nats")
    # Next tokens, the map of heads, attention.
    assert len(at.get("plotly_chart")) == 3


def test_the_top_heads_of_the_task_go_off_and_on_again(scores: StoredRun) -> None:
    at = played(scores)
    at.number_input(key="play_k").set_value(4).run()
    at.button(key="play_top").click().run()
    assert not at.exception
    assert len(at.multiselect(key="off").value) == 4
    at.button(key="play_clear").click().run()
    assert at.multiselect(key="off").value == []


def test_pruned_weights_are_a_job_that_a_click_starts(scores: StoredRun) -> None:
    """Guards: the mask was built while the page waited, with every other page blocked."""
    at = played(scores, mask="global_magnitude", zeros="90")
    assert not shared_queue().listing(), "nothing starts by being drawn"
    assert not saying(at, "KL")
    at.button(key="play_apply").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert saying(at, "Global magnitude", "90 %", "KL")
    (facts,) = [one.value for one in at.caption if "-badge[live]" in one.value]
    assert "Global magnitude at 90 %" in facts
    assert "play_apply" not in [button.key for button in at.button]


def test_a_mask_that_cannot_be_built_says_why(scores: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> Iterator[Progress]:
        yield Progress(0, 1)
        raise CapVizError("The calibration examples have gone.")

    at = played(scores, mask="wanda", zeros="50")
    monkeypatch.setattr("cap_viz.runs.execute.pruned_weights_steps", fails)
    at.button(key="play_apply").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert "The calibration examples have gone." in text(at)
    assert at.button(key="play_apply").label.startswith("Apply")


def test_a_wrong_link_falls_back_with_notes(scores: StoredRun) -> None:
    at = played(scores, off="L99H0", mask="nonsense")
    assert "L99H0" in text(at)
    assert "nonsense" in text(at)
    assert at.multiselect(key="off").value == []


def test_cap_without_head_scores_says_what_to_do(store: Store, tiny_model: ReasoningModel) -> None:
    other = computed(store, tiny_model, score_spec(tiny_model, "mini_text", 2))
    at = played(other, mask="cap")
    (warning,) = at.warning
    assert "cap" in warning.value
    assert "mini\\_science" in warning.value
    assert at.button(key="play_top").disabled


def test_an_empty_prompt_is_a_sentence(scores: StoredRun) -> None:
    at = played(scores)
    at.text_area(key="prompt").set_value("").run()
    assert not at.exception
    (error,) = at.error
    assert "prompt" in error.value


def test_hostile_tokens_stay_text() -> None:
    html = coloured_prompt(["<script>alert(1)</script>", "&", '"'], np.array([np.nan, -3.0, 0.5]))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "rgba(18,136,123,0.75)" in html
    assert "−3.00 nats" in html


def test_tokens_that_look_alike_keep_their_own_bars() -> None:
    assert unique(["a", "b", "a"]) == ["a", "b", "a (2)"]
    assert visible(" a\n") == "␣a⏎"
