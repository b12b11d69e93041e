"""The Playground in a real browser, on the real model."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE_MS, OpenTab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# The first test also waits for the one-off conversion of the model.
COMPUTING_MS = 5 * PATIENCE_MS


def test_switching_heads_off_changes_the_next_token_and_the_link(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/playground?task=mini_science")
    page = tab.page
    expect(page.get_by_text("The likeliest next token is")).to_be_visible(timeout=COMPUTING_MS)
    page.get_by_role("button", name="Switch off top 3", exact=True).click()
    expect(page.get_by_text(re.compile(r"\b3 heads\b.*\bKL\b"))).to_be_visible(timeout=COMPUTING_MS)
    expect(page).to_have_url(re.compile(r"off=L\d+H\d+"))
    expect(page.get_by_text("How expected the prompt's own tokens are")).to_be_visible(timeout=COMPUTING_MS)
    # Both continuations, then attention of one head.
    expect(page.get_by_text("Changed: 3 heads off")).to_be_visible(timeout=COMPUTING_MS)
    expect(page.get_by_text("What one head looks at")).to_be_visible(timeout=COMPUTING_MS)
    assert tab.errors == []


def test_a_cell_is_switched_off_and_on_by_pointer_and_key_and_crossed(server: str, open_tab: OpenTab) -> None:
    """Guards B6: a cross is "off", also on a head beyond the scale, and Back takes a click back."""
    tab = open_tab(f"{server}/playground?task=mini_science")
    page = tab.page
    cell = page.get_by_role("gridcell", name=re.compile("^Layer 1, head 3:"))
    cell.click(timeout=COMPUTING_MS)
    expect(page.get_by_text(re.compile(r"\b1 head off\b.*\bKL\b"))).to_be_visible(timeout=COMPUTING_MS)
    expect(cell).to_have_accessible_name(re.compile("switched off"))
    expect(cell).to_have_class(re.compile(r"\boff\b"))
    assert page.url.endswith("off=L1H3")
    tab.settle()
    cell.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile(r"\bKL\b"))).to_have_count(0, timeout=COMPUTING_MS)
    assert "off=" not in page.url
    page.go_back()
    expect(page.get_by_text(re.compile(r"\b1 head off\b.*\bKL\b"))).to_be_visible(timeout=COMPUTING_MS)


def test_a_link_opens_on_its_prompt_and_change(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/playground?prompt=The+sky+is&off=L0H6&mask=global_magnitude&zeros=50")
    page = tab.page
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("The sky is", timeout=COMPUTING_MS)
    expect(page.get_by_text(re.compile(r"\b1 head\b.*\bKL\b"))).to_be_visible(timeout=COMPUTING_MS)
    page.get_by_role("button", name="Apply Global magnitude at 50 %").click()
    expect(page.get_by_text(re.compile(r"\b1 head\b.*Global magnitude\b.*\b50 %.*\bKL\b"))).to_be_visible(
        timeout=COMPUTING_MS
    )


def test_a_long_mask_is_a_job_with_progress_beside_a_readable_answer(server: str, open_tab: OpenTab) -> None:
    """Guards A20: "Reading the prompt …" for 20 s and more, without estimate, progress, cancel or queue entry."""
    tab = open_tab(f"{server}/playground?mask=sparsegpt&zeros=30")
    page = tab.page
    apply = page.get_by_role("button", name="Apply SparseGPT at 30 %")
    expect(apply).to_be_visible(timeout=COMPUTING_MS)
    expect(page.get_by_text(re.compile(r"^About \d+ (s|min)\."))).to_be_visible()
    apply.click()
    expect(page.get_by_text(re.compile("block 3 of"))).to_be_visible(timeout=COMPUTING_MS)
    answer = page.get_by_text("The likeliest next token is")
    expect(answer).to_be_visible()
    stale = (
        "e => [...Array(20)].reduce(n => n && (n.dataset.stale === 'true' ? 'stale' : n.parentElement), e) === 'stale'"
    )
    assert not answer.evaluate(stale)
    expect(page.get_by_test_id("stSidebar").get_by_text("Pruning by SparseGPT")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("textbox", name="Prompt").fill("The capital of France is")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(re.compile("Paris")).first).to_be_visible(timeout=COMPUTING_MS)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("was cancelled")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Discard").click()
    expect(apply).to_be_visible(timeout=PATIENCE_MS)


def test_an_error_of_the_prompt_stands_at_its_box(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/playground")
    page = tab.page
    box = page.get_by_role("textbox", name="Prompt")
    expect(page.get_by_text("The likeliest next token is")).to_be_visible(timeout=COMPUTING_MS)
    box.fill("")
    page.keyboard.press("Control+Enter")
    error = page.get_by_test_id("stAlert")
    expect(error).to_be_visible(timeout=COMPUTING_MS)
    tab.settle()
    below, above = error.bounding_box(), box.bounding_box()
    assert below is not None
    assert above is not None
    assert 0 < below["y"] - (above["y"] + above["height"]) < 60
