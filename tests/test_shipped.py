"""The runs in cache/shipped: readable, matching this code, small, and free of texts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cap_viz.evaluation.perplexity import USUAL_WINDOWS
from cap_viz.models.catalogue import TOY_MODEL
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.joint import load_pairs
from cap_viz.runs.kinds.paths import load_paths
from cap_viz.runs.kinds.patterns import load_patterns
from cap_viz.runs.kinds.positions import load_positions
from cap_viz.runs.kinds.profile import load_zeros
from cap_viz.runs.kinds.removal import load_removal
from cap_viz.runs.kinds.scores import load_blocks, load_direct, load_scores
from cap_viz.runs.pack import IDS, INDEX, PLANS
from cap_viz.runs.spec import (
    EvalSpec,
    PairSpec,
    PathSpec,
    PositionSpec,
    ProfileSpec,
    RemovalSpec,
    RoleSpec,
    ScoreSpec,
    spec_key,
)
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import shipped_folder
from cap_viz.tasks import TASKS, load_task
from studies.cap_fine_confirmation import ROWS, SHOWN
from studies.shipped import N_CIRCUIT, SHIPMENTS
from studies.study import FEWER, N_PASSAGES, setting_of
from studies.study import N_CALIBRATION as STUDY_CALIBRATION

STORE = Store()
SHIPPED = {shipment.task: shipment for shipment in SHIPMENTS}


@cache
def shipped_runs(task: str | None = None) -> tuple[StoredRun, ...]:
    """All shipped runs, or those of a task, by key."""
    if task is not None:
        return tuple(run for run in shipped_runs() if run.spec.examples.task == task)
    return tuple(sorted((run for run in STORE.runs() if run.origin == "precomputed"), key=lambda run: run.key))


def test_nothing_shipped_is_damaged() -> None:
    assert shipped_runs()
    assert STORE.damaged() == []


def test_every_task_has_its_head_scores() -> None:
    assert {run.spec.examples.task for run in shipped_runs() if run.kind == "score"} == set(SHIPPED) == set(TASKS)
    for name, shipment in SHIPPED.items():
        assert shipment.n_scores >= (16 if TASKS[name].kind == "text" else 48)


@pytest.mark.parametrize("task", SHIPPED)
def test_runs_match_the_code(task: str) -> None:
    """The specs of all runs; tables of all but evaluations, of which every fifth is read."""
    for run in shipped_runs(task):
        assert run.key == spec_key(run.spec), "rebuild the shipped runs: make runs"
        assert run.spec.examples.version == load_task(task).version
        if run.kind != "eval":
            check_tables(run)
    for run in [run for run in shipped_runs(task) if run.kind == "eval"][::5]:
        check_tables(run)


@pytest.mark.long
@pytest.mark.parametrize("task", SHIPPED)
def test_tables_of_all_runs_match_the_code(task: str) -> None:
    for run in shipped_runs(task):
        check_tables(run)


def check_tables(run: StoredRun) -> None:
    if isinstance(run.spec, ScoreSpec):
        scores = {None: load_scores, "blocks": load_blocks, "writes": load_direct}[run.spec.parts](STORE, run)
        assert scores.questions.ids == run.spec.examples.ids
        assert scores.effects("nll").shape[2] in calibration_sizes(run)
    elif isinstance(run.spec, EvalSpec):
        report = load_report(STORE, run)
        assert report.questions.ids == run.spec.examples.ids
        assert len(report) in evaluation_sizes(run)
        # The criterion of whole heads counts heads, not weights.
        if run.spec.mask is not None and run.spec.mask.criterion != "head":
            # Row-wise criteria round to whole weights of a row; the toy model's rows are short.
            step = 1 / 128 if run.spec.model.id == TOY_MODEL else 2e-3
            assert abs(float(load_zeros(STORE, run).reached[0]) - run.spec.mask.sparsity) < step
    elif isinstance(run.spec, RoleSpec):
        roles = load_patterns(STORE, run)
        assert roles.n == SHIPPED[run.spec.examples.task].n_scores
        assert all(np.isfinite(values).all() for values in roles.values.values())
    elif isinstance(run.spec, PairSpec):
        pairs = load_pairs(STORE, run)
        n_heads = len(run.spec.heads)
        assert n_heads == SHIPPED[run.spec.examples.task].n_circuit
        assert len(pairs.pairs) == n_heads * (n_heads - 1) // 2
        assert np.isfinite(pairs.effects("nll")).all()
    elif isinstance(run.spec, PathSpec):
        paths = load_paths(STORE, run)
        assert set(paths.senders) == set(run.spec.heads)
        assert np.isfinite(paths.effects("nll")).all()
    elif isinstance(run.spec, PositionSpec):
        effects = load_positions(STORE, run).effects("nll")
        np.testing.assert_allclose(np.nansum(effects[:, :-1], axis=1), effects[:, -1], atol=1e-4)
    elif isinstance(run.spec, RemovalSpec):
        assert np.isfinite(load_removal(STORE, run).joint.effects("nll")).all()
    else:
        assert isinstance(run.spec, ProfileSpec)
        assert (load_zeros(STORE, run).reached >= 0).all()


def calibration_sizes(run: StoredRun) -> set[int]:
    """On how many examples head scores may be: those of the pages, of circuits, or of the study."""
    task = run.spec.examples.task
    if run.spec.examples.split == "evaluation":
        return {N_CIRCUIT}
    return {SHIPPED[task].n_scores, N_PASSAGES if task == setting_of(run.spec.model).text else STUDY_CALIBRATION}


def evaluation_sizes(run: StoredRun) -> set[int]:
    """How many items of its task an evaluation may be of: what is shipped for the pages, or what the study asks."""
    task, asked = run.spec.examples.task, setting_of(run.spec.model)
    if task == asked.text:
        return {USUAL_WINDOWS}
    n = {**asked.main, **asked.weak, **asked.solutions}.get(task)
    if n is None and load_task(task).is_local():
        n = len(load_task(task).splits.evaluation)
    confirmed = (ROWS[task].stop, *SHOWN[task]) if task in ROWS else ()
    return {size for size in (SHIPPED[task].n_evaluation, n, FEWER if task in asked.main else None, *confirmed) if size}


def test_calibration_and_evaluation_are_apart() -> None:
    for task in {run.spec.examples.task for run in shipped_runs()}:
        used = {
            split: {i for run in shipped_runs(task) if run.spec.examples.split == split for i in run.spec.examples.ids}
            for split in ("calibration", "evaluation")
        }
        assert not used["calibration"] & used["evaluation"]


def test_masks_are_built_on_calibration_examples() -> None:
    masks = {mask for run in shipped_runs() if (mask := getattr(run.spec, "mask", None)) is not None}
    assert len(masks) > 100
    sources = [
        source for mask in masks for source in (mask.scores and mask.scores.examples, mask.calibration, mask.text)
    ]
    assert {source.split for source in sources if source is not None} == {"calibration"}


def test_shipped_runs_are_small_and_hold_no_texts() -> None:
    files = [path for path in shipped_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 15e6
    assert max(path.stat().st_size for path in files) <= 8e6
    assert len(files) <= 40
    for path in files:
        assert path.suffix == ".parquet"
        if path.name not in (INDEX, IDS, PLANS):
            columns = pyarrow.parquet.read_schema(path)
            texts = {one.name for one in columns if not pyarrow.types.is_primitive(one.type)}
            # Of paths and spans the names of their ends and parts.
            assert texts <= {"id", "kind", "part", "key", "receiver", "name", "metric"}
