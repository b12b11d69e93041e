"""The Runs page in a real browser: a run by link, its files, import, two runs laid over each other."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import expect

from cap_viz.runs.prefix_reuse import first_of
from cap_viz.runs.run_queries import is_run_of
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
    expect(tab.page.locator(".js-plotly-plot")).to_have_count(1, timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("grid", name=re.compile("Difference"))).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []


def test_the_filters_stand_in_one_row_and_no_origin_is_cut(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/runs")
    tab.settle()
    boxes = [tab.page.get_by_label(name, exact=True).bounding_box() for name in ("Find", "Kind", "About", "Origin")]
    share = tab.page.get_by_role("button", name="Share").bounding_box()
    middles = [box["y"] + box["height"] / 2 for box in (*boxes, share) if box is not None]
    assert len(middles) == 5
    assert max(middles) - min(middles) < 4
    table = tab.page.get_by_test_id("stDataFrame").bounding_box()
    assert table is not None
    # The last column in sight at this width, as it is painted: 98 px for the longest word.
    assert table["width"] >= 605


def test_a_row_ticked_by_key_is_picked_and_its_place_is_in_the_address(server: str, open_tab: OpenTab) -> None:
    """Guards K2: the list of picked runs is the keyboard's way, and says how rows are ticked."""
    tab = open_tab(f"{server}/runs?find=toy+math&kind=score")
    tab.settle()
    page = tab.page
    picked = page.get_by_role("combobox", name="Picked runs")
    picked.focus()
    # The first option takes all.
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page).to_have_url(re.compile(r"runs=[0-9a-f]{16}$"), timeout=PATIENCE_MS)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name=re.compile("Open on"))).to_be_visible(timeout=PATIENCE_MS)
    address = page.url
    page.get_by_role("link", name="Glossary").click()
    expect(page.get_by_role("heading", name="Glossary", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    page.go_back()
    expect(page.get_by_role("button", name=re.compile("Open on"))).to_be_visible(timeout=PATIENCE_MS)
    assert page.url == address
    assert tab.errors == []


def test_several_local_runs_are_ticked_and_deleted_together(
    start_server: str, open_tab: OpenTab, tmp_path: Path
) -> None:
    store = Store(shipped=shipped_folder(), local=tmp_path / "cache")
    longer = shipped(EvalSpec, "mini_math")
    assert is_run_of(longer, EvalSpec)
    firsts = [replace(longer.spec.examples, ids=longer.spec.examples.ids[:n]) for n in (3, 4)]
    runs = [first_of(longer, replace(longer.spec, examples=examples), store) for examples in firsts]
    tab = open_tab(f"{start_server}/runs?origin=live")
    tab.settle()
    table = tab.page.get_by_test_id("stDataFrame")
    # Ticks of the canvas: the middle of the first column, in the rows below the header.
    for row in range(2):
        table.click(position={"x": 20, "y": 35 + 35 * row + 17})
        expect(tab.page).to_have_url(re.compile(r"&".join([r"runs=[0-9a-f]{16}"] * (row + 1))), timeout=PATIENCE_MS)
        tab.settle()
    tab.page.get_by_role("button", name="Delete 2 runs").click()
    for run in runs:
        expect(tab.page.get_by_text(run.title, exact=True)).to_be_visible(timeout=PATIENCE_MS)
    tab.page.get_by_role("button", name="Yes, delete 2 runs").click()
    expect(tab.page.get_by_text("2 runs were deleted")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).not_to_have_url(re.compile("runs=[0-9a-f]"))
    expect(tab.page.get_by_text("No stored run passes these filters.")).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []
