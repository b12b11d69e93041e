"""Which device and precision: what is asked for, what is here, and what half precision changes and does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cap_viz.attribution.exact import exact_scores, make_score_plan
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.choice import evaluate
from cap_viz.models.catalogue import resolve
from cap_viz.models.devices import chosen_device, expected_device
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.pruning import prune_mask
from cap_viz.runs.spec import EvalSpec, spec_key
from cap_viz.settings import requested_device, requested_dtype
from cap_viz.stats.reliability import rank_correlation
from cap_viz.tasks.example_sets import evaluation_set
from tests.shell import Shell
from tests.tiny import tiny_examples

HALVES = ("bfloat16", "float16")


@pytest.mark.parametrize("asked", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_devices_by_name(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_DEVICE", asked)
    assert requested_device() == asked


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:x", "cpu:0", "mps:1", ":"])
def test_what_is_no_device(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_DEVICE", asked)
    with pytest.raises(UsageError, match=rf"CAP_VIZ_DEVICE\b.*{asked!r}.*auto, cpu, cuda, mps"):
        requested_device()


def test_an_unknown_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_DTYPE", "float8")
    with pytest.raises(UsageError, match=r"CAP_VIZ_DTYPE\b.*'float8'.*float32"):
        requested_dtype()


def test_the_best_device_is_taken_and_the_reason_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAP_VIZ_DEVICE", raising=False)
    reasons = set()
    for here in (("cuda:0", "cpu"), ("cpu",)):
        monkeypatch.setattr("cap_viz.models.devices.available", lambda here=here: here)
        chosen = chosen_device()
        assert chosen.name == here[0]
        assert "GPU" in chosen.reason
        reasons.add(chosen.reason)
    assert len(reasons) == 2
    monkeypatch.setenv("CAP_VIZ_DEVICE", "cpu")
    assert "CAP_VIZ_DEVICE" in chosen_device().reason


def test_pages_tell_the_device_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAP_VIZ_DEVICE", raising=False)
    monkeypatch.setattr("cap_viz.models.devices.shutil.which", lambda name: f"/usr/bin/{name}")
    assert expected_device() == "cuda"
    monkeypatch.setattr("cap_viz.models.devices.shutil.which", lambda name: None)
    for system, machine, expected in (
        ("Darwin", "arm64", "mps"),
        ("Darwin", "x86_64", "cpu"),
        ("Linux", "arm64", "cpu"),
    ):
        monkeypatch.setattr("cap_viz.models.devices.platform.system", lambda system=system: system)
        monkeypatch.setattr("cap_viz.models.devices.platform.machine", lambda machine=machine: machine)
        if not Path("/proc/driver/nvidia").exists():
            assert expected_device() == expected
    monkeypatch.setenv("CAP_VIZ_DEVICE", "cuda:1")
    assert expected_device() == "cuda:1"


def test_a_gpu_that_is_not_here_is_a_sentence(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.models.devices.available", lambda: ("cpu",))
    monkeypatch.setenv("CAP_VIZ_DEVICE", "cuda")
    with pytest.raises(CapVizError, match=r"\bcuda\b.*\bcpu\b.*CAP_VIZ_DEVICE"):
        load(resolve(str(tiny_folder)))


@pytest.fixture(scope="module", params=HALVES)
def half(request: pytest.FixtureRequest, tiny_folder: Path) -> ReasoningModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAP_VIZ_DTYPE", request.param)
        return load(resolve(str(tiny_folder)))


def test_a_half_precision_is_what_was_asked_for_and_part_of_the_key(
    half: ReasoningModel, tiny_model: ReasoningModel
) -> None:
    assert str(half.dtype) == f"torch.{half.ref.dtype}"
    assert {parameter.dtype for parameter in half.bridge.parameters()} == {half.dtype}
    examples = evaluation_set("mini_science", 2)
    assert spec_key(EvalSpec(half.ref, examples)) != spec_key(EvalSpec(tiny_model.ref, examples))


def test_short_cuts_hold_in_half_precision(half: ReasoningModel) -> None:
    batches = make_score_plan(half, tiny_examples(3)).batches
    assert batches.packed
    assert batches.direct


def test_scores_in_half_precision_rank_heads_alike(half: ReasoningModel, tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(12)
    ours, exact = exact_scores(half, examples), exact_scores(tiny_model, examples)
    assert ours.ablated.dtype == np.float32
    # 8 and 11 bits of 24: a few hundredths and thousandths of a nat per token.
    bound = 0.3 if half.ref.dtype == "bfloat16" else 0.03
    np.testing.assert_allclose(ours.ablated, exact.ablated, atol=bound)
    assert np.abs(ours.ablated - exact.ablated)[~np.isnan(exact.ablated)].max() > 1e-5, (
        "it was computed in half precision"
    )
    rank = rank_correlation(ours.mean_effect().ravel(), exact.mean_effect().ravel())
    assert rank > 0.9
    gradient = gradient_effects(half, examples).mean_effect("nll")
    expected = gradient_effects(tiny_model, examples).mean_effect("nll")
    assert rank_correlation(gradient.ravel(), expected.ravel()) > 0.9


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt", "magnitude"])
def test_masks_in_half_precision_are_nearly_the_same(
    half: ReasoningModel, tiny_model: ReasoningModel, criterion: str
) -> None:
    examples = tiny_examples(6)
    ours, exact = (prune_mask(one, criterion, sparsity=0.5, calibration=examples) for one in (half, tiny_model))
    same = [float((ours.keep[name] == kept).float().mean()) for name, kept in exact.keep.items()]
    assert min(same) > 0.9
    assert len(evaluate(half, examples, mask=ours)) == 6


def test_the_shell_takes_both(shell: Shell, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAP_VIZ_DEVICE", "CAP_VIZ_DTYPE"):
        monkeypatch.setenv(name, "")  # Put back afterwards, whatever the command sets.
    options = ["--device", "cpu", "--dtype", "bfloat16"]
    out = tmp_path / "pruned"
    arguments = ["--model", str(tiny_folder), "--task", "mini_science", "--criterion", "magnitude", "--sparsity", "0.5"]
    code, _, err = shell(*options, "export", *arguments, "--to", str(out))
    assert code == 0, err
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    code, _, err = shell("--dtype", "float8", "tasks", "list")
    assert code == 2
    assert "'float8'" in err
    assert "bfloat16" in err
