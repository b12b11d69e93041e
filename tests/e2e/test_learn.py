"""The lesson in a real browser: by keyboard, by mouse, by its address, and on to the page it talks about."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from cap_viz.dashboard.learn.lesson import read_lesson
from cap_viz.settings import ASSETS
from tests.e2e.conftest import PATIENCE_MS, OpenTab, Tab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STEPS = read_lesson(ASSETS / "lessons" / "heads.toml").steps
SMALL_TEXTS = """() => {
  const small = [], main = document.querySelector('[data-testid="stMain"]');
  const texts = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), parent = texts.currentNode.parentElement;
    const shown = parent.checkVisibility() && !["STYLE", "SCRIPT"].includes(parent.tagName);
    if (text && shown && parseFloat(getComputedStyle(parent).fontSize) < 22) small.push(text);
  }
  return small;
}"""


def ready(tab: Tab) -> None:
    """Wait until the page stands still and the buttons, which have the keys, are loaded."""
    tab.settle()
    expect(tab.page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=PATIENCE_MS)


def title(number: int) -> str:
    return f"{number}. {STEPS[number - 1].title}"


def test_the_lesson_can_be_taken_by_keyboard_and_link(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/learn?model=toy-reasoner")
    expect(tab.page.get_by_text(title(1))).to_be_visible(timeout=PATIENCE_MS)
    ready(tab)
    tab.page.keyboard.press("2")
    expect(tab.page.locator(".lesson-choices .right")).to_be_visible(timeout=PATIENCE_MS)
    tab.page.keyboard.press("ArrowRight")
    expect(tab.page.get_by_text(title(2))).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    expect(tab.page).to_have_url(re.compile("guesses=1b"))
    expect(tab.page).to_have_url(re.compile("step=2"))
    other = open_tab(tab.page.url)
    expect(other.page.get_by_text(title(2))).to_be_visible(timeout=PATIENCE_MS)
    ready(other)
    other.page.keyboard.press("ArrowLeft")
    expect(other.page.locator(".lesson-choices .right")).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []
    assert other.errors == []


def test_keys_do_not_guess_while_a_box_is_focused(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/learn?model=toy-reasoner")
    ready(tab)
    tab.page.get_by_role("combobox").first.focus()
    tab.page.keyboard.press("2")
    tab.page.keyboard.press("Escape")
    tab.page.locator("h1").click()
    ready(tab)
    assert "guesses" not in tab.page.url
    tab.page.keyboard.press("3")
    expect(tab.page).to_have_url(re.compile("guesses=1c"), timeout=PATIENCE_MS)


def test_back_from_another_page_finds_step_and_guesses(server: str, open_tab: OpenTab) -> None:
    """A step back landed on step 1 with all guesses gone."""
    tab = open_tab(f"{server}/learn?model=toy-reasoner&step=6&guesses=1c6a")
    tab.settle()
    tab.page.get_by_role("link", name="Glossary").click()
    expect(tab.page.get_by_role("heading", name="Glossary")).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    tab.page.go_back()
    expect(tab.page.get_by_text(title(6))).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page.locator(".lesson-choices .right")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).to_have_url(re.compile("guesses=1c6a"))
    assert tab.errors == []


def test_two_quick_steps_back_are_two_steps(server: str, open_tab: OpenTab) -> None:
    """With the second one the browser still sent the step that the first had left, and the page went there again."""
    tab = open_tab(f"{server}/learn?model=toy-reasoner")
    for number in (2, 3):
        ready(tab)
        tab.page.get_by_role("button", name="Next").click()
        expect(tab.page.get_by_text(title(number))).to_be_visible(timeout=PATIENCE_MS)
    ready(tab)
    tab.page.evaluate("history.back(); setTimeout(() => history.back(), 60)")
    expect(tab.page).not_to_have_url(re.compile("step="), timeout=PATIENCE_MS)
    ready(tab)
    expect(tab.page.get_by_text(title(1))).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).not_to_have_url(re.compile("step="))
    assert tab.errors == []


def test_projector_mode_has_large_type_and_no_sidebar(server: str, open_tab: OpenTab) -> None:
    guesses = "".join(f"{number}b" for number in range(1, len(STEPS) + 1))
    tab = open_tab(f"{server}/learn?model=toy-reasoner&guesses={guesses}")
    ready(tab)
    sidebar = tab.page.get_by_test_id("stSidebar")
    expect(sidebar).to_be_visible()
    tab.page.keyboard.press("p")
    expect(sidebar).to_be_hidden(timeout=PATIENCE_MS)
    expect(tab.page).to_have_url(re.compile("projector=true"))
    for number in range(1, len(STEPS) + 1):
        expect(tab.page.get_by_text(title(number))).to_be_visible(timeout=PATIENCE_MS)
        ready(tab)
        assert tab.page.evaluate(SMALL_TEXTS) == [], title(number)
        assert tab.overhang() <= 0, title(number)
        tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("p")
    expect(sidebar).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page).not_to_have_url(re.compile("projector"))
    assert tab.errors == []


def test_a_click_removes_a_head_and_lights_up_its_cell(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/learn?model=toy-reasoner")
    tab.settle()
    cells = tab.page.get_by_role("gridcell")
    removed = cells.and_(tab.page.get_by_label("Layer 2, head 1:"))
    removed.click()
    expect(tab.page).to_have_url(re.compile("pick=L2H1"), timeout=PATIENCE_MS)
    expect(tab.page.get_by_text(re.compile(r"^Layer 2, head 1: [+−]\d"))).to_be_visible(timeout=PATIENCE_MS)
    expect(removed).to_have_attribute("aria-label", re.compile(r"head 1: [+−]\d"))
    expect(cells.and_(tab.page.locator('[style*="--effect"]'))).to_have_count(1)
    assert tab.errors == []


def test_a_step_leads_to_the_page_and_head_it_talks_about(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/learn?step=3&guesses=3a", size=(390, 844))
    told = tab.page.get_by_text(re.compile(r"Head \d+ of layer \d+.* 30 layers"))
    expect(told).to_be_visible(timeout=PATIENCE_MS)
    head, layer = re.findall(r"\d+", told.inner_text())[:2]
    tab.settle()
    tab.page.get_by_role("button", name=STEPS[2].link.label).click()
    expect(tab.page.get_by_text(f"head {head} of layer {layer}").first).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []


@pytest.mark.parametrize(("step", "section"), [(4, "Ranked heads"), (9, "What if all of these")])
def test_a_link_lands_at_the_section_it_names(server: str, open_tab: OpenTab, step: int, section: str) -> None:
    tab = open_tab(f"{server}/learn?model=toy-reasoner&step={step}&guesses={step}a")
    tab.settle()
    tab.page.get_by_role("button", name=STEPS[step - 1].link.label).click()
    heading = tab.page.get_by_role("heading", name=section)
    expect(heading).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    expect(heading).to_be_in_viewport(timeout=PATIENCE_MS)
    if step == 8:
        chosen = tab.page.get_by_test_id("stMultiSelect").filter(has_text="together")
        expect(chosen.get_by_text(re.compile(r"^L\d+H\d+$"))).to_have_count(4)
    assert tab.errors == []
