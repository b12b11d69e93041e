"""The Playground as a script, with the tiny model behind the queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.prompt_intervention import encode_prompt, read_prompt
from cap_viz.dashboard.playground import data
from cap_viz.dashboard.playground.controls import EXAMPLES
from cap_viz.dashboard.playground.data import mask_hindrance
from cap_viz.errors import CapVizError
from cap_viz.figures.next_tokens import (
    MOST_LABELS,
    Candidate,
    attention_map,
    coloured_prompt,
    in_one_line,
    next_token_bars,
    unique,
    visible,
)
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import Progress, finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.jobs import PrunedWeights
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import calibration_set
from tests.test_ui_pages import opened, text, wait_for_jobs
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


def computed(store: Store, model: ReasoningModel, spec: RunSpec) -> StoredRun:
    return finish(run_steps(spec, model, store))


@pytest.fixture
def scores(store: Store, tiny_model: ReasoningModel) -> StoredRun:
    return computed(store, tiny_model, ScoreSpec(tiny_model.ref, calibration_set("mini_science", 6)))


def played(scores: StoredRun, **parameters: str | list[str]) -> AppTest:
    given = {"prompt": PROMPT, **parameters}
    at = opened("pages/playground.py", model=scores.spec.model.id, task="mini_science", **given)
    assert not at.exception
    return at


def badges(at: AppTest) -> list[str]:
    return [one.value for one in at.caption if "-badge[" in one.value]


def applied(at: AppTest) -> AppTest:
    at.button(key="play_apply").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    return at


def test_a_head_switched_off_changes_the_next_token_as_the_library_says(
    scores: StoredRun, tiny_model: ReasoningModel
) -> None:
    at = played(scores)
    assert not saying(at, "KL")
    at.multiselect(key="off").set_value(["L0H1", "L2H3"]).run()
    assert not at.exception
    assert at.query_params["off"] == ["L0H1", "L2H3"]
    tokens = encode_prompt(tiny_model, PROMPT)
    dense, changed = (read_prompt(tiny_model, tokens, heads) for heads in ((), ((0, 1), (2, 3))))
    found = data.outcome(scores.spec.model, PROMPT, data.Change(heads=((0, 1), (2, 3))))
    np.testing.assert_allclose(found.changed.next_logprobs, changed.next_logprobs, atol=1e-5)
    np.testing.assert_allclose(found.token_change[1:], (changed.token_logprobs - dense.token_logprobs)[1:], atol=1e-5)
    assert saying(at, "2 heads", f"{found.divergence:.3f} nats")
    # Next tokens and attention.
    assert len(at.get("plotly_chart")) == 2


def test_the_top_heads_of_the_task_go_off_and_on_again(scores: StoredRun) -> None:
    at = played(scores)
    at.number_input(key="top").set_value(4).run()
    at.button(key="play_top").click().run()
    assert not at.exception
    mean = load_scores(Store(), scores).mean_effect("nll")
    top = [divmod(int(place), mean.shape[1]) for place in (-mean).ravel().argsort()[:4]]
    assert at.query_params["off"] == [f"L{layer}H{head}" for layer, head in top]
    at.button(key="play_clear").click().run()
    assert at.multiselect(key="off").value == []
    assert "off" not in at.query_params


def test_heads_off_are_crosses_on_the_map_whatever_their_effect(scores: StoredRun) -> None:
    """Guards B6: a dot meant "switched off" here and "beyond chance" elsewhere, and a clipped head got no mark."""
    mean = load_scores(Store(), scores).mean_effect("nll")
    layer, head = np.unravel_index(np.abs(mean).argmax(), mean.shape)
    at = played(scores, off=f"L{layer}H{head}")
    (shown,) = [json.loads(one.proto.json) for one in at.get("bidi_component") if "heads" in one.proto.json]
    assert shown["off"] == [int(layer) * mean.shape[1] + int(head)]
    assert saying(at, "✕")


def test_an_example_is_an_id_in_the_address_until_its_prompt_is_edited(scores: StoredRun) -> None:
    at = opened("pages/playground.py", model=scores.spec.model.id, task="mini_science", example="facts")
    assert at.text_area(key="prompt").value == EXAMPLES["facts"]
    at.button_group(key="example").set_value("copying").run()
    assert at.text_area(key="prompt").value == EXAMPLES["copying"]
    assert at.query_params["example"] == "copying"
    assert "prompt" not in at.query_params
    at.text_area(key="prompt").set_value(PROMPT).run()
    assert not at.exception
    assert at.query_params["prompt"] == PROMPT
    assert "example" not in at.query_params


def test_the_shared_link_opens_on_the_same_view(scores: StoredRun) -> None:
    at = played(scores, off=["L0H1"], mask="magnitude", zeros="50", layer="2", head="1")
    at.session_state["playground_share"] = True
    at.run()
    (link,) = [one.value for one in at.code if "playground" in one.value or "prompt=" in one.value]
    query = parse_qs(urlparse(link).query)
    assert query["prompt"] == [PROMPT]
    wanted = {"off": "L0H1", "mask": "magnitude", "zeros": "50", "layer": "2", "head": "1"}
    assert {key: query[key][0] for key in wanted} == wanted


def test_pruned_weights_are_a_job_that_a_click_starts(scores: StoredRun) -> None:
    """Guards A20: the mask was built while the page waited, with every other page blocked."""
    at = played(scores, mask="global_magnitude", zeros="90")
    assert not shared_queue().listing(), "nothing starts by being drawn"
    assert not saying(at, "KL")
    assert saying(applied(at), "Global magnitude", "90 %", "KL")
    (facts,) = badges(at)
    assert "-badge[live]" in facts
    assert "Global magnitude at 90 %" in facts
    assert "play_apply" not in [button.key for button in at.button]


def test_the_mask_before_stays_readable_and_is_marked_stale(scores: StoredRun) -> None:
    """Guards A20: the sentence of the former mask stayed, greyed, while another one was chosen."""
    at = applied(played(scores, mask="global_magnitude", zeros="90"))
    at.slider(key="zeros").set_value(50).run()
    assert not at.exception
    facts, note = badges(at)
    assert "-badge[stale]" in facts
    assert "-badge[stale]" in note
    assert saying(at, "Global magnitude at 90 %", "Global magnitude at 50 %")
    assert saying(at, "Global magnitude at 90 %", "KL")
    at.selectbox(key="mask").set_value("none").run()
    assert not saying(at, "KL")
    assert [one for one in badges(at) if "-badge[live]" in one]


def test_a_mask_that_cannot_be_built_says_why(scores: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> Iterator[Progress]:
        yield Progress(0, 1)
        raise CapVizError("The calibration examples have gone.")

    at = played(scores, mask="wanda", zeros="50")
    monkeypatch.setattr("cap_viz.runs.execute.pruned_weights_steps", fails)
    assert "The calibration examples have gone." in text(applied(at))
    assert [button.label for button in at.button if str(button.key).endswith("_again")] == ["Try again"]
    assert "play_apply" not in [button.key for button in at.button], "one way to go on"


def test_a_mask_is_not_offered_where_memory_does_not_suffice(
    scores: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = played(scores, mask="magnitude", zeros="50")
    assert "play_apply" in [button.key for button in at.button]
    monkeypatch.setattr("cap_viz.runs.loaded_models.free_memory", lambda device: 1000)
    at.run()
    assert "play_apply" not in [button.key for button in at.button]
    assert saying(at, "memory")


def test_a_mask_is_not_offered_without_the_text_it_reads(scores: StoredRun, tiny_model: ReasoningModel) -> None:
    assert isinstance(scores.spec, ScoreSpec)
    spec = mask_spec_for(tiny_model.ref, "cap_fine", 0.2, task="mini_science", n=6, scores=scores.spec)
    assert "Generic text" in mask_hindrance(tiny_model.ref, spec)
    at = played(scores, mask="cap_fine")
    assert "play_apply" not in [button.key for button in at.button]


@pytest.mark.usefixtures("all_shipped")
def test_the_time_of_a_mask_is_told_before_its_button_is_clicked() -> None:
    at = opened("pages/playground.py", model="toy-reasoner", task="toy_math", mask="cap_fine")
    assert not at.exception
    told = [one.value for one in at.caption if one.value.startswith("About")]
    assert told, text(at)


def test_the_pace_of_pruned_weights_is_known_before_they_are_done(
    scores: StoredRun, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards A20: the job of a mask has no partial results, and so never told how long it would still take."""
    # Only theirs: `wait_for_jobs` has a deadline by the real clock.
    clock = SimpleNamespace(monotonic=count(0.0, 5.0).__next__)
    for module in ("jobs", "queue"):
        monkeypatch.setattr(f"cap_viz.runs.{module}.time", clock)
    spec = PrunedWeights(tiny_model.ref, mask_spec_for(tiny_model.ref, "wanda", 0.5, task="mini_science", n=6))
    left: list[float | None] = []

    def steps(*args: object) -> Iterator[Progress]:
        for done in range(10):
            yield Progress(done, 10)
            left.append(shared_queue().listing()[0].seconds_left)
        raise CapVizError("enough")

    monkeypatch.setattr("cap_viz.runs.execute.pruned_weights_steps", steps)
    shared_queue().submit(spec, "a mask")
    wait_for_jobs()
    assert left[0] is None
    assert all(one is not None and one > 0 for one in left[2:])


