"""A run written by an earlier version of the program (on 22 November 2026, schema 1) stays readable.

The folder is a copy of what was shipped then. It must never be rewritten; a new schema gets a folder of its own.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.profile import load_zeros
from cap_viz.runs.store import Store, StoredRun

OLD_RUNS = Path(__file__).parent / "stored_runs"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    shutil.copytree(OLD_RUNS, tmp_path / "local" / "runs")
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def check(store: Store, run: StoredRun) -> None:
    """Its numbers against the table itself, without our reader."""
    store.verify(run)
    table = pd.read_parquet(run.folder / "options.parquet")
    best = table.loc[table.groupby("example")["loglik"].idxmax()]
    assert load_report(store, run).acc == pytest.approx(float((best["option"] == best["gold"]).mean()))
    zeros = load_zeros(store, run)
    assert zeros.zeros.sum() == pd.read_parquet(run.folder / "zeros.parquet")["zeros"].to_numpy().sum()


def test_an_old_run_is_read_today(store: Store) -> None:
    (run,) = store.runs()
    check(store, run)
    assert store.damaged() == []


def test_an_old_run_is_read_after_the_schema_has_changed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key names the old schema and cannot be made again; it is listed and read all the same."""
    monkeypatch.setattr("cap_viz.runs.spec.SCHEMA_VERSION", 2)
    monkeypatch.setattr("cap_viz.runs.run_folder.SCHEMA_VERSION", 2)
    monkeypatch.setattr("cap_viz.runs.run_folder.READABLE_SCHEMAS", (1, 2))
    (run,) = store.runs()
    check(store, run)
    assert store.get(run.spec) is None
    assert store.damaged() == []


def test_a_schema_that_is_no_longer_read_is_named_with_the_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.runs.run_folder.READABLE_SCHEMAS", (2, 3))
    assert store.runs() == []
    assert "has schema 1, this program reads 2, 3" in store.damaged()[0]
