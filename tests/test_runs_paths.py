"""Paths between heads as stored runs, and in the shell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cap_viz.attribution.exact import exact_scores
from cap_viz.attribution.path_scores import strongest_heads
from cap_viz.attribution.paths import path_effects
from cap_viz.attribution.self_test import weights_digest
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.archive import export_run, import_run
from cap_viz.runs.execute import mask_steps, run_steps
from cap_viz.runs.kinds import describe, numbers_of
from cap_viz.runs.kinds.paths import load_paths
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import path_spec
from cap_viz.runs.spec import PathSpec, ScoreSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.shell import Shell

HEADS = ((0, 1), (1, 2), (2, 3))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def heads(tiny_model: ReasoningModel, tiny_task: Task) -> ScoreSpec:
    return ScoreSpec(model=tiny_model.ref, examples=calibration_set("tiny", 5, 3))


def test_a_stored_run_holds_what_is_measured(
    heads: ScoreSpec, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    spec = path_spec(
        replace(heads, ablation="mean"), HEADS[::-1], parts=("all", "k"), examples=evaluation_set("tiny", 4)
    )
    assert (spec.heads, spec.reference) == (HEADS, heads.examples)
    assert spec_from_dict(spec_dict(spec)) == spec
    run = finish(run_steps(spec, tiny_model, store))
    fresh = path_effects(
        tiny_model,
        tiny_task.evaluation(4),
        HEADS,
        parts=("all", "k"),
        ablation="mean",
        reference=tiny_task.calibration(5, 3),
        seed=3,
        progress=False,
    )
    stored = load_paths(store, run)
    assert stored.paths == fresh.paths
    np.testing.assert_array_equal(stored.ablated, fresh.ablated)
    pd.testing.assert_frame_equal(numbers_of(store, run), fresh.to_pandas())
    assert describe(spec) == "paths from L0 H1, L1 H2, L2 H3, all, k, mean ablation"
    assert ablation_words(spec).doing == "replacing"
    with pytest.raises(UsageError, match=rf"Run {run.key} is of kind paths; this needs one of kind score"):
        load_scores(store, run)


def test_every_field_is_part_of_the_key(heads: ScoreSpec) -> None:
    spec = path_spec(heads, HEADS)
    assert set(spec_dict(spec)) == {"kind", "model", "examples", "heads", "parts", "ablation"}
    mask = mask_spec_for(heads.model, "magnitude", 0.5, task="tiny", n=4)
    changes: list[dict[str, Any]] = [{"receivers": HEADS[2:]}, {"parts": ("q",)}, {"ablation": "mean"}, {"mask": mask}]
    changes += [{"heads": HEADS[:2]}, {"reference": heads.examples}]
    assert len({spec_key(spec), *(spec_key(replace(spec, **change)) for change in changes)}) == 1 + len(changes)


def test_an_interrupted_run_resumes_to_the_same_bits(
    heads: ScoreSpec, tiny_model: ReasoningModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.attribution.paths.TOKENS_PER_FORWARD", 1)
    spec = path_spec(replace(heads, ablation="resample"), HEADS)
    other = Store(shipped=tmp_path / "none", local=tmp_path / "whole")
    whole = load_paths(other, finish(run_steps(spec, tiny_model, other)))
    steps = run_steps(spec, tiny_model, store)
    while len(list(store.partial_run_dir(spec).glob("batch-*"))) < 2:
        next(steps)
    steps.close()
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == 2
    np.testing.assert_array_equal(load_paths(store, run).ablated, whole.ablated)


def test_memory_that_runs_out_halves_the_batches(
    heads: ScoreSpec, tiny_model: ReasoningModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cap_viz.attribution import paths

    spec, real = path_spec(heads, HEADS), paths.dense_pass
    other = Store(shipped=tmp_path / "none", local=tmp_path / "whole")
    whole = finish(run_steps(spec, tiny_model, other))
    assert len(whole.provenance["plan"]["batches"]) == 1

    def room_for_two(model: ReasoningModel, batch: Any, **options: Any) -> Any:
        if len(batch.tokens) > 2:
            raise MemoryError
        return real(model, batch, **options)

    monkeypatch.setattr(paths, "dense_pass", room_for_two)
    run = finish(run_steps(spec, tiny_model, store))
    assert max(map(len, run.provenance["plan"]["batches"])) <= 2
    np.testing.assert_allclose(load_paths(store, run).ablated, load_paths(other, whole).ablated, atol=5e-5)


def test_a_pruned_model_is_dissected_as_a_run(
    heads: ScoreSpec, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    mask_spec, before = mask_spec_for(tiny_model.ref, "cap", 0.5, task="tiny", n=4), weights_digest(tiny_model)
    spec = path_spec(heads, HEADS, mask=mask_spec)
    run = finish(run_steps(spec, tiny_model, store))
    assert weights_digest(tiny_model) == before
    mask = finish(mask_steps(mask_spec, tiny_model, store))
    fresh = path_effects(tiny_model, tiny_task.calibration(5, 3), HEADS, mask=mask, progress=False)
    np.testing.assert_array_equal(load_paths(store, run).ablated, fresh.ablated)
    assert describe(spec).endswith("zero ablation, cap at 50%")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parts": ("o",)}, r"Unknown part of the receiver 'o'"),
        ({"heads": ((9, 0),)}, r"\bhead 0\b.*\blayer 9\b"),
        ({"heads": ()}, r"at least one head"),
        ({"receivers": ((0, 0),)}, r"No path leads to head 0 of layer 0"),
        ({"ablation": "noise"}, r"ablation 'noise'.*zero, mean, resample"),
    ],
)
def test_specs_that_contradict_themselves(
    heads: ScoreSpec, tiny_model: ReasoningModel, store: Store, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        finish(run_steps(replace(path_spec(heads, HEADS), **change), tiny_model, store))
    with pytest.raises(UsageError, match=r"\b[Zz]ero\b.*\breference\b"):
        finish(run_steps(replace(path_spec(heads, HEADS), reference=heads.examples), tiny_model, store))


def test_a_mask_built_on_scores_of_another_model(heads: ScoreSpec, tiny_model: ReasoningModel, store: Store) -> None:
    other = ModelRef("other", "0123456789abcdef")
    mask = mask_spec_for(other, "cap", 0.5, task="tiny", n=4)
    with pytest.raises(UsageError, match=r"head scores of other .*; use a mask of this model\.$"):
        finish(run_steps(path_spec(heads, HEADS, mask=mask), tiny_model, store))


def test_the_shell_measures_paths(shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tiny_task: Task) -> None:
    answer = shell.json("paths", *tiny, "--n", "5", "--top", "3", "--calibration", "6", "--metric", "choice_nll")
    chosen = strongest_heads(exact_scores(tiny_model, tiny_task.calibration(6)).estimated("choice_nll"), 3)
    fresh = path_effects(tiny_model, tiny_task.evaluation(5), chosen, progress=False)
    assert answer["heads"] == [list(head) for head in chosen]
    table = fresh.to_pandas("choice_nll")
    assert [path["receiver"] for path in answer["paths"]] == table["receiver"].tolist()
    assert [path["mean_effect"] for path in answer["paths"]] == table["mean_effect"].tolist()
    assert [row["remainder"] for row in answer["balance"]] == fresh.balance("choice_nll")["remainder"].tolist()
    code, out, err = shell("paths", *tiny, "--n", "5", "--heads", "L0H1,L2H3", "--parts", "q")
    assert code == 0, err
    assert "L0H1" in out
    assert "remainder" not in out


def test_the_shell_measures_paths_of_a_pruned_model(shell: Shell, tiny: list[str]) -> None:
    options = ("--n", "3", "--heads", "L0H1,L2H3")
    dense, pruned = (
        shell.json("paths", *tiny, *options, *more) for more in ((), ("--criterion", "magnitude", "--sparsity", "0.5"))
    )
    assert (dense["criterion"], pruned["criterion"]) == ("dense", "magnitude")
    assert dense["paths"] != pruned["paths"]
    code, _, _ = shell("paths", *tiny, "--n", "1", "--heads", "L0H1")
    assert code == 0, "one example has no intervals"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--top", "13"), ["--top 13", "from 1 to 12 heads"]),
        (("--heads", "3.1"), ["'3.1' is no head", "as in L0H1,L2H3"]),
        (("--parts", "x"), ["part of the receiver 'x'", "all, q, k, v"]),
        (("--heads", "L1H0", "--receivers", "L0H0"), ["No path leads to head 0 of layer 0"]),
        (("--top", "0"), ["--top 0", "from 1 to 12 heads"]),
    ],
)
def test_the_shell_refuses_with_a_sentence(
    shell: Shell, tiny: list[str], options: tuple[str, ...], words: list[str]
) -> None:
    code, _, err = shell("paths", *tiny, "--n", "2", "--calibration", "2", *options)
    assert code == 2
    assert [word for word in words if word not in err] == [], err


def test_a_run_is_exported_and_imported(
    heads: ScoreSpec, tiny_model: ReasoningModel, store: Store, tmp_path: Path
) -> None:
    run = finish(run_steps(path_spec(heads, HEADS), tiny_model, store))
    assert isinstance(run.spec, PathSpec)
    other = Store(shipped=tmp_path / "none", local=tmp_path / "other")
    again = import_run(other, export_run(run, tmp_path))
    pd.testing.assert_frame_equal(numbers_of(other, again), numbers_of(store, run))
