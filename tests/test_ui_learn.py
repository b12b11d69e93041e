"""The lesson: its answers are the stored numbers, and its place and guesses are in the address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.learn.data import Lesson, has_answer
from cap_viz.dashboard.learn.page import guesses_in, in_address
from cap_viz.dashboard.learn.steps import STEPS, TOGETHER, LessonStep
from cap_viz.figures.theme import signed
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.run_queries import model_ref
from cap_viz.runs.spec import EvalSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import PROJECT
from cap_viz.stats import compare_paired
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.words import numbers, saying


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: tmp_path / "shipped")
    shared_queue.cache_clear()
    yield Store()
    shared_queue.cache_clear()


@pytest.fixture
def measured(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> ReasoningModel:
    """Head scores, generic text, and dense, CAP and Wanda at half of the weights."""
    examples = evaluation_set("tiny", 10)
    specs: list[RunSpec] = [ScoreSpec(tiny_model.ref, calibration_set(name, 8)) for name in ("tiny", "mini_text")]
    specs.append(EvalSpec(tiny_model.ref, examples))
    for criterion in ("cap", "wanda"):
        specs.append(
            EvalSpec(tiny_model.ref, examples, mask_spec_for(tiny_model.ref, criterion, 0.5, task="tiny", n=8))
        )
    for spec in specs:
        finish(run_steps(spec, tiny_model, store))
    return tiny_model


def opened(model: ReasoningModel, **params: str) -> AppTest:
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    at.switch_page("pages/learn.py")
    for name, value in {"model": model.ref.id, "task": "tiny", **params}.items():
        at.query_params[name] = value
    return at.run()


def words(at: AppTest) -> str:
    elements = [*at.markdown, *at.caption, *at.info, *at.warning, *at.error, *at.success, *at.subheader]
    return "\n".join(str(element.value) for element in elements)


def test_every_step_has_an_answer_to_its_question(measured: ReasoningModel) -> None:
    for number, step in enumerate(STEPS, start=1):
        at = opened(measured, step=str(number))
        assert not at.exception
        assert f"{number}. {step.title}" in words(at)
        assert [at.button(key=f"learn_{number}_{place}").label for place in range(3)] == list(step.choices)
        at.button(key=f"learn_{number}_1").click().run()
        assert not at.exception
        assert guessed(at, step) == [1]
        assert len(at.success) == 1
        assert at.query_params["guesses"] == f"{number}b"


def guessed(at: AppTest, step: LessonStep) -> list[int]:
    """The choices beside which more stands than a mark and the choice itself."""
    lines = [line for one in at.markdown for line in one.value.split("  \n")]
    more = [re.compile(rf":material/\w+: (\*\*)?{re.escape(choice)}(\*\*)? \S") for choice in step.choices]
    return [place for place, pattern in enumerate(more) if any(map(pattern.match, lines))]


def test_the_answers_are_the_stored_numbers(measured: ReasoningModel, store: Store) -> None:
    runs = {run.spec: run for run in store.runs()}
    scores = load_scores(store, runs[ScoreSpec(measured.ref, calibration_set("tiny", 8))])
    mean = scores.effects("nll").mean(axis=2)
    layer, head = np.unravel_index(int(mean.argmax()), mean.shape)
    at = opened(measured, step="3", guesses="3a")
    assert saying(at, f"Head {head}", f"layer {layer}", "3", signed(float(mean[layer, head]), 2))
    cap, wanda = (
        load_report(store, next(run for spec, run in runs.items() if criterion_of(spec) == name))
        for name in ("cap", "wanda")
    )
    pair = compare_paired(cap.correct, wanda.correct)
    at = opened(measured, step="7", guesses="7c")
    assert saying(at, f"p = {pair.p_value:.2g}", signed(100 * pair.difference, 1))


def criterion_of(spec: RunSpec) -> str | None:
    return spec.mask.criterion if isinstance(spec, EvalSpec) and spec.mask is not None else None


def test_the_address_keeps_step_and_guesses(measured: ReasoningModel) -> None:
    at = opened(measured, step="2", guesses="1a2c")
    assert f"2. {STEPS[1].title}" in words(at)
    assert guessed(at, STEPS[1]) == [2]
    at.button(key="learn_next").click().run()
    assert f"3. {STEPS[2].title}" in words(at)
    assert guessed(at, STEPS[2]) == []
    at.button(key="learn_over").click().run()
    assert f"1. {STEPS[0].title}" in words(at)
    assert "guesses" not in at.query_params


def test_guesses_in_the_address_are_read_with_care() -> None:
    assert guesses_in("1a3c") == {1: 0, 3: 2}
    assert guesses_in("99a0b<script>12b") == {}
    assert guesses_in(in_address({2: 1, 8: 0})) == {2: 1, 8: 0}


def test_a_step_without_its_run_says_what_is_missing(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> None:
    finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4)), tiny_model, store))
    for step, names in (("7", ("accuracy", "tiny", "CAP")), ("1", ("effects", "tiny"))):
        at = opened(tiny_model, step=step)
        assert not at.exception
        assert saying(at, *names)
        keys = [button.key for button in at.button]
        assert "learn_measure" in keys
        assert "learn_usual" not in keys, "nothing else is stored either"


def test_a_step_without_its_run_offers_the_task_that_has_it(
    store: Store, tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    finish(run_steps(ScoreSpec(tiny_model.ref, calibration_set("mini_science", 8)), tiny_model, store))
    finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("mini_science", 100)), tiny_model, store))
    at = opened(tiny_model, step="2", guesses="1a")
    assert not at.success
    at.button(key="learn_usual").click().run()
    assert not at.exception
    assert [at.selectbox(key=key).value for key in ("task", "n")] == ["mini_science", "100"]
    assert [at.query_params[key] for key in ("step", "guesses")] == ["2", "1a"]
    at.button(key="learn_2_0").click().run()
    assert len(at.success) == 1


def test_running_text_is_sent_to_a_task_with_options_not_to_be_measured(store: Store, measured: ReasoningModel) -> None:
    at = opened(measured, task="mini_text", step="7")
    assert not at.exception
    keys = [button.key for button in at.button]
    assert "learn_measure" not in keys
    at.button(key="learn_usual").click().run()
    assert at.selectbox(key="task").value == "tiny"


def test_the_size_with_all_runs_is_offered(measured: ReasoningModel, store: Store) -> None:
    more = EvalSpec(measured.ref, evaluation_set("tiny", 12))
    finish(run_steps(more, measured, store))
    view = Frame(store, store.runs(), measured.ref, load_task("tiny"), 12, True, "")
    assert not has_answer(Lesson(view), STEPS[6].answer)
    other = Lesson(view).with_answer(STEPS[6].answer)
    assert other is not None
    assert (other.view.task.name, other.view.n) == ("tiny", 10)


def test_links_lead_to_the_run_and_heads_of_the_lesson(measured: ReasoningModel, store: Store) -> None:
    run = store.get(ScoreSpec(measured.ref, calibration_set("tiny", 8)))
    assert run is not None
    scores = load_scores(store, run)
    mean = scores.effects("nll").mean(axis=2)
    top = [divmod(int(place), mean.shape[1]) for place in mean.ravel().argsort()[::-1][:TOGETHER]]
    at = opened(measured, step=str(len(STEPS)), guesses=f"{len(STEPS)}a")
    at.button(key=f"learn_go_{len(STEPS)}").click().run()
    assert not at.exception
    assert at.title[0].value == "Heads"
    assert at.multiselect(key="together").value == [f"L{layer}H{head}" for layer, head in top]
    assert (at.number_input(key="layer").value, at.number_input(key="head").value) == top[0]


def test_heads_that_hurt_and_help_are_counted_apart_and_add_up_to_the_survivors(all_shipped: None) -> None:
    store = Store()
    view = Frame(store, store.runs(), model_ref(store, DEFAULT_MODEL), load_task("mini_science"), 600, True, "")
    lesson = Lesson(view)
    survive = int(lesson.heads.estimate.survives.sum())
    found = STEPS[0].answer(lesson)
    n, others, total = lesson.clearly_needed, lesson.clearly_in_the_way, lesson.heads.estimate.mean.size
    assert n + others == survive
    assert {str(n), str(others), str(survive), str(total), f"{100 * n / total:.1f}"} <= numbers(found.because)
