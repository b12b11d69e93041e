"""The lesson: its answers are the stored numbers, its pictures keep them back, its place is in the address."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.path_scores import strongest_heads
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.learn.data import FACTS, TOGETHER, Evidence, NotStored, nearest
from cap_viz.dashboard.learn.lesson import USUAL, lesson_files, read_lesson
from cap_viz.dashboard.learn.page import guesses_in, in_address
from cap_viz.dashboard.learn.pictures import alone
from cap_viz.errors import UsageError
from cap_viz.figures.head_grid import Grid
from cap_viz.figures.lesson import Canvas, joint_bars
from cap_viz.figures.theme import signed
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_queries import model_ref, path_spec
from cap_viz.runs.spec import EvalSpec, JointSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import ASSETS, PROJECT
from cap_viz.stats import compare_paired, mean_with_ci
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.maps import head_maps
from tests.words import numbers, saying

LESSON = read_lesson(ASSETS / "lessons" / f"{USUAL}.toml")
STEPS = LESSON.steps


@pytest.fixture
def measured(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> ReasoningModel:
    """Head scores, generic text, and dense, CAP and Wanda at half of the weights."""
    examples = evaluation_set("tiny", 10)
    specs: list[RunSpec] = [ScoreSpec(tiny_model.ref, calibration_set(name, 8)) for name in ("tiny", "mini_text")]
    specs.append(EvalSpec(tiny_model.ref, examples))
    scores = load_scores(store, finish(run_steps(specs[0], tiny_model, store)))
    heads = strongest_heads(mean_with_ci(scores.effects("nll")), 8)
    specs.append(path_spec(cast(ScoreSpec, specs[0]), heads, examples=examples))
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


def about(model: str, task: str, n: int = 600) -> Evidence:
    store = Store()
    return Evidence(Frame(store, store.runs(), None, model_ref(store, model), load_task(task), n, True, ""))  # pyright: ignore


def answered(at: AppTest) -> dict[str, str]:
    """The choices after the guess, by kind: right, wrong or other."""
    lines = "".join(str(one.proto.body) for one in at.get("html"))
    return dict(re.findall(r'<li class="(\w+)"><b>([^<]*)</b>', lines))


def figures(at: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in at.get("plotly_chart")]


def test_every_step_has_a_picture_a_question_and_an_answer(measured: ReasoningModel) -> None:
    for number, step in enumerate(STEPS, start=1):
        at = opened(measured, step=str(number))
        assert not at.exception
        assert f"{number}. {step.title}" in [one.value for one in at.header]
        assert [at.button(key=f"learn_{number}_{place}").label for place in range(len(step.choices))] == list(
            step.choices
        )
        before = figures(at) + head_maps(at)
        assert before, "no step without a picture"
        assert not answered(at)
        at.button(key=f"learn_{number}_1").click().run()
        assert not at.exception
        assert at.query_params["guesses"] == f"{number}b"
        assert "✓" in answered(at)["right"]
        assert figures(at) + head_maps(at) != before, "the picture shows the answer"
        assert at.button(key=f"learn_go_{number}").label == step.link.label


def test_a_right_and_a_wrong_guess_are_told_apart_by_sign_and_word(measured: ReasoningModel) -> None:
    right = read_lesson(lesson_files()[USUAL]).steps[8].right
    assert right == 1
    at = opened(measured, step="9", guesses="9a")
    assert set(answered(at)) == {"right", "other"}
    at = opened(measured, step="9", guesses="9c")
    assert "✗" in answered(at)["wrong"]
    assert "✗" not in answered(at)["right"]


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
    assert saying(at, signed(100 * pair.difference, 1), f"{100 * cap.acc:.1f} %", f"{100 * wanda.acc:.1f} %")
    values = [value for figure in figures(at) for trace in figure["data"] for value in trace["y"]]
    assert [round(value, 1) for value in values[1:]] == [round(100 * one.acc, 1) for one in (cap, wanda)]


def criterion_of(spec: RunSpec) -> str | None:
    return spec.mask.criterion if isinstance(spec, EvalSpec) and spec.mask is not None else None


def test_a_hidden_map_shows_the_picked_head_only(measured: ReasoningModel, store: Store) -> None:
    estimate = about(measured.ref.id, "tiny").heads.estimate
    every = replace(Grid.of(estimate, ends=("helps", "hurts")), marked=np.ones(estimate.mean.shape, dtype=bool))
    assert not np.isfinite(alone(every, None).mean).any()
    assert not alone(every, None).marked.any()  # pyright: ignore
    at = opened(measured, step="1", pick="L1H2")
    (shown,) = head_maps(at)
    place = shown["heads"] + 2
    assert shown["selected"] == place
    assert [i for i, mean in enumerate(shown["mean"]) if mean is not None] == [place]
    assert shown["mean"][place] == pytest.approx(float(estimate.mean[1, 2]), abs=5e-4)
    assert saying(at, "Layer 1, head 2", signed(float(estimate.mean[1, 2])), f"rank {estimate.rank[1, 2]}")
    at.button(key="learn_next").click().run()
    assert "pick" not in at.query_params


def test_the_address_keeps_step_and_guesses(measured: ReasoningModel) -> None:
    at = opened(measured, step="2", guesses="1a2c")
    assert f"2. {STEPS[1].title}" in [one.value for one in at.header]
    assert answered(at)
    at.button(key="learn_next").click().run()
    assert f"3. {STEPS[2].title}" in [one.value for one in at.header]
    assert not answered(at)
    assert [at.query_params[key] for key in ("step", "guesses")] == ["3", "1a2c"]
    at.button(key="learn_over").click().run()
    assert f"1. {STEPS[0].title}" in [one.value for one in at.header]
    assert not {"guesses", "step"} & set(at.query_params)
    assert at.query_params["task"] == "tiny"


def test_projector_mode_is_in_the_address_and_has_larger_figures(measured: ReasoningModel) -> None:
    at = opened(measured, step="3")
    at.button(key="learn_projector").click().run()
    assert at.query_params["projector"] == "true"
    assert not at.title, "room for the step"
    assert head_maps(at)[0]["text"] >= 22
    assert figures(opened(measured, step="7", projector="true"))[0]["layout"]["xaxis"]["tickfont"]["size"] >= 22
    at.button(key="learn_next").click().run()
    assert at.query_params["projector"] == "true"
    at.button(key="learn_projector").click().run()
    assert "projector" not in at.query_params


def test_guesses_in_the_address_are_read_with_care() -> None:
    assert guesses_in("1a3c", LESSON) == {1: 0, 3: 2}
    assert guesses_in("99a0b<script>12b1d", LESSON) == {}
    assert guesses_in(in_address({2: 1, 8: 0}), LESSON) == {2: 1, 8: 0}


def test_a_step_without_its_run_says_what_is_missing(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> None:
    finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 4)), tiny_model, store))
    for step, names in (("7", ("accuracy", "Tiny", "CAP")), ("1", ("effects", "Tiny"))):
        at = opened(tiny_model, step=step)
        assert not at.exception
        assert saying(at, *names)
        keys = [button.key for button in at.button]
        assert "learn_measure" in keys
        assert "learn_usual" not in keys, "nothing else is stored either"


def test_a_step_without_its_run_offers_the_task_that_has_it(
    store: Store, tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    """The button did nothing, and a reload landed on another model at step 1."""
    finish(run_steps(ScoreSpec(tiny_model.ref, calibration_set("mini_science", 8)), tiny_model, store))
    finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("mini_science", 100)), tiny_model, store))
    at = opened(tiny_model, step="2", guesses="1a")
    assert not answered(at)
    at.button(key="learn_usual").click().run()
    assert not at.exception
    assert [at.selectbox(key=key).value for key in ("task", "n")] == ["mini_science", "100"]
    expected = {"model": tiny_model.ref.id, "task": "mini_science", "n": "100", "step": "2", "guesses": "1a"}
    assert {key: at.query_params[key] for key in at.query_params} == expected
    at.button(key="learn_2_0").click().run()
    assert answered(at)


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
    evidence = about(measured.ref.id, "tiny", 12)
    with pytest.raises(NotStored):
        STEPS[6].told(evidence)
    other = nearest(evidence.view, STEPS[6].told)
    assert other is not None
    assert (other.view.task.name, other.view.n) == ("tiny", 10)


def test_links_lead_to_the_run_and_heads_of_the_lesson(measured: ReasoningModel, store: Store) -> None:
    run = store.get(ScoreSpec(measured.ref, calibration_set("tiny", 8)))
    assert run is not None
    mean = load_scores(store, run).effects("nll").mean(axis=2)
    top = [divmod(int(place), mean.shape[1]) for place in mean.ravel().argsort()[::-1][:TOGETHER]]
    params = STEPS[-1].told(about(measured.ref.id, "tiny")).link.params
    assert params["together"] == [f"L{layer}H{head}" for layer, head in top]
    assert (params["layer"], params["head"]) == top[0]
    at = opened(measured, step=str(len(STEPS)), guesses=f"{len(STEPS)}a")
    at.button(key=f"learn_go_{len(STEPS)}").click().run()
    assert at.title[0].value == "Heads"


def test_the_last_step_shows_the_joint_effect_where_it_is_stored(measured: ReasoningModel, store: Store) -> None:
    assert about(measured.ref.id, "tiny").joint() is None
    heads = tuple(sorted(about(measured.ref.id, "tiny").top_heads))
    finish(run_steps(JointSpec(measured.ref, evaluation_set("tiny", 4), heads), measured, store))
    evidence = about(measured.ref.id, "tiny")
    joint = evidence.joint()
    assert joint is not None
    figure = joint_bars(["a", "b", "c", "d"], *joint, Canvas(400, 14))
    bars: Any = figure.data[0]
    assert bars.y[4] == pytest.approx(sum(bars.y[:4]))
    assert bars.y[5] == pytest.approx(float(joint[1].mean))
    (shown,) = figures(opened(measured, step="9", guesses="9a"))
    assert [trace["type"] for trace in shown["data"]] == ["bar"]


@pytest.mark.parametrize(("model", "task"), [(DEFAULT_MODEL, "mini_science"), (TOY_MODEL, "toy_math")])
def test_heads_that_hurt_and_help_are_counted_apart_and_add_up(all_shipped: None, model: str, task: str) -> None:
    """107 and 156 of 270 heads were said on two pages, of two things."""
    evidence = about(model, task, 200)
    estimate = evidence.heads.estimate
    hurt = int((estimate.survives & (estimate.mean > 0)).sum())
    survive, total = int(estimate.survives.sum()), estimate.mean.size
    expected = {str(hurt), str(survive - hurt), str(survive), str(total), f"{100 * hurt / total:.1f}"}
    assert expected <= numbers(STEPS[0].told(evidence).because)


def test_every_fact_can_be_had_and_is_documented(all_shipped: None) -> None:
    evidence = about(TOY_MODEL, "toy_math", 200)
    manual = Path(PROJECT, "docs", "own_lesson.md").read_text("utf-8")
    for name, fact in FACTS.items():
        assert fact(evidence) not in (None, "")
        assert f"`{name}`" in manual


def test_own_lessons_are_offered_and_mistakes_are_sentences(
    measured: ReasoningModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.dashboard.learn.lesson.local_folder", lambda: tmp_path)
    (tmp_path / "lessons").mkdir()
    own = tmp_path / "lessons" / "mine.toml"
    manual = Path(PROJECT, "docs", "own_lesson.md").read_text("utf-8")
    own.write_text(re.search(r"```toml\n(.*?)```", manual, re.DOTALL)[1], "utf-8")  # pyright: ignore
    lesson = read_lesson(own)
    at = opened(measured, lesson="mine")
    assert not at.exception
    assert at.selectbox(key="lesson").options == [USUAL, "mine"]
    assert f"1. {lesson.steps[0].title}" in [one.value for one in at.header]
    at.button(key="learn_1_0").click().run()
    assert answered(at)
    own.write_text("steps = 3", "utf-8")
    at = opened(measured, lesson="mine")
    assert not at.exception
    assert "mine.toml" in at.error[0].value


STEP = {
    "title": "a",
    "text": "b",
    "picture": "effect map",
    "question": "{task}?",
    "choices": ["x", "y"],
    "because": "c",
    "link": {"label": "d", "page": "heads"},
    "right": 1,
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"picture": "film"}, "film"),
        ({"question": "{heads"}, "question"),
        ({"text": "{wonders} of {heads}"}, "wonders"),
        ({"link": {"label": "d", "page": "home"}}, "home"),
        ({"link": {"label": "d", "page": "heads", "params": {"layer": "{nowhere}"}}}, "nowhere"),
        ({"right": 3}, "3"),
        ({"fact": "heads", "limits": [1]}, "right"),
        ({"right": None}, "right"),
        ({"right": None, "fact": "luck", "limits": [1]}, "luck"),
        ({"right": None, "fact": "heads", "limits": [1, 2]}, "limits"),
        ({"choices": ["x", "y", "z"], "right": None, "fact": "heads", "limits": [2, 1]}, "limits"),
        ({"choices": ["x"]}, "choices"),
        ({"title": 7}, "title"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_mistake_in_a_lesson_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    file = tmp_path / "wrong.toml"
    step = {key: value for key, value in {**STEP, **changes}.items() if value is not None}
    file.write_text(f"title = 'a'\nsummary = 'b'\nsteps = [{in_toml(step)}]", "utf-8")
    with pytest.raises(UsageError, match=rf"wrong\.toml.*{named}"):
        read_lesson(file)


def in_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {in_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def test_a_format_that_does_not_fit_its_fact_is_a_sentence(measured: ReasoningModel, store: Store) -> None:
    evidence = about(measured.ref.id, "tiny")
    for step in (replace(STEPS[0], question="{task:.2f}"), replace(STEPS[0], fact="run")):
        with pytest.raises(UsageError, match=STEPS[0].title):
            step.told(evidence)


def test_a_file_that_is_no_lesson_is_named(tmp_path: Path) -> None:
    for content in (b"\xff", b"steps = [", b"", b"title = 1979-05-27"):
        file = tmp_path / "broken.toml"
        file.write_bytes(content)
        with pytest.raises(UsageError, match=r"broken\.toml"):
            read_lesson(file)
