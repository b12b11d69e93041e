"""Text tasks and the comparison with generic text on the pages: real runs of the tiny model, pages as scripts.

The tiny model knows few words, so most of a passage is its unknown token; the numbers are real all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cap_viz.dashboard.heads.data import View, head_table
from cap_viz.dashboard.names import TEXT_LOSS
from cap_viz.figures.theme import signed
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.run_queries import control_runs
from cap_viz.runs.score_sources import ScoreSource
from cap_viz.runs.spec import EvalSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import rank_agreement, specificity, split_half, top_overlap
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.maps import SEEN, drawn
from tests.test_ui_pages import opened, opened_heads, text
from tests.words import bold_titles, numbers, saying

TIMEOUT = 60


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store in place of the project's, and a queue that writes into it."""
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: tmp_path / "shipped")
    shared_queue.cache_clear()
    yield Store()
    for job in shared_queue().listing():
        shared_queue().cancel(job)
    shared_queue.cache_clear()


def computed(store: Store, model: ReasoningModel, spec: RunSpec) -> StoredRun:
    return finish(run_steps(spec, model, store))


def score_spec(model: ReasoningModel, task: str, n: int, ablation: str = "zero") -> ScoreSpec:
    return ScoreSpec(model=model.ref, examples=calibration_set(task, n), ablation=ablation)


@pytest.fixture
def scores(store: Store, tiny_model: ReasoningModel) -> StoredRun[ScoreSpec]:
    return finish(run_steps(score_spec(tiny_model, "mini_science", 8), tiny_model, store))


@pytest.fixture
def control(store: Store, tiny_model: ReasoningModel) -> StoredRun[ScoreSpec]:
    return finish(run_steps(score_spec(tiny_model, "mini_text", 6), tiny_model, store))


def wait_for_jobs() -> None:
    end = time.monotonic() + TIMEOUT
    while any(job.active for job in shared_queue().listing()) and time.monotonic() < end:
        time.sleep(0.05)


def test_heads_shows_a_text_task_with_the_one_metric_it_has(store: Store, control: StoredRun[ScoreSpec]) -> None:
    chosen = load_task("mini_text").by_ids(control.spec.examples.ids)[2]
    at = opened_heads(control, metric="choice_nll", layer="1", head="2", example=chosen.id)
    assert not at.exception
    shown = text(at)
    assert saying(at, TEXT_LOSS, "Mini text")
    assert TEXT_LOSS in shown
    assert saying(at, "head 2", "layer 1")
    assert not at.warning, "guessing is for questions"
    assert "view" not in [control.key for control in at.segmented_control], "it is a control itself"
    scores = load_scores(store, control)
    np.testing.assert_allclose(drawn(at), scores.mean_effect("nll"), atol=SEEN)
    # The example: what is given, what is scored, and its loss.
    intact = -float(scores.dense[2, 0]) / int(scores.questions.tokens[2, 0])
    assert chosen.prompt in shown
    assert chosen.options[0].strip()[:40] in shown
    assert saying(at, f"{scores.questions.tokens[2, 0]} tokens")
    assert f"| {intact:.3f} |" in shown


