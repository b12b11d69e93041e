"""The Tasks page in a real browser, on the shipped runs; nothing is computed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from cap_viz.ui.tasks_figures import Mosaic
from tests.e2e.conftest import PATIENCE_MS, OpenTab

pytestmark = pytest.mark.e2e

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
    tab.settle()
    for figure in (0, 1):
        box = tab.page.locator("[data-testid=stPlotlyChart] .main-svg:first-child").nth(figure).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 800
