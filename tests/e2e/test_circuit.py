"""The Circuit page in a real browser, on the shipped circuit of the toy reasoner; nothing is computed."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE_MS, OpenTab

pytestmark = pytest.mark.e2e

TOY = "circuit?model=toy-reasoner&task=toy_math"


def test_a_click_on_a_head_and_a_choice_from_the_list_show_it(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/{TOY}")
    tab.settle()
    tab.page.mouse.click(*tab.cell(3, 2))
    expect(tab.page).to_have_url(re.compile("shown=L3H2"), timeout=PATIENCE_MS)
    expect(tab.page.get_by_text(re.compile("Removing head 2 of layer 3"))).to_be_visible(timeout=PATIENCE_MS)
    # The same by keyboard.
    box = tab.page.get_by_role("combobox", name=re.compile("Head or path"))
    box.press("ArrowDown")
    tab.page.keyboard.type("L0H4 → L3H2")
    tab.page.keyboard.press("Enter")
    expect(tab.page).to_have_url(re.compile("shown=L0H4-L3H2"), timeout=PATIENCE_MS)
    expect(tab.page.get_by_text("Questions on which it matters most")).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []


def test_heads_link_to_their_circuit_and_back(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/{TOY}&shown=L0H7")
    tab.settle()
    tab.page.get_by_role("button", name="Open it on Heads").click()
    expect(tab.page).to_have_url(re.compile("heads.*layer=0&head=7"), timeout=PATIENCE_MS)
    tab.page.get_by_role("button", name="Circuit of the strongest heads").click()
    expect(tab.page).to_have_url(re.compile("circuit.*task=toy_math"), timeout=PATIENCE_MS)
    assert tab.errors == []


def test_a_question_is_played_and_played_again(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/{TOY}&shown=L0H4&reading=true")
    # Tests prefer less motion, under which the tokens stand still.
    tab.page.emulate_media(reduced_motion="no-preference")
    tokens = tab.page.locator(".cv-played")
    expect(tokens.first).to_be_visible(timeout=PATIENCE_MS)
    assert tokens.first.evaluate("token => getComputedStyle(token).animationName") == "cv-read"
    tab.page.get_by_role("button", name="Play again").click()
    expect(tab.page.locator("#play-1 .cv-played").first).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []
