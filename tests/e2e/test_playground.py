"""The Playground in a real browser, on the real model."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE_MS, OpenTab

pytestmark = pytest.mark.e2e

COMPUTING_MS = 2 * PATIENCE_MS


def test_switching_heads_off_changes_the_next_token_and_the_link(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/playground?task=mini_science")
    page = tab.page
    expect(page.get_by_text("The likeliest next token is")).to_be_visible(timeout=COMPUTING_MS)
    page.get_by_role("button", name="Switch off the top 3 of mini_science").click()
    expect(page.get_by_text(re.compile(r"\b3 heads\b.*\bKL\b"))).to_be_visible(timeout=COMPUTING_MS)
    expect(page).to_have_url(re.compile(r"off=L\d+H\d+"))
    expect(page.get_by_text("How expected the prompt's own tokens are")).to_be_visible(timeout=COMPUTING_MS)
    # Both continuations, then attention of one head.
    expect(page.get_by_text("Changed", exact=True)).to_be_visible(timeout=COMPUTING_MS)
    expect(page.get_by_text("What one head looks at")).to_be_visible(timeout=COMPUTING_MS)
    assert tab.errors == []


def test_a_link_opens_on_its_prompt_and_change(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/playground?prompt=The+sky+is&off=L0H6&mask=global_magnitude&zeros=50")
    page = tab.page
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("The sky is", timeout=COMPUTING_MS)
    expect(page.get_by_text(re.compile(r"\b1 head\b.*\bKL\b"))).to_be_visible(timeout=COMPUTING_MS)
    page.get_by_role("button", name="Apply Global magnitude at 50 %").click()
    expect(page.get_by_text(re.compile(r"\b1 head\b.*Global magnitude\b.*\b50 %.*\bKL\b"))).to_be_visible(
        timeout=COMPUTING_MS
    )
