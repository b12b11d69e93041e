"""The Compare page in a real browser, on the shipped runs; nothing is computed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import PATIENCE_MS, OpenTab, Tab, opened_tab

pytestmark = pytest.mark.e2e


def figure_box(page: Page) -> tuple[float, float]:
    """Top and bottom of the painted figure on the screen."""
    plot = page.locator("[data-testid=stPlotlyChart] .main-svg").first
    plot.wait_for(timeout=PATIENCE_MS)
    box = plot.bounding_box()
    assert box is not None
    return box["y"], box["y"] + box["height"]


@pytest.fixture(scope="module")
def shown(browser: Browser, server: str) -> Iterator[Tab]:
    """The comparison on mini_science, for tests that leave it as it is."""
    with opened_tab(browser, f"{server}/compare?task=mini_science&n=600") as tab:
        tab.settle()
        yield tab


def test_the_answer_is_in_the_first_screen(shown: Tab) -> None:
    top, _ = figure_box(shown.page)
    assert 0 < top < 800
    strip = shown.page.get_by_test_id("stTable").first
    # As the README's table and `python -m studies --table ordering` print it, whatever the size chosen.
    expect(strip).to_contain_text("−9.7 points [−13.7, −5.9]", timeout=PATIENCE_MS)
    expect(strip).to_contain_text("−0.095 nats [−0.172, −0.017], p 0.014")
    box = strip.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 800
    assert not shown.errors


def test_a_deep_link_restores_the_view_and_the_measure_is_in_the_url(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/compare?criteria=cap&criteria=global_magnitude&reference=dense&n=600")
    page = tab.page
    tab.settle()
    expect(page.locator(".js-plotly-plot").get_by_text("Global magnitude").first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator(".js-plotly-plot").get_by_text("Wanda")).to_have_count(0)
    page.get_by_role("radio", name="Choice loss").click()
    expect(page.get_by_text("choice loss, nats")).to_be_visible(timeout=PATIENCE_MS)
    expect(page).to_have_url(re.compile("measure=choice_nll"))
    assert "reference=dense" in page.url
    assert not tab.errors


def test_files_can_be_downloaded(shown: Tab, tmp_path: Path) -> None:
    page = shown.page
    page.get_by_role("button", name="Share").click()
    saved: dict[str, Path] = {}
    for label in ("Table (CSV)", "Figure (HTML)"):
        with page.expect_download(timeout=PATIENCE_MS) as download:
            page.get_by_role("button", name=label).click()
        name = download.value.suggested_filename
        saved[name.rsplit(".", 1)[1]] = tmp_path / name
        download.value.save_as(tmp_path / name)
    with saved["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["criterion"] == "dense"
    assert float(rows[0]["value"]) == pytest.approx(0.658, abs=1e-3)
    assert len([row for row in rows if row["against"]]) == 9
    assert "Plotly.newPlot" in saved["html"].read_text()
    page.keyboard.press("Escape")
    assert not shown.errors


def test_the_prune_page_opens_with_the_same_criteria(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/compare?reference=global_magnitude&n=600")
    tab.settle()
    tab.page.get_by_role("button", name=re.compile("Look at one sparsity")).click()
    expect(tab.page.get_by_role("slider")).to_have_value("50", timeout=PATIENCE_MS)
    expect(tab.page.get_by_test_id("stTable").first).to_contain_text("Global magnitude", timeout=PATIENCE_MS)
    assert "against=global_magnitude" in tab.page.url


def test_nothing_is_wider_than_the_window(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/compare", dark=True, size=(1440, 900))
    for width in (1440, 800, 420):
        tab.page.set_viewport_size({"width": width, "height": 900})
        tab.settle()
        assert tab.overhang() <= 0, f"{width} px"
    assert not tab.errors
