"""What the pages say and do when a server dies or a job is cancelled elsewhere; on the toy model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import PATIENCE_MS, OpenTab, free_port, running_server, server_process
from tests.e2e.test_heads import start_run

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TOY = "model=toy-reasoner&task=toy_math"
# Long enough to be cancelled or killed.
MANY, COMPUTING_MS = 192, 300_000
CONNECTED = "document.querySelector('[data-test-connection-state]')?.dataset.testConnectionState === 'CONNECTED'"


def test_after_a_restart_the_open_page_finds_its_server_and_its_state_again(tmp_path: Path, open_tab: OpenTab) -> None:
    port = free_port()
    with running_server(tmp_path / "cache", port) as address:
        tab = open_tab(f"{address}/heads?{TOY}&layer=1&head=3")
        expect(tab.page.get_by_text("head 3 of layer 1")).to_be_visible(timeout=PATIENCE_MS)
        tab.settle()
    expect(tab.page.get_by_text("Connection error").or_(tab.page.get_by_text("Connecting")).first).to_be_visible(
        timeout=PATIENCE_MS
    )
    with running_server(tmp_path / "cache", port):
        tab.page.wait_for_function(CONNECTED, timeout=PATIENCE_MS)
        tab.settle()
        expect(tab.page.get_by_text("head 3 of layer 1")).to_be_visible(timeout=PATIENCE_MS)
        head = tab.page.get_by_role("spinbutton", name="Head")
        head.fill("5")
        head.press("Enter")
        expect(tab.page.get_by_text("head 5 of layer 1")).to_be_visible(timeout=PATIENCE_MS)


@pytest.mark.long
def test_a_job_its_killed_server_left_behind_is_resumed(tmp_path: Path, open_tab: OpenTab) -> None:
    port = free_port()
    with server_process(tmp_path / "cache", port) as (address, process):
        tab = open_tab(f"{address}/heads?{TOY}")
        tab.settle()
        start_run(tab, n=MANY, seed=5)
        expect(tab.page.get_by_text(re.compile(r"after \d+ examples\."))).to_be_visible(timeout=PATIENCE_MS)
        process.kill()
        process.wait()
    with running_server(tmp_path / "cache", port) as address:
        tab = open_tab(f"{address}/runs?{TOY}")
        unfinished = tab.page.get_by_test_id("stExpander").filter(has_text="interrupted")
        expect(unfinished).to_be_visible(timeout=PATIENCE_MS)
        tab.page.get_by_role("button", name="Resume").click()
        expect(unfinished).to_have_count(0, timeout=PATIENCE_MS)
        tab.settle()
        tab = open_tab(f"{address}/heads?{TOY}&run=n{MANY}-seed5-zero")
        expect(tab.page.get_by_text("Ranking reliability")).to_be_visible(timeout=COMPUTING_MS)
        expect(tab.page.get_by_text(f"n = {MANY}").first).to_be_visible(timeout=PATIENCE_MS)


def test_a_job_cancelled_in_another_tab_is_said_to_be_cancelled(start_server: str, open_tab: OpenTab) -> None:
    first = open_tab(f"{start_server}/heads?{TOY}")
    first.settle()
    start_run(first, n=MANY, seed=6)
    expect(first.page.get_by_role("button", name="Cancel")).to_be_visible(timeout=PATIENCE_MS)
    other = open_tab(f"{start_server}/runs?{TOY}")
    other.page.get_by_role("button", name="Cancel").click()
    expect(first.page.get_by_text("was cancelled")).to_be_visible(timeout=PATIENCE_MS)
    expect(first.page.get_by_text("Ranking reliability")).to_be_visible(timeout=PATIENCE_MS)


def test_the_page_says_that_a_model_is_being_loaded(start_server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{start_server}/playground?{TOY}")
    # Importing torch alone takes seconds in a new server.
    expect(tab.page.get_by_text("Loading the model")).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page.get_by_text("The likeliest next token")).to_be_visible(timeout=PATIENCE_MS)
    assert tab.errors == []
