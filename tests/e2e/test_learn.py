"""The lesson in a real browser: by keyboard, by its address, and on to the page it talks about."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from cap_viz.dashboard.learn.steps import STEPS
from tests.e2e.conftest import PATIENCE_MS, OpenTab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_the_lesson_can_be_taken_by_keyboard_and_link(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/learn")
    expect(tab.page.get_by_text(f"1. {STEPS[0].title}")).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    tab.page.keyboard.press("2")
    expect(tab.page.get_by_text("(your guess)")).to_be_visible(timeout=PATIENCE_MS)
    tab.page.keyboard.press("ArrowRight")
    expect(tab.page.get_by_text(f"2. {STEPS[1].title}")).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    expect(tab.page).to_have_url(re.compile("guesses=1b"))
    expect(tab.page).to_have_url(re.compile("step=2"))
    other = open_tab(tab.page.url)
    expect(other.page.get_by_text(f"2. {STEPS[1].title}")).to_be_visible(timeout=PATIENCE_MS)
    other.settle()
    other.page.keyboard.press("ArrowLeft")
    expect(other.page.get_by_text("(your guess)")).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []
    assert other.errors == []


def test_a_step_leads_to_the_page_and_head_it_talks_about(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/learn?step=3&guesses=3a", size=(390, 844))
    told = tab.page.get_by_text(re.compile(r"Head \d+ of layer \d+ \(of 30"))
    expect(told).to_be_visible(timeout=PATIENCE_MS)
    head, layer = re.findall(r"\d+", told.inner_text())[:2]
    tab.settle()
    tab.page.get_by_role("button", name="Look at the map").click()
    expect(tab.page.get_by_text(f"head {head} of layer {layer}").first).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []


@pytest.mark.parametrize(("step", "section"), [(4, "Ranked heads"), (8, "What if all of these")])
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
