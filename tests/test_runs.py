"""Runs and their store: found again, resumed to the same bits, damage noticed, two processes do not collide."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cap_viz.attribution.estimators import score_heads
from cap_viz.dashboard.components.panels import cut_words
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.choice import evaluate
from cap_viz.evaluation.comparison import compare
from cap_viz.files import write_json
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import prune_mask
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.profile import load_zeros
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_queries import eval_runs, model_ref, score_runs
from cap_viz.runs.spec import EvalSpec, ProfileSpec, RunSpec, ScoreSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.store import SPEC, DamagedRun, Store, StoredRun
from cap_viz.tasks import TASKS, Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set, named_set


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def score_spec(tiny_model: ReasoningModel, tiny_task: Task) -> ScoreSpec:
    return ScoreSpec(model=tiny_model.ref, examples=calibration_set("tiny", 6))


@pytest.fixture
def score_run(score_spec: ScoreSpec, tiny_model: ReasoningModel, store: Store) -> StoredRun:
    return finish(run_steps(score_spec, tiny_model, store))


def test_stored_scores_equal_computed_ones(
    score_run: StoredRun, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    stored, fresh = load_scores(store, score_run), score_heads(tiny_model, tiny_task.calibration(6))
    np.testing.assert_array_equal(stored.ablated, fresh.ablated)
    np.testing.assert_array_equal(stored.dense, fresh.dense)
    np.testing.assert_array_equal(stored.questions.chars, fresh.questions.chars)
    assert stored.questions.ids == fresh.questions.ids


def test_a_stored_run_is_found_not_computed(score_run: StoredRun, tiny_model: ReasoningModel, store: Store) -> None:
    steps = run_steps(score_run.spec, tiny_model, store)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == score_run


def test_parts_left_by_a_process_that_died_just_after_saving_are_removed(
    score_run: StoredRun, tiny_model: ReasoningModel, store: Store
) -> None:
    write_json(store.partial_run_dir(score_run.spec) / SPEC, spec_dict(score_run.spec))
    assert finish(run_steps(score_run.spec, tiny_model, store)) == score_run
    assert not store.partial_run_dir(score_run.spec).exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, ablation="mean"),
        lambda s: replace(s, estimator="other"),
        lambda s: replace(s, metric="nll"),
        lambda s: replace(s, model=replace(s.model, fingerprint="other")),
        lambda s: replace(s, examples=replace(s.examples, version=2)),
        lambda s: replace(s, examples=replace(s.examples, ids=s.examples.ids[::-1])),
    ],
)
def test_key_follows_everything_that_matters(score_spec: ScoreSpec, change: Callable[[ScoreSpec], ScoreSpec]) -> None:
    assert spec_key(change(score_spec)) != spec_key(score_spec)


@pytest.mark.parametrize("criterion", ["cap", "wanda", "global_magnitude"])
def test_specs_survive_json(tiny_model: ReasoningModel, tiny_task: Task, criterion: str) -> None:
    mask = mask_spec_for(tiny_model.ref, criterion, 0.3, task="tiny", n=4)
    specs: list[RunSpec] = [
        EvalSpec(model=tiny_model.ref, examples=evaluation_set("tiny", 5), mask=mask),
        EvalSpec(model=tiny_model.ref, examples=evaluation_set("tiny", 5)),
        ProfileSpec(model=tiny_model.ref, examples=evaluation_set("tiny", 5), mask=mask),
    ]
    for spec in specs:
        assert spec_from_dict(json.loads(json.dumps(spec_dict(spec)))) == spec


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_interrupted_scoring_resumes_to_the_same_bits(
    score_spec: ScoreSpec, tiny_model: ReasoningModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 40)
    whole_store = Store(shipped=tmp_path / "none", local=tmp_path / "whole")
    whole = load_scores(whole_store, finish(run_steps(score_spec, tiny_model, whole_store)))
    store = Store(shipped=tmp_path / "none", local=tmp_path / "resumed")
    steps = run_steps(score_spec, tiny_model, store)
    for _ in range(stop_after):
        next(steps)
    steps.close()
    # Other settings must not change the plan of a run that has begun.
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 10_000)
    run = finish(run_steps(score_spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == (stop_after - 1) // 3
    assert len(run.provenance["plan"]["batches"]) > 1
    np.testing.assert_array_equal(load_scores(store, run).ablated, whole.ablated)
    assert not list((tmp_path / "resumed" / "unfinished").glob("*/")), "nothing unfinished stays behind"


def test_interrupted_evaluation_resumes_to_the_same_bits(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.evaluation.choice.TOKENS_PER_FORWARD", 15)
    mask = mask_spec_for(tiny_model.ref, "wanda", 0.5, task="tiny", n=4)
    spec = EvalSpec(model=tiny_model.ref, examples=evaluation_set("tiny", 12), mask=mask)
    steps = run_steps(spec, tiny_model, store)
    while next(steps).note != "answering questions" or not list(store.partial_run_dir(spec).glob("batch-*")):
        pass
    steps.close()
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] >= 1
    keep = prune_mask(tiny_model, "wanda", sparsity=0.5, calibration=tiny_task.calibration(4))
    fresh = evaluate(tiny_model, tiny_task.evaluation(12), mask=keep)
    np.testing.assert_array_equal(load_report(store, run).logliks, fresh.logliks)


def test_pruned_evaluation_builds_its_mask_from_stored_scores(
    score_run: StoredRun, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    mask = mask_spec_for(tiny_model.ref, "cap", 0.4, task="tiny", n=6)
    assert mask.scores == score_run.spec
    spec = EvalSpec(model=tiny_model.ref, examples=evaluation_set("tiny", 8), mask=mask)
    run = finish(run_steps(spec, tiny_model, store))
    keep = prune_mask(tiny_model, "cap", sparsity=0.4, scores=load_scores(store, score_run))
    np.testing.assert_array_equal(
        load_report(store, run).logliks, evaluate(tiny_model, tiny_task.evaluation(8), mask=keep).logliks
    )
    counts = load_zeros(store, run)
    np.testing.assert_array_equal(counts.zeros, keep.counts.zeros)
    assert counts.matrices == keep.counts.matrices
    assert load_report(store, run).questions.ids == spec.examples.ids


def test_profile_agrees_with_masks(score_run: StoredRun, tiny_model: ReasoningModel, store: Store) -> None:
    mask = mask_spec_for(tiny_model.ref, "cap", 0.0, task="tiny", n=6)
    run = finish(run_steps(ProfileSpec(tiny_model.ref, score_run.spec.examples, mask), tiny_model, store))
    counts = load_zeros(store, run)
    row = int(np.flatnonzero(np.isclose(counts.sparsities, 0.4))[0])
    keep = prune_mask(tiny_model, "cap", sparsity=0.4, scores=load_scores(store, score_run))
    assert abs(counts.reached[row] - keep.reached) < 1e-3


def test_compare_is_paired_and_needs_the_same_items(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    report = evaluate(tiny_model, tiny_task.evaluation(8))
    same = compare(report, report)
    assert (same.difference, same.p_value, same.only_a, same.only_b) == (0.0, 1.0, 0, 0)
    with pytest.raises(UsageError, match="different items"):
        compare(report, evaluate(tiny_model, tiny_task.evaluation(9)))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: flip_bit(folder / "ablated.parquet"), "does not match its checksum"),
        (lambda folder: (folder / "ablated.parquet").write_bytes(b""), "does not match its checksum"),
    ],
)
def test_a_damaged_table_is_not_read_and_stays_until_the_run_is_computed_again(
    score_run: StoredRun, tiny_model: ReasoningModel, store: Store, damage: Callable[[Path], object], reason: str
) -> None:
    damage(score_run.folder)
    with pytest.raises(DamagedRun, match=f"{reason}.*Start the run again"):
        load_scores(store, store.runs()[0])
    assert score_run.folder.is_dir()
    assert not store.quarantine.exists()
    (sentence,) = store.damaged()
    assert reason in sentence
    assert "was set aside" not in sentence
    again = finish(run_steps(score_run.spec, tiny_model, store))
    assert again.digests == score_run.digests
    store.verify(again)
    (sentence,) = store.damaged()
    assert reason in sentence
    assert sentence.endswith("It was set aside.")
    assert (next(store.quarantine.iterdir()) / "options.parquet").is_file(), "set aside, not deleted"


def edit(field: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest[field] = value
        path.write_text(json.dumps(manifest))

    return change


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "manifest.json").write_text("{"), "no readable manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "no readable manifest"),
        (lambda folder: (folder / "ablated.parquet").unlink(), "lacks its file ablated.parquet"),
        (edit("schema", 99), "schema 99, this program reads 1"),
        (edit("spec", {"kind": "score"}), "no readable manifest"),
        (edit("files", 3), "the field files should be an object, not a whole number"),
        (edit("key", "0" * 16), "does not match its key"),
    ],
)
def test_a_run_with_a_damaged_manifest_is_passed_over_named_and_computed_again(
    score_run: StoredRun, tiny_model: ReasoningModel, store: Store, damage: Callable[[Path], object], reason: str
) -> None:
    damage(score_run.folder)
    for _ in range(2):
        assert store.runs() == []
        assert store.get(score_run.spec) is None
        assert reason in store.damaged()[0]
    assert score_run.folder.is_dir()
    assert not store.quarantine.exists(), "reading moves nothing"
    assert finish(run_steps(score_run.spec, tiny_model, store)).digests == score_run.digests
    (aside,) = store.quarantine.iterdir()
    assert reason in (aside / "reason.txt").read_text()


def test_damaged_shipped_runs_are_reported_and_stay(score_run: StoredRun, store: Store) -> None:
    shipped = Store(shipped=store.local, local=store.local.parent / "other")
    (score_run.folder / "manifest.json").write_text("{")
    assert shipped.runs() == []
    assert "no readable manifest" in shipped.damaged()[0]
    assert score_run.folder.is_dir()


def test_shipped_runs_are_precomputed_and_never_written(
    score_run: StoredRun, tiny_model: ReasoningModel, store: Store
) -> None:
    shipped = Store(shipped=store.local, local=store.local.parent / "other")
    run = shipped.get(score_run.spec)
    assert run is not None
    assert (run.origin, score_run.origin) == ("precomputed", "live")
    flip_bit(run.folder / "ablated.parquet")
    with pytest.raises(DamagedRun) as refusal:
        load_scores(shipped, run)
    assert run.folder.is_dir()
    assert "set aside" not in str(refusal.value)
    assert "git restore" in str(refusal.value)
    assert shipped.damaged() == [str(refusal.value)]
    with pytest.raises(DamagedRun, match="git restore"):
        finish(run_steps(score_run.spec, tiny_model, shipped))


def test_finding_runs(score_run: StoredRun, tiny_model: ReasoningModel, tiny_folder: Path, store: Store) -> None:
    small = ScoreSpec(model=tiny_model.ref, examples=calibration_set("tiny", 2))
    finish(run_steps(small, tiny_model, store))
    finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 3)), tiny_model, store))
    runs = store.runs()
    assert [len(run.spec.examples.ids) for run in score_runs(runs, tiny_model.ref, "tiny")] == [6, 2]
    assert len(eval_runs(runs, tiny_model.ref, "tiny")) == 1
    assert eval_runs(runs, tiny_model.ref, "tiny", n=4) == []
    assert model_ref(store, str(tiny_folder)) == tiny_model.ref


def test_a_run_about_other_weights_is_refused(score_spec: ScoreSpec, tiny_model: ReasoningModel, store: Store) -> None:
    other = replace(score_spec, model=replace(score_spec.model, fingerprint="0000"))
    with pytest.raises(CapVizError, match="fingerprint 0000, the loaded weights"):
        finish(run_steps(other, tiny_model, store))


def test_a_changed_task_is_refused(score_spec: ScoreSpec, tiny_model: ReasoningModel, store: Store) -> None:
    old = replace(score_spec, examples=replace(score_spec.examples, version=7))
    with pytest.raises(UsageError, match="needs version 7 of task tiny"):
        finish(run_steps(old, tiny_model, store))


def test_named_examples_from_any_split(tiny_task: Task) -> None:
    assert named_set("tiny", ("tiny-30", "tiny-2")).ids == ("tiny-30", "tiny-2")
    with pytest.raises(UsageError, match="no example 'tiny-99'"):
        named_set("tiny", ("tiny-99",))


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 20, float("nan")])
def test_sparsity_out_of_range(tiny_model: ReasoningModel, tiny_task: Task, sparsity: float) -> None:
    with pytest.raises(UsageError, match=r"sparsity is .*; give a share of at least 0 and below 1"):
        mask_spec_for(tiny_model.ref, "cap", sparsity, task="tiny", n=4)


def test_the_first_items_of_a_longer_evaluation_are_not_asked_again(
    tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(shipped=tmp_path / "none", local=tmp_path / "local")
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.5, task="tiny", n=2)
    many, few = (EvalSpec(tiny_model.ref, evaluation_set("tiny", n), mask=mask) for n in (20, 7))
    longer = finish(run_steps(many, tiny_model, store))
    with monkeypatch.context() as patch:
        patch.setattr("cap_viz.evaluation.choice.eval_steps", None)  # Nothing may be computed.
        run = finish(run_steps(few, tiny_model, store))
    assert run.provenance["taken_from"] == longer.key
    report, whole = load_report(store, run), load_report(store, longer)
    assert report.questions.ids == few.examples.ids
    np.testing.assert_array_equal(report.logliks, whole.logliks[:7])
    assert store.table(run, "zeros").equals(store.table(longer, "zeros"))
    alone = Store(shipped=tmp_path / "none", local=tmp_path / "alone")
    computed = load_report(alone, finish(run_steps(few, tiny_model, alone)))
    np.testing.assert_allclose(report.logliks, computed.logliks, atol=1e-4)


def test_other_items_or_another_mask_are_computed(tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path) -> None:
    store = Store(shipped=tmp_path / "none", local=tmp_path / "local")
    finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 20)), tiny_model, store))
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.5, task="tiny", n=2)
    ids = evaluation_set("tiny", 20).ids
    for spec in (
        EvalSpec(tiny_model.ref, evaluation_set("tiny", 7), mask=mask),
        EvalSpec(tiny_model.ref, replace(evaluation_set("tiny", 3), ids=ids[1:4])),
    ):
        assert "taken_from" not in finish(run_steps(spec, tiny_model, store)).provenance


def test_an_evaluation_prompt_that_is_too_long_loses_its_beginning_and_the_run_says_so(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = tiny_task.splits
    first, second = splits.evaluation[:2]
    longer = replace(first, prompt="sun moon " * 100 + first.prompt)
    changed = replace(tiny_task, load=lambda: replace(splits, evaluation=(longer, second)))
    monkeypatch.setitem(TASKS, tiny_task.name, changed)
    run = finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 2)), tiny_model, store))
    n_tokens = max(len(tiny_model.tokenizer.encode(longer.prompt + option)) for option in longer.options)
    assert run.provenance["truncated"] == {"examples": 1, "tokens": n_tokens - tiny_model.shape.n_ctx}
    kept = replace(longer, prompt=cut_from_left(tiny_model, longer.prompt, n_tokens - tiny_model.shape.n_ctx))
    expected = evaluate(tiny_model, [kept, second]).logliks
    np.testing.assert_allclose(load_report(store, run).logliks, expected, atol=1e-5)
    assert cut_words(run).startswith("1 prompt was too long for the model; the beginning was cut (")


def cut_from_left(model: ReasoningModel, prompt: str, n: int) -> str:
    return model.tokenizer.decode(model.tokenizer.encode(prompt)[n:])