def test_a_wrong_link_falls_back_with_notes(scores: StoredRun) -> None:
    at = played(scores, off="L99H0", mask="nonsense", zeros="95", layer="7")
    for wrong in ("L99H0", "nonsense", "95", "7"):
        assert saying(at, wrong)
    assert at.multiselect(key="off").value == []
    assert at.selectbox(key="mask").value == "none"


def test_cap_without_head_scores_says_what_to_do(store: Store, tiny_model: ReasoningModel) -> None:
    other = computed(store, tiny_model, ScoreSpec(tiny_model.ref, calibration_set("mini_text", 2)))
    at = played(other, mask="cap")
    (warning,) = at.warning
    assert "CAP" in warning.value
    assert "Mini science" in warning.value
    assert at.button(key="play_top").disabled
    assert "play_measure" in [button.key for button in at.button]


def test_an_empty_prompt_is_a_sentence_at_the_box(scores: StoredRun) -> None:
    at = played(scores)
    at.text_area(key="prompt").set_value("").run()
    assert not at.exception
    (error,) = at.error
    assert "prompt" in error.value
    assert at.query_params["prompt"] == ""
    drawn = [one.type for one in at.main]
    box, sentence = drawn.index("text_area"), drawn.index("error")
    assert "selectbox" not in drawn[box:sentence], "it stands between the prompt and the next control"


