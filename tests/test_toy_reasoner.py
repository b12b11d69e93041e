"""The toy reasoner as it is shipped: unchanged, accurate on combinations it never saw, and one click away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import cap_viz as cv
from cap_viz.dashboard.names import task_name
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models import catalogue
from cap_viz.models.catalogue import CATALOGUE, DEFAULT_MODEL, TOY_MODEL, TRAINING_FILE, resolve
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_answers, load_report
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.protocols import generation_spec
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import ASSETS
from cap_viz.tasks import TASKS
from cap_viz.tasks.example_sets import evaluation_set, examples_of
from cap_viz.tasks.readable import check_readable, controls_for, tasks_for
from tests.test_ui_pages import opened

FOLDER = ASSETS / "toy_reasoner"
TOY_TASKS = ("toy_math", "toy_strategy", "toy_choice")


@pytest.fixture(scope="module")
def toy() -> ReasoningModel:
    return load_model(TOY_MODEL)


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy model's files in a folder of their own, which the catalogue is made to name."""
    folder = tmp_path / "toy_reasoner"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setattr(catalogue, "packaged_file", lambda entry: found_file(folder))
    return folder


def found_file(folder: Path) -> Path | None:
    file = folder / "model.safetensors"
    return file if file.is_file() else None


def test_weights_are_those_the_training_wrote_and_small() -> None:
    training = json.loads((FOLDER / TRAINING_FILE).read_text(encoding="utf-8"))
    assert resolve(TOY_MODEL).fingerprint == training["fingerprint"]
    assert training["parameters"] < 1_000_000
    assert (FOLDER / "model.safetensors").stat().st_size <= 4 * 2**20


def test_changed_weights_are_refused(copied: Path) -> None:
    file = copied / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CapVizError, match=r"\btrained\b.*\bgit checkout\b"):
        resolve(TOY_MODEL)


def test_deleted_weights_and_records_say_how_to_get_them_back(copied: Path) -> None:
    (copied / TRAINING_FILE).unlink()
    with pytest.raises(CapVizError, match=r"\btraining\.json\b.*\bgit checkout\b"):
        resolve(TOY_MODEL)
    (copied / "model.safetensors").unlink()
    with pytest.raises(CapVizError, match=r"\binstalled\b.*\bgit checkout\b"):
        resolve(TOY_MODEL)


@pytest.mark.parametrize("task", TOY_TASKS)
def test_held_out_combinations_are_answered(toy: ReasoningModel, task: str) -> None:
    report = cv.evaluate(toy, cv.load_task(task).evaluation(200))
    assert report.correct.mean() >= 0.93


@pytest.mark.parametrize("task", [*TOY_TASKS, "toy_text"])
def test_every_word_of_the_toy_tasks_is_known(toy: ReasoningModel, task: str) -> None:
    splits = cv.load_task(task).splits
    for one in (*splits.calibration[:100], *splits.evaluation[:100]):
        for text in (one.prompt + option for option in one.options):
            ids = toy.tokenizer.encode(text)
            assert toy.tokenizer.unk_token_id not in ids
            assert toy.tokenizer.decode(ids) == text


@pytest.mark.usefixtures("all_shipped")
def test_shipped_numbers_come_out_again(toy: ReasoningModel) -> None:
    """Another processor adds the same numbers in another order."""
    store = Store()
    runs = store.runs()
    for task in TOY_TASKS:
        run = score_runs(runs, toy.ref, task)[0]
        assert isinstance(run.spec, ScoreSpec)
        fresh = cv.score_heads(toy, examples_of(run.spec.examples)[:2], estimator="exact")
        np.testing.assert_allclose(fresh.ablated, load_scores(store, run).ablated[:, :, :2], atol=5e-3)
        dense = store.get(EvalSpec(model=toy.ref, examples=evaluation_set(task, 200)))
        assert dense is not None
        fresh_report = cv.evaluate(toy, cv.load_task(task).evaluation(20))
        np.testing.assert_allclose(fresh_report.logliks, load_report(store, dense).logliks[:20], atol=5e-3)


def test_the_same_plan_gives_the_same_bits_and_other_plans_next_to_the_same(
    toy: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    examples = cv.load_task("toy_strategy").evaluation(60)
    usual = cv.evaluate(toy, examples).logliks
    assert np.array_equal(cv.evaluate(toy, examples).logliks, usual)
    threads = torch.get_num_threads()
    for count, tokens in ((1, 384), (2, 384), (threads, 100), (threads, 2000)):
        monkeypatch.setattr("cap_viz.evaluation.choice.TOKENS_PER_FORWARD", tokens)
        torch.set_num_threads(count)
        try:
            np.testing.assert_allclose(cv.evaluate(toy, examples).logliks, usual, atol=1e-4)
        finally:
            torch.set_num_threads(threads)


def test_it_reads_its_own_tasks_only(toy: ReasoningModel, tmp_path: Path) -> None:
    assert tasks_for(TOY_MODEL) == [*TOY_TASKS, "toy_text"]
    assert set(TASKS) <= set(tasks_for(DEFAULT_MODEL))
    assert controls_for(TOY_MODEL) == ["toy_text"]
    assert controls_for(DEFAULT_MODEL) == ["generic_text", "mini_text"]
    check_readable(DEFAULT_MODEL, "toy_math")
    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    with pytest.raises(UsageError, match=r"\btoy-reasoner\b.*\btoy_math\b.*\bmini_science\b"):
        next(run_steps(EvalSpec(toy.ref, evaluation_set("mini_science", 2)), toy, store))


@pytest.mark.parametrize("page", ["app.py", "pages/heads.py", "pages/prune.py"])
def test_one_click_leads_to_the_toy_model_and_back(page: str) -> None:
    at = opened(page)
    assert at.selectbox(key="model").value == DEFAULT_MODEL
    at.button(key="other_model").click().run()
    assert not at.exception
    assert (at.selectbox(key="model").value, at.selectbox(key="task").value) == (TOY_MODEL, "toy_math")
    assert at.selectbox(key="task").options == [task_name(one) for one in tasks_for(TOY_MODEL)]
    assert not at.error
    at.button(key="other_model").click().run()
    assert not at.exception
    assert (at.selectbox(key="model").value, at.selectbox(key="task").value) == (DEFAULT_MODEL, "mini_science")


def test_the_catalogue_names_tasks_that_exist() -> None:
    assert all(name in TASKS for entry in CATALOGUE.values() for name in entry.tasks)


@pytest.mark.parametrize("name", ["toy_math", "toy_strategy"])
def test_answers_are_written_without_further_options(toy: ReasoningModel, tmp_path: Path, name: str) -> None:
    """The usual 256 tokens and worked examples left no room for the question in the 256 tokens the model reads."""
    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    run = finish(run_steps(generation_spec(toy.ref, evaluation_set(name, 12)), toy, store))
    report = load_answers(store, run)
    assert report.correct.mean() > 0.5
    assert not report.dropped.any()
