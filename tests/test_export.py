"""Exported models load without CAP Viz and compute the same; nothing half-written, nothing overwritten."""

from __future__ import annotations

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import Mask
from cap_viz.pruning.export import export_mask, export_model, read_mask
from cap_viz.runs.execute import mask_steps, run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.model_card import model_card
from cap_viz.runs.spec import EvalSpec, MaskSpec, ScoreSpec, mask_dict, spec_key
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import evaluation_set
from cap_viz.validation import from_json
from tests.words import numbers


class Pruned(NamedTuple):
    model: ReasoningModel
    mask: Mask
    spec: MaskSpec
    store: Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def pruned_by(criterion: str, model: ReasoningModel, store: Store) -> Pruned:
    spec = mask_spec_for(model.ref, criterion, 0.5, task="tiny", n=4)
    return Pruned(model, finish(mask_steps(spec, model, store)), spec, store)


def exported(pruned: Pruned, target: Path) -> Path:
    return export_model(pruned.model, pruned.mask, target, card=model_card(*pruned))


@pytest.fixture
def pruned(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> Pruned:
    return pruned_by("magnitude", tiny_model, store)


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_the_folder_computes_what_the_masked_model_computes(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, tmp_path: Path, criterion: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    one = pruned_by(criterion, tiny_model, store)
    folder = exported(one, tmp_path / "out" / "model")
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor([tokenizer.encode(tiny_task.evaluation(1)[0].prompt)])
    with torch.no_grad(), tiny_model.masked(one.mask.keep, one.mask.updated):
        expected = tiny_model.bridge(tokens)
        assert torch.equal(plain(tokens).logits, expected)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]


def test_the_card_holds_the_recipe_and_what_was_measured(pruned: Pruned, tmp_path: Path) -> None:
    card = (exported(pruned, tmp_path / "before") / "README.md").read_text()
    assert "python -m cap_viz eval" in card
    assert "| tiny |" not in card
    recipe = json.loads(card.split("```json\n")[1].split("```")[0])
    assert from_json(MaskSpec, json.dumps(recipe)) == pruned.spec
    spec = EvalSpec(model=pruned.model.ref, examples=evaluation_set("tiny", 10), mask=pruned.spec)
    report = load_report(pruned.store, finish(run_steps(spec, pruned.model, pruned.store)))
    card = (exported(pruned, tmp_path / "after") / "README.md").read_text()
    assert "python -m cap_viz eval" not in card
    assert f"| tiny | 10 | accuracy {100 * report.acc:.1f} % [" in card
    (row,) = [line for line in card.splitlines() if line.startswith("| tiny |")]
    assert not numbers(row.split("|")[4]), "the dense model is not measured"


def test_a_mask_alone_comes_back_bit_by_bit(pruned: Pruned, tmp_path: Path) -> None:
    file = export_mask(pruned.mask, mask_dict(pruned.spec), pruned.model.ref, tmp_path / "mask.safetensors")
    keep, recipe = read_mask(file)
    assert recipe == mask_dict(pruned.spec)
    assert list(keep) == list(pruned.mask.keep)
    for name, kept in pruned.mask.keep.items():
        np.testing.assert_array_equal(keep[name], kept.numpy())
    assert file.stat().st_size < pruned.mask.counts.sizes.sum() / 8 + 8000
    (tmp_path / "other.safetensors").write_bytes(b"no")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "other.safetensors"))):
        read_mask(tmp_path / "other.safetensors")


def test_an_existing_folder_is_refused(pruned: Pruned, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "there"))):
        exported(pruned, tmp_path / "there")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "there"))):
        export_mask(pruned.mask, mask_dict(pruned.spec), pruned.model.ref, tmp_path / "there")
    assert not list((tmp_path / "there").iterdir())


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    pruned: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "model"

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(pruned.model.tokenizer), "save_pretrained", full)
        with pytest.raises(CapVizError, match=rf"{target}.*No space left on device"):
            exported(pruned, target)
    assert not list(target.parent.iterdir())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(CapVizError, match=r"\b0 MiB"):
        exported(pruned, target)


def test_a_read_only_place_is_a_sentence_and_leaves_nothing(
    pruned: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refused)
        with pytest.raises(CapVizError, match=r"out\b.*Read-only file system"):
            exported(pruned, tmp_path / "out" / "model")
        with pytest.raises(CapVizError, match="Read-only file system"):
            export_mask(pruned.mask, mask_dict(pruned.spec), pruned.model.ref, tmp_path / "out" / "mask.safetensors")
    assert not (tmp_path / "out").exists()


def test_new_fields_leave_the_keys_of_old_masks_alone(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    assert set(mask_dict(mask_spec_for(tiny_model.ref, "wanda", 0.5, task="tiny", n=4))) == {
        "criterion",
        "sparsity",
        "scope",
        "calibration",
    }
    examples = evaluation_set("tiny", 4)
    keys = {
        spec_key(EvalSpec(tiny_model.ref, examples, mask_spec_for(tiny_model.ref, name, 0.5, task="tiny", n=4, **more)))
        for name, more in OPTIONS
    }
    assert len(keys) == len(OPTIONS)


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("wanda", {}),
    ("wanda", {"allocation": "owl"}),
    ("wanda", {"pattern": "2:4"}),
    ("wanda", {"pattern": "4:8"}),
    ("wanda", {"calibration_task": "mini_text"}),
    ("random", {}),
    ("random", {"control_seed": 1}),
    ("magnitude", {}),
    ("magnitude", {"allocation": "owl"}),
]


def test_scores_of_another_model_are_refused(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    other = replace(tiny_model.ref, fingerprint="0" * 16)
    scores = ScoreSpec(model=other, examples=evaluation_set("tiny", 4))
    with pytest.raises(UsageError, match=rf"0000000000000000.*{tiny_model.ref.fingerprint}"):
        mask_spec_for(tiny_model.ref, "cap", 0.5, task="tiny", n=4, scores=scores)
