"""The Tasks page in a real browser, on the shipped runs; nothing is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from cap_viz.figures.tasks import Mosaic
from tests.e2e.conftest import PATIENCE_MS, OpenTab

pytestmark = pytest.mark.e2e

# Maps, matrix, one head; the last is drawn first, so that the second figure is the matrix only at the end.
FIRST_TWO_END_ABOVE = """(end) => {
  const figures = [...document.querySelectorAll('[data-testid="stPlotlyChart"]')];
  return figures.length >= 3 && figures.slice(0, 2).every(figure => figure.getBoundingClientRect().bottom <= end);
}"""
# Nine tasks in rows of three, SmolLM2's 30 layers of 9 heads.
PLACE = Mosaic(n_maps=9, n_layers=30, n_heads=9, columns=3)


def test_a_click_on_any_map_shows_that_head_on_every_task(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/tasks?task=arc_easy")
    tab.settle()
    row, column = PLACE.corner(4)
    tab.page.mouse.click(*tab.cell(row + 24, column + 6))
    expect(tab.page).to_have_url(re.compile("layer=24&head=6|head=6&layer=24"), timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("spinbutton", name="Layer")).to_have_value("24")
    expect(tab.page.get_by_role("spinbutton", name="Head")).to_have_value("6")
    assert tab.errors == []


def test_a_click_on_the_matrix_compares_two_tasks(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/tasks?task=arc_easy")
    tab.settle()
    # The sixth row is StrategyQA, the third column Mini strategy.
    tab.page.mouse.click(*tab.cell(5, 2, figure=1))
    expect(tab.page.get_by_role("heading", name="StrategyQA against Mini strategy")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).to_have_url(re.compile("task=strategyqa"))
    expect(tab.page).to_have_url(re.compile("against=mini_strategy"))


def test_maps_and_matrix_are_in_the_first_screen(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/tasks")
    tab.page.wait_for_function(FIRST_TWO_END_ABOVE, arg=800, timeout=PATIENCE_MS)


def test_an_upload_becomes_a_task_and_is_forgotten_again(start_server: str, open_tab: OpenTab, tmp_path: Path) -> None:
    rows = [{"question": f"Which is number {n}?", "options": ["this", "that"], "gold": n % 2} for n in range(8)]
    file = tmp_path / "riddles.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    tab = open_tab(f"{start_server}/tasks")
    page = tab.page
    page.get_by_role("button", name="Your tasks").click()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Add this task").click()
    expect(page.get_by_text("Added riddles: 3 calibration and 5 evaluation examples")).to_be_visible(
        timeout=PATIENCE_MS
    )
    expect(page).to_have_url(re.compile("task=riddles"), timeout=PATIENCE_MS)
    if not page.get_by_role("button", name="Remove task").is_visible():
        page.get_by_role("button", name="Your tasks").click()
    page.get_by_role("button", name="Remove task").click()
    expect(page).not_to_have_url(re.compile("task=riddles"), timeout=PATIENCE_MS)
    assert tab.errors == []
