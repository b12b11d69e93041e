"""Overview and Heads in a real browser: deep links, clicking a head, live runs, both themes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from cap_viz.figures.head_grid import Grid
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import model_ref, score_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import mean_with_ci
from tests.e2e.conftest import PATIENCE_MS, OpenTab, Tab, opened_tab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

# A minute on a quiet machine, with the one-off conversion of the model.
RUN_MS = 600_000


def test_heads_opens_by_deep_link_on_a_fresh_server(start_server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{start_server}/heads?task=mini_science&metric=choice_nll&layer=11&head=2")
    expect(tab.page.get_by_text("head 2 of layer 11")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("heading", name="Heads", exact=True)).to_be_visible()
    expect(tab.page.locator("[data-testid=stSidebar]").get_by_role("link", name="Overview")).to_be_visible()
    tab.settle()
    assert "metric=choice_nll" in tab.page.url
    assert "layer=11" in tab.page.url
    assert tab.errors == []


@pytest.fixture(scope="module")
def shown(browser: Browser, server: str) -> Iterator[Tab]:
    """Heads of mini_science at rest, for tests that leave it as it is."""
    with opened_tab(browser, f"{server}/heads?task=mini_science") as tab:
        tab.settle()
        yield tab


def test_a_head_is_chosen_by_click_and_number_and_back_returns_to_the_one_before(
    server: str, open_tab: OpenTab
) -> None:
    tab = open_tab(f"{server}/heads?task=mini_science")
    tab.settle()
    layer, head = (tab.page.get_by_role("spinbutton", name=name) for name in ("Layer", "Head"))
    cell(tab.page, 24, 6).click()
    expect(tab.page.get_by_text("head 6 of layer 24")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).to_have_url(re.compile("layer=24&head=6|head=6&layer=24"))
    expect(layer).to_have_value("24")
    cell(tab.page, 7, 2).click()
    expect(tab.page.get_by_text("head 2 of layer 7")).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    # The boxes hold the head by then; what they hold goes with the next message.
    expect(layer).to_have_value("7")
    expect(head).to_have_value("2")
    tab.page.go_back()
    expect(tab.page.get_by_text("head 6 of layer 24")).to_be_visible(timeout=PATIENCE_MS)
    expect(cell(tab.page, 24, 6)).to_have_attribute("aria-selected", "true")
    tab.settle()
    layer.fill("3")
    layer.press("Enter")
    expect(tab.page.get_by_text("head 6 of layer 3")).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    # The same cell as before.
    cell(tab.page, 24, 6).click()
    expect(tab.page.get_by_text("head 6 of layer 24")).to_be_visible(timeout=PATIENCE_MS)


def test_the_frame_moves_at_the_click_before_the_server_answers(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/heads?task=mini_science")
    tab.settle()
    # No message leaves the page any more.
    tab.page.evaluate("WebSocket.prototype.send = () => {}")
    cell(tab.page, 24, 6).click()
    expect(cell(tab.page, 24, 6)).to_have_attribute("aria-selected", "true")
    expect(cell(tab.page, 1, 3)).not_to_have_attribute("aria-selected", "true")


def test_the_map_is_walked_and_chosen_from_by_keyboard(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/heads?task=mini_science&layer=7&head=2")
    tab.settle()
    grid = tab.page.get_by_role("grid", name=re.compile("Effect of removing each head"))
    expect(grid.locator('[tabindex="0"]')).to_have_count(1)
    grid.locator('[tabindex="0"]').focus()
    assert focused(tab.page).startswith("Layer 7, head 2:")
    keys = ("ArrowDown", "ArrowRight", "End", "Home", "ArrowLeft", "Control+End", "ArrowUp")
    places = ((8, 2), (8, 3), (8, 8), (8, 0), (8, 0), (29, 8), (28, 8))
    for key, (layer, head) in zip(keys, places, strict=True):
        tab.page.keyboard.press(key)
        assert focused(tab.page).startswith(f"Layer {layer}, head {head}:")
    tab.page.keyboard.press("Enter")
    expect(tab.page.get_by_text("head 8 of layer 28")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).to_have_url(re.compile("layer=28&head=8|head=8&layer=28"))
    # The focus stays for the next step.
    assert focused(tab.page).startswith("Layer 28, head 8:")


def test_a_cell_says_the_same_to_eyes_and_ears_as_the_library(shown: Tab) -> None:
    """The sentence is composed twice: in the browser for the map, in Python for exported figures."""
    store = Store()
    (run,) = [run for run in score_runs(store.runs(), model_ref(store, DEFAULT_MODEL), "mini_science") if is_usual(run)]
    estimate = mean_with_ci(load_scores(store, run).effects("nll"))
    grid = Grid.of(estimate, ends=ablation_words(run.spec).ends)
    for layer, head in ((1, 3), (7, 0), (24, 6), (29, 8)):
        said = grid.says(layer, head, "nats per token")
        expect(cell(shown.page, layer, head)).to_have_attribute("aria-label", said)
        cell(shown.page, layer, head).hover()
        tip = shown.page.locator(".tip")
        expect(tip).to_be_visible()
        for part in said.replace(": ", ", ").split(", "):
            expect(tip).to_contain_text(part)


def is_usual(run: StoredRun[ScoreSpec]) -> bool:
    return run.spec.ablation == "zero" and len(run.spec.examples.ids) == 48


def test_the_colours_follow_the_theme_without_a_rerun(shown: Tab) -> None:
    colour = "element => getComputedStyle(element).color"
    light = cell(shown.page, 2, 2).evaluate(colour)
    shown.page.emulate_media(color_scheme="dark")
    expect(shown.page.locator("body")).not_to_have_css("background-color", "rgb(255, 255, 255)")
    assert cell(shown.page, 2, 2).evaluate(colour) != light
    shown.use_theme("light")


def test_the_words_of_the_colour_bar_do_not_overlap_on_a_phone(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/heads?task=mini_science", size=(390, 844))
    tab.settle()
    expect(cell(tab.page, 1, 3)).to_be_visible(timeout=PATIENCE_MS)
    boxes = tab.page.locator(".ends span").evaluate_all("all => all.map(one => one.getBoundingClientRect().toJSON())")
    assert len(boxes) == 3
    for left, right in pairwise(boxes):
        assert left["right"] <= right["left"]
    assert boxes[-1]["right"] <= 390


def test_the_shared_link_is_that_of_the_head_shown(server: str, open_tab: OpenTab) -> None:
    """It named the head of an earlier view, or none: a click on a cell redraws only the part below the menu."""
    tab = open_tab(f"{server}/heads?task=mini_science&n=200")
    tab.settle()
    for layer, head in ((24, 6), (7, 2)):
        cell(tab.page, layer, head).click()
        expect(tab.page.get_by_text(f"head {head} of layer {layer}")).to_be_visible(timeout=PATIENCE_MS)
        share = tab.page.get_by_role("button", name="Share")
        share.click()
        link = tab.page.get_by_test_id("stCode").get_by_text("/heads?")
        expect(link).to_contain_text(f"layer={layer}&head={head}")
        expect(link).to_contain_text("n=200")
        share.click()
        expect(link).to_have_count(0)


def test_another_model_starts_with_its_own_top_head(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/heads?task=mini_science&layer=13&head=6")
    tab.settle()
    tab.page.get_by_role("button", name="Try the toy model").click()
    expect(tab.page.get_by_role("button", name="Back to SmolLM2")).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    fresh = open_tab(tab.page.url)
    for page in (tab.page, fresh.page):
        chosen = page.get_by_role("gridcell", selected=True)
        expect(chosen).to_have_attribute("aria-label", re.compile("rank 1 of 32,"), timeout=PATIENCE_MS)
    expect(tab.page.get_by_text("The link asks")).to_have_count(0)


def test_a_live_run_shows_progress_and_stops_soon_after_cancel(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/heads?task=mini_science")
    tab.settle()
    start_run(tab, n=2, seed=7)
    title = "Mini science, Heads: 2 examples, draw 7, zeroed"
    expect(tab.page.get_by_text(title).first).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page.get_by_text("after 1 example").or_(tab.page.get_by_text("after 2 examples"))).to_be_visible(
        timeout=RUN_MS
    )
    asked = time.monotonic()
    tab.page.get_by_role("button", name="Cancel").click()
    expect(tab.page.get_by_text("was cancelled")).to_be_visible(timeout=PATIENCE_MS)
    # Two seconds are promised on a quiet machine; a step takes several times as long beside other work.
    assert time.monotonic() - asked < 30
    expect(tab.page.get_by_text("Ranking reliability")).to_be_visible(timeout=PATIENCE_MS)
    # Back at the stored run, in the box and in the address; nobody followed a link.
    expect(tab.page.get_by_role("combobox", name="Run")).to_have_value("48 examples, zeroed")
    expect(tab.page).not_to_have_url(re.compile("run=n2"))
    expect(tab.page.get_by_text("The link asks")).to_have_count(0)


def test_a_live_run_fills_the_grid_and_becomes_the_run_shown(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/heads?task=mini_science&layer=1&head=3")
    tab.settle()
    start_run(tab, n=1, seed=3)
    expect(tab.page.get_by_text("after 1 example").or_(tab.page.get_by_text("1 example: too few"))).to_be_visible(
        timeout=RUN_MS
    )
    expect(tab.page.get_by_text("1 example: too few")).to_be_visible(timeout=RUN_MS)
    expect(tab.page).to_have_url(re.compile("run=n1-seed3-zero"))
    expect(tab.page.get_by_text("live", exact=True)).to_be_visible()


@pytest.mark.parametrize("device", ["laptop", "phone"])
@pytest.mark.parametrize(
    "path",
    ["/", "/heads?layer=1&head=3", "/heads?view=specificity", "/prune"],
    ids=["overview", "heads", "specificity", "prune"],
)
def test_pages_paint_without_errors(
    server: str, open_tab: OpenTab, path: str, device: Literal["laptop", "phone"]
) -> None:
    """Opened in either theme, then in the other, and on a laptop in a larger window."""
    opened: Literal["light", "dark"] = "light" if device == "laptop" else "dark"
    sizes = {"laptop": [(1280, 800), (1720, 1000)], "phone": [(420, 900)]}[device]
    tab = open_tab(f"{server}{path}", dark=opened == "dark", size=sizes[0])
    tab.settle()
    assert tab.overhang() <= 0
    tab.use_theme("dark" if opened == "light" else "light")
    for width, height in sizes:
        tab.page.set_viewport_size({"width": width, "height": height})
        tab.settle()
        assert tab.overhang() <= 0, f"{width} px"
    assert tab.page.locator("[data-testid=stException]").count() == 0
    assert tab.errors == []


def test_the_main_figure_is_in_the_first_screen(shown: Tab) -> None:
    expect(cell(shown.page, 29, 0)).to_be_in_viewport(timeout=PATIENCE_MS)
    # The example and the switch of its reading stand beside the map.
    expect(shown.page.get_by_text("Read with the model")).to_be_in_viewport()
    expect(shown.page.get_by_role("table").last).to_be_in_viewport(ratio=0.9)


def test_the_view_is_in_the_link_and_can_be_switched(server: str, open_tab: OpenTab) -> None:
    """With a stored control the differences, without one the offer to measure it; either way back to the effects."""
    tab = open_tab(f"{server}/heads?task=mini_science&view=specificity")
    page = tab.page
    compared = page.get_by_text("noise ceiling").or_(page.get_by_text("No generic text has been measured"))
    expect(compared.first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("Ranking reliability")).to_have_count(0)
    tab.settle()
    assert "view=specificity" in page.url
    control = page.get_by_role("radio", name="This task").or_(page.get_by_role("button", name="This task")).first
    tab.press(control, page.get_by_text("Ranking reliability"))
    expect(page).not_to_have_url(re.compile("view=specificity"))
    assert tab.errors == []


def test_a_text_task_opens_by_link_with_its_only_metric(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/heads?task=mini_text&metric=choice_nll")
    expect(tab.page.get_by_text(re.compile(r"Token loss\b.*\bMini text\b"))).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("button", name="New run")).to_be_visible()
    assert tab.errors == []


def test_a_wrong_link_gets_a_note_that_stays_until_the_choice_changes(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/heads?task=no_such_task&layer=99")
    tab.settle()
    expect(tab.page.get_by_text("no_such_task")).to_be_visible()
    expect(tab.page.get_by_text("layer “99”")).to_be_visible()
    cell(tab.page, 24, 6).click()
    expect(tab.page.get_by_text("head 6 of layer 24")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page.get_by_text("no_such_task")).to_be_visible()


def cell(page: Page, layer: int, head: int) -> Locator:
    """A cell of the head map by what a screen reader says of it first."""
    return page.get_by_role("gridcell", name=re.compile(rf"^Layer {layer}, head {head}:"))


def focused(page: Page) -> str:
    """What a screen reader says of the focused element, inside components, too."""
    return str(page.evaluate(FOCUSED))


FOCUSED = """() => {
  let one = document.activeElement;
  while (one.shadowRoot?.activeElement) one = one.shadowRoot.activeElement;
  return one.getAttribute('aria-label');
}"""


def start_run(tab: Tab, n: int, seed: int) -> None:
    tab.page.get_by_role("button", name="New run").click()
    for label, value in (("Examples", n), ("Seed of the draw", seed)):
        field = tab.page.get_by_role("spinbutton", name=label)
        field.fill(str(value))
        field.press("Tab")
    tab.settle()
    tab.page.get_by_role("button", name="Start", exact=True).click()
