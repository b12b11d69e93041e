"""The Runs page in a real browser: a run by link, its files, import, two runs laid over each other."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import expect

from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import shipped_folder
from tests.e2e.conftest import PATIENCE_MS, OpenTab

pytestmark = pytest.mark.e2e


def shipped(kind: type, task: str, n: int | None = None) -> StoredRun:
    """The dense evaluation (on n questions, where several are shipped) or the head scores of a task."""
    return next(
        run
        for run in Store(shipped=shipped_folder(), local=Path("nowhere")).runs()
        if isinstance(run.spec, kind)
        and run.spec.examples.task == task
        and n in (None, len(run.spec.examples.ids))
        and getattr(run.spec, "mask", None) is None
        and getattr(run.spec, "parts", None) is None
    )


def test_a_link_shows_a_run_and_its_files_hold_its_numbers(server: str, open_tab: OpenTab, tmp_path: Path) -> None:
    run = shipped(EvalSpec, "arc_easy", 600)
    tab = open_tab(f"{server}/runs?runs={run.key}")
    tab.settle()
    expect(tab.page.get_by_text("49.8 %").first).to_be_visible(timeout=PATIENCE_MS)
    saved: dict[str, Path] = {}
    for label in ("Run as zip", "CSV", "Parquet", "HTML", "Notebook"):
        with tab.page.expect_download(timeout=PATIENCE_MS) as download:
            tab.page.get_by_role("button", name=label, exact=True).click()
        saved[label] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[label])
    with zipfile.ZipFile(saved["Run as zip"]) as archive:
        assert f"{run.title}/manifest.json" in archive.namelist()
    table = pd.read_csv(saved["CSV"])
    assert len(table) == 600
    assert round(100 * float(table["right"].to_numpy().mean()), 1) == 49.8
    assert len(pd.read_parquet(saved["Parquet"])) == 600
    assert json.loads(saved["Notebook"].read_text())["nbformat"] == 4
    assert tab.errors == []


def test_an_exported_run_can_be_brought_in_checked_and_deleted(
    start_server: str, open_tab: OpenTab, tmp_path: Path
) -> None:
    run = shipped(EvalSpec, "mini_math")
    tab = open_tab(f"{start_server}/runs?runs={run.key}")
    tab.settle()
    with tab.page.expect_download(timeout=PATIENCE_MS) as download:
        tab.page.get_by_role("button", name="Run as zip", exact=True).click()
    file = tmp_path / "run.zip"
    download.value.save_as(file)
    tab.page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(file)
    expect(tab.page.get_by_text(f"Imported {run.title}")).to_be_visible(timeout=PATIENCE_MS)
    tab.page.get_by_role("button", name="Verify checksums").click()
    expect(tab.page.get_by_text("tables match their checksums")).to_be_visible(timeout=PATIENCE_MS)
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"not a zip")
    tab.page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(bad)
    expect(tab.page.get_by_text("bad.zip is not a readable zip archive")).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []


def test_two_runs_are_laid_over_each_other(server: str, open_tab: OpenTab) -> None:
    first, second = shipped(ScoreSpec, "arc_easy"), shipped(ScoreSpec, "arc_challenge")
    tab = open_tab(f"{server}/runs?runs={first.key}&runs={second.key}")
    tab.settle()
    expect(tab.page.get_by_text(re.compile("Rank correlation")).first).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page.locator(".js-plotly-plot")).to_have_count(2, timeout=PATIENCE_MS)
    assert tab.errors == []