def test_a_text_run_can_be_started_on_the_page(store: Store, control: StoredRun[ScoreSpec]) -> None:
    at = opened_heads(control)
    at.number_input(key="heads_n").set_value(2).run()
    at.button(key="heads_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert at.selectbox(key="run").value == "n2-seed0-zero"
    assert saying(at, "2 examples", "4")


def test_specificity_is_what_the_library_computes(
    store: Store, scores: StoredRun[ScoreSpec], control: StoredRun[ScoreSpec]
) -> None:
    effects = [load_scores(store, run).effects("nll") for run in (scores, control)]
    found = specificity(*effects)
    means = [one.mean(axis=-1) for one in effects]
    shared = top_overlap(means[0], means[1], 1)
    at = opened_heads(scores, view="specificity")
    assert not at.exception
    np.testing.assert_allclose(drawn(at), found.mean, atol=10 * SEEN)
    ranks = rank_agreement(means[0], means[1], *(split_half(one).full for one in effects))
    agreement = [f"{one:.2f}".replace("-", "−") for one in (ranks.correlation, ranks.ceiling)]
    assert saying(at, str(shared.shared), "top 1", "mini text", f"{shared.expected:.1f}", *agreement)
    layer, head = np.argwhere(found.rank == 1)[0]
    assert saying(at, f"head {head}", f"layer {layer}")
    assert at.selectbox(key="control").options == ["Mini text"]
    assert [one for one in at.caption if "control Mini text" in one.value]


def test_only_a_difference_that_survives_is_a_verdict_in_bold(
    store: Store, scores: StoredRun[ScoreSpec], control: StoredRun[ScoreSpec]
) -> None:
    """One that does not was set in bold above the q-value that says so."""
    found = specificity(*(load_scores(store, run).effects("nll") for run in (scores, control)))
    for kind, bold in ((found.survives, 2), (~found.survives & ~found.unclear, 1), (found.unclear, 1)):
        layer, head = (int(place) for place in np.argwhere(kind)[0])
        at = opened_heads(scores, view="specificity", layer=str(layer), head=str(head))
        (said,) = saying(at, f"head {head}", f"layer {layer}", "SD")
        assert said.count("**") == 2 * bold, "the head, and the verdict"


def test_the_generic_text_view_shows_the_control(
    store: Store, scores: StoredRun[ScoreSpec], control: StoredRun[ScoreSpec]
) -> None:
    at = opened_heads(scores, view="generic text")
    assert not at.exception
    np.testing.assert_allclose(drawn(at), load_scores(store, control).mean_effect("nll"), atol=SEEN)
    mean = load_scores(store, control).mean_effect("nll")
    layer, head = np.unravel_index(int(np.argmax(mean)), mean.shape)
    assert saying(at, f"head {head}", f"layer {layer}", signed(float(mean[layer, head])))
    tokens = load_scores(store, control).questions.tokens[:, 0]
    assert any(saying(at, f"{n} tokens") for n in tokens)


def test_the_view_control_switches_and_gives_the_metrics_back(
    store: Store, scores: StoredRun[ScoreSpec], control: StoredRun[ScoreSpec]
) -> None:
    at = opened_heads(scores)
    before = drawn(at)
    at.segmented_control(key="view").set_value("specificity").run()
    assert not at.exception
    assert not np.allclose(drawn(at), before)
    at.segmented_control(key="view").set_value("task effect").run()
    np.testing.assert_allclose(drawn(at), before)
    assert at.segmented_control(key="metric").value == "nll"


def test_exports_hold_what_the_view_shows(
    store: Store, scores: StoredRun[ScoreSpec], control: StoredRun[ScoreSpec]
) -> None:
    found = specificity(*(load_scores(store, run).effects("nll") for run in (scores, control)))
    source = ScoreSource("any", scores.spec, run=scores)
    table = head_table(store, View(source, "nll", "specificity", control))
    assert table["rank"].tolist() == list(range(1, 13))
    for layer, head, specific in table[["layer", "head", "specificity"]].itertuples(index=False):
        assert specific == pytest.approx(found.mean[layer, head])
    for name, run in (("generic text", control), ("task effect", scores)):
        view, wanted = View(source, "nll", name, control), load_scores(store, run)
        assert head_table(store, view)["mean_effect"].iloc[0] == pytest.approx(wanted.mean_effect("nll").max())


def test_without_a_control_the_view_offers_to_measure_one(store: Store, scores: StoredRun[ScoreSpec]) -> None:
    at = opened_heads(scores, view="specificity")
    assert not at.exception
    assert "exact, zero ablation" in bold_titles(at)[-1]
    assert not at.get("plotly_chart")
    at.button(key="heads_control_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert isinstance(scores.spec, ScoreSpec)
    (control,) = control_runs(store.runs(), scores.spec).values()
    found = specificity(*(load_scores(store, run).effects("nll") for run in (scores, control)))
    np.testing.assert_allclose(drawn(at), found.mean, atol=10 * SEEN)


def test_a_control_takes_its_values_from_the_same_reference_examples(store: Store, tiny_model: ReasoningModel) -> None:
    """It was measured without them, and the page went on saying that there is no control."""
    spec = replace(
        score_spec(tiny_model, "mini_science", 8, "mean"), reference=calibration_set("mini_science", 6, seed=1)
    )
    at = opened_heads(computed(store, tiny_model, spec), view="specificity")
    assert not [code for code in at.code if "cap_viz score" in code.value]
    at.button(key="heads_control_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert "heads_control_start" not in [button.key for button in at.button]
    (found,) = control_runs(store.runs(), spec).values()
    assert isinstance(found.spec, ScoreSpec)
    assert found.spec.reference == spec.reference


def test_a_control_is_measured_as_the_task_is(
    store: Store, scores: StoredRun[ScoreSpec], tiny_model: ReasoningModel
) -> None:
    computed(store, tiny_model, score_spec(tiny_model, "mini_text", 4, "mean"))
    assert isinstance(scores.spec, ScoreSpec)
    assert control_runs(store.runs(), scores.spec) == {}
    small = computed(store, tiny_model, score_spec(tiny_model, "mini_text", 4))
    assert control_runs(store.runs(), scores.spec)["mini_text"].key == small.key
    large = computed(store, tiny_model, score_spec(tiny_model, "mini_text", 5))
    assert control_runs(store.runs(), scores.spec)["mini_text"].key == large.key


def test_too_few_examples_for_specificity_is_a_sentence(
    store: Store, scores: StoredRun[ScoreSpec], tiny_model: ReasoningModel
) -> None:
    computed(store, tiny_model, score_spec(tiny_model, "mini_text", 2))
    at = opened_heads(scores, view="specificity")
    assert not at.exception
    (error,) = at.error
    assert numbers(error.value) == {"4", "2"}


def test_overview_shows_loss_instead_of_accuracy_and_marks_chance(
    store: Store, control: StoredRun[ScoreSpec], tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    computed(store, tiny_model, score_spec(tiny_model, "tiny", 8))
    computed(store, tiny_model, EvalSpec(model=tiny_model.ref, examples=evaluation_set("tiny", 20)))
    at = opened("app.py", model=tiny_model.ref.id, task="tiny")
    held = load_scores(store, control)
    loss = float((-held.dense[:, 0] / held.questions.tokens[:, 0]).mean())
    assert not at.exception
    (other,) = [str(one.proto.body) for one in at.get("html") if "nats per token" in str(one.proto.body)]
    assert f"{loss:.2f}" in other
    (warning,) = at.warning
    assert numbers(warning.value) == {"25.0"}
    assert "overview_heads_mini_text" in [button.key for button in at.button]


def test_all_questions_are_used_where_there_are_fewer_than_asked(
    store: Store, control: StoredRun[ScoreSpec], tiny_task: Task
) -> None:
    for page in ("pages/heads.py", "pages/prune.py"):
        at = opened(page, model=control.spec.model.id, task="tiny", n="600")
        assert not at.exception
        assert at.selectbox(key="n").options == ["all 20"]
        assert [one for one in saying(at, "600") if numbers(one) == {"600", "20"}]
    assert [one for one in saying(at, "20 items") if "-badge[" not in one]


def test_prune_says_that_text_has_no_accuracy_and_still_counts_zeros(
    store: Store, control: StoredRun[ScoreSpec]
) -> None:
    at = opened("pages/prune.py", model=control.spec.model.id, task="mini_text", against="wanda")
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert "Mini text" in bold_titles(at)[-1]
    assert "prune_measure" not in [button.key for button in at.button]
    assert len(at.get("plotly_chart")) == 2
    at.button(key="prune_task_mini_science").click().run()
    assert not at.exception
    assert at.selectbox(key="task").value == "mini_science"


def test_every_task_can_be_chosen(store: Store) -> None:
    at = opened("app.py")
    assert {load_task(name).title for name in ("gsm8k", "generic_text", "mini_text")} <= set(
        at.selectbox(key="task").options
    )
    assert at.selectbox(key="n").value == "600"
