"""Models: where files are found, what is refused and how, and that masks leave no trace."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cap_viz.attribution.self_test import weights_digest
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models import catalogue, weight_files
from cap_viz.models.catalogue import CATALOGUE, DEFAULT_MODEL, resolve
from cap_viz.models.loading import ReasoningModel, load, load_model
from cap_viz.models.weight_files import weight_bytes


def test_tiny_model_is_described(tiny_model: ReasoningModel) -> None:
    shape = tiny_model.shape
    assert (shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.d_head, shape.d_mlp) == (3, 4, 2, 8, 48)
    names = [matrix.name for matrix in tiny_model.matrices()]
    assert names[:7] == ["0.q", "0.k", "0.v", "0.o", "0.gate", "0.up", "0.down"]
    assert len(names) == 21
    assert tiny_model.matrices()[1].weight.shape == (16, 32)


def test_matrices_are_the_weights_the_model_computes_with(tiny_model: ReasoningModel) -> None:
    tokens = torch.tensor([[5, 6, 7]])
    with torch.inference_mode(), tiny_model.lease:
        dense = tiny_model.bridge(tokens)
        for matrix in tiny_model.matrices()[-7:]:
            with tiny_model.swapped({matrix.name: torch.zeros_like(matrix.weight)}):
                changed = tiny_model.bridge(tokens)
            # Without q the last layer attends evenly; every other matrix matters as well.
            assert float((changed - dense).abs().max()) > 1e-4, matrix.name
        torch.testing.assert_close(tiny_model.bridge(tokens), dense, atol=0, rtol=0)


def test_masks_leave_no_trace(tiny_model: ReasoningModel) -> None:
    before = weights_digest(tiny_model)
    keep = {m.name: torch.rand(m.weight.shape) > 0.5 for m in tiny_model.matrices()}
    with tiny_model.masked(keep):
        assert weights_digest(tiny_model) != before
        for matrix in tiny_model.matrices():
            assert bool((matrix.weight[~keep[matrix.name]] == 0).all())
    assert weights_digest(tiny_model) == before
    with pytest.raises(RuntimeError, match="inside"), tiny_model.masked(keep):
        raise RuntimeError("inside")
    assert weights_digest(tiny_model) == before


def test_mask_for_another_model_is_refused(tiny_model: ReasoningModel) -> None:
    with pytest.raises(UsageError, match=r"9\.q"), tiny_model.masked({"9.q": torch.ones(1, 1).bool()}):
        pass


def test_fingerprint_follows_the_weights(tiny_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_folder, copy)
    assert resolve(str(copy)).fingerprint == resolve(str(tiny_folder)).fingerprint
    weight_files = load_file(copy / "model.safetensors")
    weight_files["model.norm.weight"][0] += 1e-3
    save_file(weight_files, copy / "model.safetensors", metadata={"format": "pt"})
    assert resolve(str(copy)).fingerprint != resolve(str(tiny_folder)).fingerprint


def test_nan_weights_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    weight_files = load_file(broken / "model.safetensors")
    weight_files["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weight_files, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CapVizError, match=r"Weight model.layers.1.mlp.up_proj.weight .* NaN"):
        load_model(str(broken))


def test_truncated_weights_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_folder, broken)
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CapVizError, match=re.escape(str(path))):
        load_model(str(broken))


@pytest.mark.parametrize("name", ["gpt5", "no/such/thing", "./nowhere", ""])
def test_unknown_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(name) + r".*(config\.json|" + re.escape(DEFAULT_MODEL) + ")"):
        resolve(name)


def test_folder_without_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UsageError, match=rf"{tmp_path}\b.*\.safetensors\b.*pickle"):
        resolve(str(tmp_path))


def test_unknown_architecture(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(tiny_folder, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "perceiver_of_doom"}))
    with pytest.raises(CapVizError, match=rf"{folder}\b.*perceiver_of_doom"):
        load_model(str(folder))


def test_hub_id_without_network() -> None:
    with pytest.raises(CapVizError, match=rf"some-org/some-model\b.*hub\b.*{DEFAULT_MODEL}"):
        resolve("some-org/some-model")


def test_packaged_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "packaged_file", lambda entry: None)
    with pytest.raises(CapVizError, match=re.escape(CATALOGUE[DEFAULT_MODEL].install)):
        resolve(DEFAULT_MODEL)
    assert not catalogue.is_available(CATALOGUE[DEFAULT_MODEL])


def test_a_model_that_does_not_fit_is_refused(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "WORKING_MEMORY_BYTES", 1 << 60)
    with pytest.raises(CapVizError, match=r"\d GiB .*float32\b.*\d GiB .*\bcpu\b"):
        load(resolve(str(tiny_folder)))


def test_memory_estimate_counts_every_weight(tiny_folder: Path, tiny_model: ReasoningModel) -> None:
    assert weight_bytes(tiny_folder, "float32") == 4 * tiny_model.shape.n_params
    assert weight_bytes(tiny_folder, "bfloat16") == 2 * tiny_model.shape.n_params