def test_hostile_tokens_stay_text() -> None:
    html = coloured_prompt(["<script>alert(1)</script>", "&", '"'], np.array([np.nan, -3.0, 0.5]))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "rgba(18,136,123,0.75)" in html
    assert "−3.00 nats" in html


def test_tokens_that_look_alike_keep_their_own_bars() -> None:
    assert unique(["a", "b", "a"]) == ["a", "b", "a (2)"]
    assert visible(" a\n") == "␣a⏎"


def test_no_bar_is_labelled_as_nothing() -> None:
    figure = next_token_bars([Candidate(" a", 0.5, 0.0002), Candidate(" b", 0.0006, 0.9)], both=True)
    assert [tuple(bar["text"]) for bar in figure.to_dict()["data"]] == [("50.0 %", "0.1 %"), ("< 0.1 %", "90.0 %")]


def test_a_continuation_takes_one_paragraph() -> None:
    assert in_one_line("\n\n\n \nCarbon  dioxide\nQuestion: ") == "⏎ Carbon  dioxide ⏎ Question:"


@pytest.mark.parametrize("n", [3, MOST_LABELS, MOST_LABELS + 1, 3 * MOST_LABELS])
def test_an_attention_map_says_when_it_does_not_label_every_token(n: int) -> None:
    axis = attention_map(["a"] * n, np.ones((n, n))).layout.xaxis
    step = axis.tickvals[1] - axis.tickvals[0]
    assert step == -(-n // MOST_LABELS)
    assert (f"in {step}" in (axis.title.text or "")) == (step > 1)
