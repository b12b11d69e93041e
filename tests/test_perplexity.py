"""Perplexity against transformers' own loss, by hand, and as a stored run."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from transformers import AutoModelForCausalLM

from cap_viz.attribution.results import EvalReport, Questions
from cap_viz.errors import UsageError
from cap_viz.evaluation.perplexity import perplexity_of, token_windows
from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.protocols import perplexity_spec
from cap_viz.runs.spec import EvalSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.store import Store
from cap_viz.tasks import load_task
from tests.shell import Shell
from tests.tiny import write_tiny_model

LENGTH = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> ReasoningModel:
    return load(resolve(str(folder)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def test_two_windows_by_hand() -> None:
    """Losses of 2 and 3 nats a token: exp(2.5), whatever the rest of the report says."""
    questions = Questions(("a", "b"), np.array([0, 0]), np.array([[10], [10]]), np.array([[1], [1]]))
    found = perplexity_of(EvalReport(questions, np.array([[-20.0], [-30.0]], dtype=np.float32)))
    assert found.value == pytest.approx(exp(2.5))
    assert (found.n_windows, found.n_tokens) == (2, 20)
    assert found.ci.low == pytest.approx(exp(2))
    assert found.ci.high == pytest.approx(exp(3))


def test_it_is_the_exponential_of_the_mean_loss_of_transformers(
    model: ReasoningModel, folder: Path, store: Store
) -> None:
    """The network itself, one window at a time with `labels`: no code of ours."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = load_task("mini_text").running_text
    assert text is not None
    ids = model.tokenizer(text(), add_special_tokens=False, verbose=False)["input_ids"]
    with torch.inference_mode():
        windows = [torch.tensor([ids[start : start + LENGTH]]) for start in (0, LENGTH, 2 * LENGTH)]
        losses = [float(network(window, labels=window).loss) for window in windows]
    run = finish(run_steps(perplexity_spec(model.ref, "mini_text", n_windows=3, length=LENGTH), model, store))
    found = perplexity_of(load_report(store, run))
    assert found.value == pytest.approx(exp(sum(losses) / 3), rel=1e-5)
    assert found.n_tokens == 3 * (LENGTH - 1)


def test_windows_cover_the_text_once_and_in_order(model: ReasoningModel) -> None:
    task = load_task("mini_text")
    assert task.running_text is not None
    ids = model.tokenizer(task.running_text(), add_special_tokens=False, verbose=False)["input_ids"]
    windows = token_windows(model, task, 100)
    assert len(windows) == len(ids) // 100
    assert [token for window in windows for token in window] == ids[: 100 * len(windows)]


def test_a_pruned_model_has_its_own_perplexity_and_the_dense_one_is_left_alone(
    model: ReasoningModel, store: Store
) -> None:
    dense = perplexity_spec(model.ref, "mini_text", n_windows=2, length=LENGTH)
    mask = mask_spec_for(model.ref, "global_magnitude", 0.9, task="mini_science", n=2)
    first = load_report(store, finish(run_steps(dense, model, store)))
    pruned = load_report(store, finish(run_steps(replace(dense, mask=mask), model, store)))
    assert perplexity_of(pruned).value != perplexity_of(first).value
    again = Store(shipped=store.shipped, local=store.local.parent / "again")
    assert_allclose(load_report(again, finish(run_steps(dense, model, again))).logliks, first.logliks, rtol=0, atol=0)


def test_the_protocol_is_in_the_key_and_survives_a_round_trip(model: ReasoningModel) -> None:
    spec = perplexity_spec(model.ref, "mini_text", n_windows=2, length=LENGTH)
    assert spec_from_dict(spec_dict(spec)) == spec
    others = (replace(spec, protocol="perplexity-49"), replace(spec, protocol=None))
    assert len({spec_key(one) for one in (spec, *others)}) == 3
    assert "protocol" not in spec_dict(EvalSpec(spec.model, spec.examples))


def test_an_unknown_protocol_is_refused(model: ReasoningModel, store: Store) -> None:
    spec = replace(perplexity_spec(model.ref, "mini_text", n_windows=1), protocol="telepathy-3")
    with pytest.raises(UsageError, match="telepathy"):
        finish(run_steps(spec, model, store))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": "mini_science"}, r"mini_science\b.*mini_text\b"),
        ({"task": "mini_text", "n_windows": 0}, r"windows\b.*\b0\b.*\b1\b"),
        ({"task": "mini_text", "length": 1}, r"\b1 tokens\b.*\b2\b"),
    ],
)
def test_impossible_requests_get_a_sentence(model: ReasoningModel, options: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        perplexity_spec(model.ref, **options)


def test_more_text_than_there_is_and_longer_than_the_model_reads(model: ReasoningModel, store: Store) -> None:
    with pytest.raises(UsageError, match=rf"mini_text\b.*\b{LENGTH} tokens\b.*\b99999\b"):
        finish(run_steps(perplexity_spec(model.ref, "mini_text", n_windows=99999, length=LENGTH), model, store))
    longer = model.shape.n_ctx + 1
    with pytest.raises(UsageError, match=rf"\b{longer} tokens\b.*\b{model.shape.n_ctx} tokens\b"):
        finish(run_steps(perplexity_spec(model.ref, "mini_text", n_windows=1, length=longer), model, store))


def test_the_shell_prints_it(folder: Path, shell: Shell) -> None:
    options = ["perplexity", "--model", str(folder), "--text", "mini_text", "--length", "64", "--windows", "2"]
    code, out, err = shell(*options)
    assert code == 0, err
    (said,) = [line for line in out.splitlines() if "mini_text" in line]
    assert all(part in said for part in ("2 windows", "64 tokens", "dense"))
    found = shell.json(*options)
    assert f"perplexity {found['perplexity']:.2f}" in out
    assert found["tokens_scored"] == 2 * 63
    low, high = found["perplexity_ci"]
    assert low <= found["perplexity"] <= high
