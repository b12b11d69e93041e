"""Runs by other ablations and of whole blocks: stored, found again, apart from plain head scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cap_viz.attribution.exact import direct_effects, exact_scores, score_blocks
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds import describe, numbers_of
from cap_viz.runs.kinds.scores import load_blocks, load_direct, load_scores
from cap_viz.runs.run_queries import block_run, block_spec, direct_spec, score_runs
from cap_viz.runs.spec import ScoreSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set
from tests.shell import Shell


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def heads(tiny_model: ReasoningModel, tiny_task: Task) -> ScoreSpec:
    return ScoreSpec(model=tiny_model.ref, examples=calibration_set("tiny", 5, 3))


def test_new_fields_leave_old_keys_alone(heads: ScoreSpec) -> None:
    assert set(spec_dict(heads)) == {"kind", "model", "examples", "estimator", "ablation"}
    others = (block_spec(heads), direct_spec(heads), direct_spec(heads, frozen_norm=True))
    keys = {spec_key(spec) for spec in (heads, *others, replace(heads, reference=heads.examples))}
    assert len(keys) == 5


def test_a_block_run_is_found_beside_the_heads(
    heads: ScoreSpec, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    spec = block_spec(replace(heads, ablation="mean"))
    run = finish(run_steps(spec, tiny_model, store))
    fresh = score_blocks(tiny_model, tiny_task.calibration(5, 3), ablation="mean")
    stored = load_blocks(store, run)
    np.testing.assert_array_equal(stored.ablated, fresh.ablated)
    np.testing.assert_array_equal(stored.effects("choice_nll"), fresh.effects("choice_nll"))
    assert block_run(store, replace(heads, ablation="mean")) == run
    assert block_run(store, heads) is None, "zero ablation is another run"
    assert score_runs(store.runs(), tiny_model.ref, "tiny") == [], "pages that draw heads must not get blocks"
    with pytest.raises(UsageError, match=rf"{run.key}\b.*\bheads\b.*\bblocks\b"):
        load_scores(store, run)
    head_run = finish(run_steps(heads, tiny_model, store))
    with pytest.raises(UsageError, match=rf"{head_run.key}\b.*\bMLPs\b.*\bheads\b"):
        load_blocks(store, head_run)
    assert store.damaged() == []


def test_a_direct_run_is_found_beside_the_heads_and_is_none_of_them(
    heads: ScoreSpec, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    spec = direct_spec(heads)
    run = finish(run_steps(spec, tiny_model, store))
    fresh = direct_effects(tiny_model, tiny_task.calibration(5, 3), progress=False)
    np.testing.assert_array_equal(load_direct(store, run).ablated, fresh.ablated)
    pd.testing.assert_frame_equal(numbers_of(store, run), fresh.to_pandas())
    assert score_runs(store.runs(), tiny_model.ref, "tiny") == [], "pages and masks of total effects must not get it"
    with pytest.raises(UsageError, match=rf"{run.key}\b.*\bheads\b.*\bwrites\b"):
        load_scores(store, run)
    head_run = finish(run_steps(heads, tiny_model, store))
    with pytest.raises(UsageError, match=rf"{head_run.key}\b.*\bdirect effects\b"):
        load_direct(store, head_run)


def test_a_direct_run_with_a_frozen_norm_is_another_run(
    heads: ScoreSpec, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    spec = direct_spec(heads, frozen_norm=True)
    assert spec_from_dict(spec_dict(spec)) == spec
    run = finish(run_steps(spec, tiny_model, store))
    fresh = direct_effects(tiny_model, tiny_task.calibration(5, 3), frozen_norm=True, progress=False)
    np.testing.assert_array_equal(load_direct(store, run).ablated, fresh.ablated)
    assert store.get(direct_spec(heads)) is None
    assert describe(spec) == "direct effects, frozen norm, exact, zero ablation"


def test_the_shell_splits_effects(shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tiny_task: Task) -> None:
    answer, examples = shell.json("direct", *tiny, "--n", "5", "--metric", "choice_nll"), tiny_task.calibration(5)
    total, own = exact_scores(tiny_model, examples), direct_effects(tiny_model, examples, progress=False)
    assert answer["total"] == total.mean_effect("choice_nll").tolist()
    assert answer["direct"] == own.mean_effect("choice_nll").tolist()
    np.testing.assert_allclose(np.add(answer["direct"], answer["indirect"]), answer["total"], atol=1e-6)
    frozen = direct_effects(tiny_model, examples, frozen_norm=True, progress=False)
    answer = shell.json("direct", *tiny, "--n", "5", "--frozen-norm")
    assert answer["direct"] == frozen.mean_effect("nll").tolist()
    code, out, _ = shell("direct", *tiny, "--n", "5", "--top", "1")
    layer, head = divmod(int(np.abs(own.mean_effect()).argmax()), tiny_model.shape.n_heads)
    assert code == 0
    assert f"L{layer} H{head}" in out
    assert f"{own.mean_effect()[layer, head]:+.4f}" in out
    code, _, err = shell("direct", *tiny, "--top", "0")
    assert (code, "--top 0" in err) == (2, True)


def test_interrupted_block_runs_resume_to_the_same_bits(
    heads: ScoreSpec, tiny_model: ReasoningModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 1)
    spec = block_spec(replace(heads, ablation="resample"))
    other = Store(shipped=tmp_path / "none", local=tmp_path / "whole")
    whole = load_blocks(other, finish(run_steps(spec, tiny_model, other)))
    steps = run_steps(spec, tiny_model, store)
    for _ in range(8):
        next(steps)
    steps.close()
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == 2
    np.testing.assert_array_equal(load_blocks(store, run).ablated, whole.ablated)


def test_a_reference_set_is_part_of_the_run(
    heads: ScoreSpec, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    spec = replace(heads, ablation="resample", reference=calibration_set("tiny", 7, 1))
    assert spec_from_dict(spec_dict(spec)) == spec
    stored = load_scores(store, finish(run_steps(spec, tiny_model, store)))
    examples, reference = tiny_task.calibration(5, 3), tiny_task.calibration(7, 1)
    fresh = exact_scores(tiny_model, examples, ablation="resample", reference=reference, seed=1)
    np.testing.assert_array_equal(stored.ablated, fresh.ablated)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parts": "heads"}, r"'heads'.*\bexact\b.*\"blocks\""),
        ({"parts": "blocks", "estimator": "gradient", "metric": "nll"}, r"'blocks'.*\bgradient\b"),
        ({"parts": "blocks", "frozen_norm": True}, r"\bfrozen\b.*'blocks'"),
        ({"ablation": "noise"}, r"ablation 'noise'.*zero, mean, resample"),
    ],
)
def test_specs_that_contradict_themselves(
    heads: ScoreSpec, tiny_model: ReasoningModel, store: Store, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        finish(run_steps(replace(heads, **change), tiny_model, store))
    with pytest.raises(UsageError, match=r"\b[Zz]ero\b.*\breference\b"):
        finish(run_steps(replace(heads, reference=heads.examples), tiny_model, store))


def test_the_shell_scores_blocks(shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tiny_task: Task) -> None:
    answer = shell.json("score", *tiny, "--n", "5", "--parts", "blocks", "--metric", "choice_nll")
    blocks = score_blocks(tiny_model, tiny_task.calibration(5))
    assert answer["mean_effect"] == blocks.mean_effect("choice_nll").tolist()
    assert answer["parts"] == ["attention", "mlp"]
    code, out, _ = shell("score", *tiny, "--n", "5", "--parts", "blocks")
    assert code == 0
    assert "layer" in out
    assert "MLP" in out
    assert f"{blocks.mean_effect('nll')[2, 1]:+.4f}" in out


def test_the_shell_resamples(shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tiny_task: Task) -> None:
    answer = shell.json("score", *tiny, "--n", "4", "--ablation", "resample", "--reference-n", "6")
    examples, reference = tiny_task.calibration(4), tiny_task.calibration(6)
    fresh = exact_scores(tiny_model, examples, ablation="resample", reference=reference)
    assert answer["mean_effect"] == fresh.mean_effect("nll").tolist()
    own = shell.json("score", *tiny, "--n", "4", "--seed", "2", "--ablation", "resample")
    named = ["--reference-n", "4", "--reference-seed", "2"]
    same = shell.json("score", *tiny, "--n", "4", "--seed", "2", "--ablation", "resample", *named)
    assert own["key"] == same["key"] != answer["key"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--parts", "layers"], "'layers'; choose one of heads, blocks"),
        (["--parts", "blocks", "--estimator", "gradient"], "exact estimator"),
        (["--reference-n", "4"], "--reference-n"),
        (["--ablation", "resample", "--n", "1"], "use at least two examples"),
    ],
)
def test_the_shell_refuses(shell: Shell, tiny: list[str], options: list[str], sentence: str) -> None:
    code, _, err = shell("score", *tiny, *options)
    assert code == 2
    assert sentence in " ".join(err.split())
