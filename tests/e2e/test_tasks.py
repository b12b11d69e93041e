"""The Tasks page in a real browser, on the shipped runs; nothing is computed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE_MS, OpenTab

pytestmark = pytest.mark.e2e

# Place of the matrix, the only figure with labels above it, once all three are painted.
MATRIX = """() => {
  const figures = [...document.querySelectorAll('.js-plotly-plot')];
  if (figures.length < 3 || figures.some(figure => !figure._fullLayout?.xaxis)) return null;
  return {place: figures.findIndex(figure => figure._fullLayout.xaxis.side === 'top')};
}"""


def test_a_click_on_a_map_shows_that_head_on_every_task(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/tasks?task=arc_easy")
    tab.settle()
    for place, (layer, head) in enumerate([(24, 6), (7, 2), (29, 8)]):
        tab.page.get_by_role("gridcell", name=re.compile(f"^Layer {layer}, head {head}:")).nth(place).click()
        expect(tab.page).to_have_url(re.compile(f"layer={layer}&head={head}"), timeout=PATIENCE_MS)
        expect(tab.page.get_by_role("spinbutton", name="Layer")).to_have_value(str(layer), timeout=PATIENCE_MS)
        expect(tab.page.get_by_role("spinbutton", name="Head", exact=True)).to_have_value(str(head))
        # Both tasks and their difference frame it.
        framed = tab.page.locator(f'[role="gridcell"][aria-selected="true"][data-i="{9 * layer + head}"]')
        expect(framed).to_have_count(3, timeout=PATIENCE_MS)
    assert tab.errors == []


def test_a_click_on_the_matrix_compares_two_tasks(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/tasks?task=arc_easy")
    tab.settle()
    # The sixth row is StrategyQA, the third column Mini strategy; the matrix is the second figure but drawn first.
    figure = tab.page.wait_for_function(MATRIX, timeout=PATIENCE_MS).json_value()["place"]
    tab.page.mouse.click(*tab.cell(5, 2, figure=figure))
    expect(tab.page.get_by_role("heading", name="StrategyQA against Mini strategy")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).to_have_url(re.compile("task=strategyqa"))
    expect(tab.page).to_have_url(re.compile("against=mini_strategy"))


def test_the_answer_the_maps_and_the_matrix_are_in_the_first_screen(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/tasks")
    tab.settle()
    expect(tab.page.get_by_text(re.compile("of the top 27 heads are shared"))).to_be_visible()
    for place in range(3):
        cell = tab.page.get_by_role("gridcell", name=re.compile("^Layer 29, head 8:")).nth(place).bounding_box()
        assert cell is not None
        assert cell["y"] + cell["height"] < 800
    figure = tab.page.wait_for_function(MATRIX, timeout=PATIENCE_MS).json_value()["place"]
    assert tab.cell(8, 8, figure=figure)[1] < 800


def test_an_upload_becomes_a_task_and_is_forgotten_again(start_server: str, open_tab: OpenTab, tmp_path: Path) -> None:
    rows = [{"question": f"Which is number {n}?", "options": ["this", "that"], "answer": "AB"[n % 2]} for n in range(8)]
    file = tmp_path / "riddles.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    tab = open_tab(f"{start_server}/tasks")
    page = tab.page
    page.get_by_role("button", name="Your tasks").click()
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name="Add this task").click()
    banner = page.get_by_text("Added Riddles: 3 calibration and 5 evaluation examples")
    expect(banner).to_be_visible(timeout=PATIENCE_MS)
    expect(page).to_have_url(re.compile("task=riddles"), timeout=PATIENCE_MS)
    page.get_by_role("button", name="Score its heads").click()
    expect(page.get_by_role("heading", name="Heads", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    expect(page).to_have_url(re.compile("task=riddles"))
    tab.settle()
    page.go_back()
    expect(banner).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    if not page.get_by_role("button", name="Remove task").is_visible():
        page.get_by_role("button", name="Your tasks").click()
    page.get_by_role("button", name="Remove task").click()
    expect(page).not_to_have_url(re.compile("task=riddles"), timeout=PATIENCE_MS)
    assert tab.errors == []
