"""The Overview in a real browser, on the shipped runs; nothing is computed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE_MS, OpenTab, Tab

pytestmark = pytest.mark.e2e

# Cells of a row of the table of tasks that lie over each other, or reach out of the screen.
OVERLAPS = """() => [...document.querySelectorAll('.cv-row')].flatMap(row => {
  const boxes = [...row.querySelectorAll(':scope > *')].map(cell => cell.getBoundingClientRect());
  return boxes.filter((a, i) => a.right > innerWidth || boxes.some((b, j) => j > i
    && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1));
}).length"""


def opened(open_tab: OpenTab, address: str, **options: tuple[int, int]) -> Tab:
    tab = open_tab(address, **options)
    expect(tab.page.get_by_text("have an effect beyond chance")).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    return tab


def opens_head(tab: Tab, layer: int, head: int) -> None:
    """Hold that Heads is open on a head, and that the page says so."""
    expect(tab.page.get_by_role("heading", name="Heads", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).to_have_url(re.compile(rf"/heads\?.*layer={layer}&head={head}"), timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("spinbutton", name="Layer")).to_have_value(str(layer), timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("spinbutton", name="Head", exact=True)).to_have_value(str(head))
    assert tab.errors == []


def test_a_click_on_the_map_opens_that_head(server: str, open_tab: OpenTab) -> None:
    """Guards: the map looked clickable and was not."""
    tab = opened(open_tab, f"{server}/?task=arc_easy")
    tab.page.get_by_role("gridcell", name=re.compile("^Layer 24, head 6:")).click()
    opens_head(tab, 24, 6)
    expect(tab.page).to_have_url(re.compile("task=arc_easy"))


def test_enter_on_the_map_opens_that_head(server: str, open_tab: OpenTab) -> None:
    tab = opened(open_tab, f"{server}/")
    tab.page.get_by_role("gridcell", name=re.compile("^Layer 7, head 2:")).focus()
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Enter")
    opens_head(tab, 7, 3)


def test_a_task_of_the_table_opens_on_its_first_head(server: str, open_tab: OpenTab) -> None:
    tab = opened(open_tab, f"{server}/")
    tab.page.get_by_role("button", name="ARC-Easy").click()
    expect(tab.page.get_by_role("heading", name="Heads", exact=True)).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).to_have_url(re.compile(r"task=arc_easy.*layer=\d+&head=\d+"), timeout=PATIENCE_MS)


def test_the_first_screen_answers_and_the_table_of_tasks_has_room(server: str, open_tab: OpenTab) -> None:
    """At 1280 × 800: what it can do, which heads it needs, what pruning costs, and whether CAP is better than Wanda."""
    tab = opened(open_tab, f"{server}/")
    page = tab.page
    answers = [page.get_by_role("heading", name=name) for name in ("What it can do", "Which heads it needs")]
    for one in (*answers, page.get_by_role("table"), page.get_by_text("Is CAP better than Wanda?")):
        box = one.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 800
    last = page.get_by_role("gridcell", name=re.compile("^Layer 29, head 8:")).bounding_box()
    assert last is not None
    assert last["y"] + last["height"] < 800
    has_room(tab)
    page.set_viewport_size({"width": 1920, "height": 844})
    tab.settle()
    has_room(tab)


def test_the_table_of_tasks_has_room_on_a_phone(server: str, open_tab: OpenTab) -> None:
    has_room(opened(open_tab, f"{server}/", size=(390, 844)))


def has_room(tab: Tab) -> None:
    assert tab.page.locator(".cv-row img").count() >= 8
    assert tab.page.evaluate(OVERLAPS) == 0
    assert tab.overhang() <= 0
