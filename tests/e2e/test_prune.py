"""The Prune page in a real browser, on the real model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect

from cap_viz.dashboard.prune.controls import DEFAULT_PERCENT
from cap_viz.models.catalogue import DEFAULT_MODEL, resolve
from cap_viz.models.loading import load
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_queries import model_ref, score_runs
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.tasks.example_sets import evaluation_set
from studies.shipped import SHIPMENTS
from tests.e2e.conftest import PATIENCE_MS, OpenTab, Tab, opened_tab

pytestmark = pytest.mark.e2e

TASK = "mini_science"
SMALLEST = 100
N_SHIPPED = max(one.n_evaluation for one in SHIPMENTS if one.task == TASK)
SHIPPED = f"/prune?n={N_SHIPPED}"
COMPUTING_MS = 240_000


def numbers(page: Page) -> list[str]:
    """The accuracies on the tiles: dense, first criterion, second criterion."""
    tiles = page.get_by_test_id("stMetricValue")
    expect(tiles).to_have_count(3, timeout=PATIENCE_MS)
    return tiles.all_inner_texts()


def measure(page: Page) -> None:
    page.get_by_role("button", name="Measure at").click()


def expect_quiet(page: Page) -> None:
    """No job is under way, also none that stops at its next step."""
    expect(page.get_by_role("button", name=re.compile("Cancel|Stopping"))).to_have_count(0, timeout=COMPUTING_MS)


def test_a_deep_link_to_a_fresh_server_shows_its_state(start_server: str, open_tab: OpenTab) -> None:
    link = f"{start_server}/prune?sparsity=50&against=global_magnitude&kv=max"
    tab = open_tab(link)
    page = tab.page
    expect(page.get_by_role("slider")).to_have_value("50", timeout=PATIENCE_MS)
    expect(page.get_by_test_id("stTable").first).to_contain_text("Global magnitude", timeout=PATIENCE_MS)
    assert "sparsity=50" in page.url
    assert "against=global_magnitude" in page.url
    assert not tab.errors


@pytest.fixture(scope="module")
def shown(browser: Browser, server: str) -> Iterator[Tab]:
    """The shipped accuracies, for tests that leave the page as it is."""
    with opened_tab(browser, f"{server}{SHIPPED}") as tab:
        tab.settle()
        yield tab


def test_shipped_accuracies_are_there_at_once(shown: Tab) -> None:
    store = Store()
    ref = model_ref(store, DEFAULT_MODEL)
    expected = []
    for criterion in (None, "cap", "wanda"):
        mask = None if criterion is None else mask_spec_for(ref, criterion, DEFAULT_PERCENT / 100, task=TASK, n=48)
        run = store.get(EvalSpec(model=ref, examples=evaluation_set(TASK, N_SHIPPED), mask=mask))
        assert run is not None
        expected.append(f"{100 * load_report(store, run).acc:.1f} %")
    assert numbers(shown.page) == expected
    assert not shown.errors


def test_every_item_of_every_model_is_in_the_file(shown: Tab, tmp_path: Path) -> None:
    shown.page.get_by_role("button", name="Share").click()
    with shown.page.expect_download() as download:
        shown.page.get_by_role("button", name="Items (CSV)").click()
    shown.page.keyboard.press("Escape")
    target = tmp_path / "items.csv"
    download.value.save_as(target)
    table = pd.read_csv(target)
    assert set(table["model"]) == {"Dense", "CAP", "Wanda"}
    assert len(table) == 3 * N_SHIPPED
    assert table["prompt"].str.startswith("Question: ").all()
    assert not shown.errors


@pytest.mark.timeout(600)
def test_live_accuracies_are_what_the_library_computes(server: str, open_tab: OpenTab, cache_folder: Path) -> None:
    # Shipped are other sparsities: those would be read, not computed.
    sparsity = 33
    tab = open_tab(f"{server}/prune?n={SMALLEST}&against=magnitude&sparsity={sparsity}")
    page = tab.page
    measure(page)
    expect(page.get_by_text(re.compile(rf"\d+ of {SMALLEST} so far")).first).to_be_visible(timeout=COMPUTING_MS)
    expect_quiet(page)
    tab.settle()
    store = Store(local=cache_folder)
    ref = model_ref(store, DEFAULT_MODEL)
    scores = score_runs(store.runs(), ref, TASK)[0].spec
    assert isinstance(scores, ScoreSpec)
    model = load(resolve(DEFAULT_MODEL))
    expected = []
    for criterion in (None, "cap", "magnitude"):
        mask = None
        if criterion is not None:
            mask = mask_spec_for(ref, criterion, sparsity / 100, task=TASK, n=48, scores=scores)
        spec = EvalSpec(model=ref, examples=evaluation_set(TASK, SMALLEST), mask=mask)
        # The first items of the shipped dense run need no measuring.
        assert mask is None or store.get(spec) is not None, "the page has measured exactly this"
        expected.append(f"{100 * load_report(store, finish(run_steps(spec, model, store))).acc:.1f} %")
    assert numbers(page) == expected
    assert not tab.errors


def test_measuring_can_be_cancelled_and_sessions_keep_their_own_numbers(server: str, open_tab: OpenTab) -> None:
    first, second = (open_tab(f"{server}{SHIPPED}&sparsity={percent}") for percent in (20, 61))
    second.settle()
    first.settle()
    theirs = numbers(first.page)
    assert numbers(second.page)[1:] == ["–", "–"]
    measure(second.page)
    cancel = second.page.get_by_role("button", name="Cancel", exact=True)
    expect(cancel).to_have_count(2, timeout=PATIENCE_MS)
    # Tiles and figure are still taking their places when the buttons appear; a click must not miss them.
    second.settle()
    second.page.get_by_role("button", name="Cancel all").click()
    # A job that was computing goes on to its next step.
    expect_quiet(second.page)
    expect(second.page.get_by_text(re.compile("cancelled"))).to_be_visible(timeout=PATIENCE_MS)
    second.page.get_by_role("button", name="Discard").click()
    expect(second.page.get_by_role("button", name="Measure at")).to_be_visible(timeout=PATIENCE_MS)
    expect(second.page.get_by_text(re.compile("cancelled"))).to_have_count(0, timeout=PATIENCE_MS)
    second.settle()
    assert numbers(second.page)[1:] == ["–", "–"]
    assert numbers(first.page) == theirs
    assert "–" not in theirs


def test_moving_the_slider_marks_the_result_stale(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}{SHIPPED}")
    page = tab.page
    tab.settle()
    before = numbers(page)
    slider = page.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    expect(page.get_by_text(re.compile(r"\b20 %.*\b21 %")).first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.get_by_text("stale", exact=True).first).to_be_visible()
    assert numbers(page) == before
    page.get_by_role("button", name="50 %", exact=True).click()
    expect(slider).to_have_value("50", timeout=PATIENCE_MS)
    expect(page.get_by_text("stale", exact=True)).to_have_count(0)
    assert "sparsity=50" in page.url


def test_a_text_task_says_that_it_has_no_accuracy(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(f"{server}/prune?task=mini_text&criterion=global_magnitude")
    expect(tab.page.get_by_text(re.compile(r"^Mini text\b.*\baccuracy$"))).to_be_visible(timeout=PATIENCE_MS)
    expect(tab.page.get_by_role("button", name="Measure at")).to_have_count(0)
    tab.settle()
    tab.page.get_by_role("button", name="Mini science").click()
    expect(
        tab.page.get_by_role("button", name="Measure at").or_(tab.page.get_by_test_id("stMetricValue").first)
    ).to_be_visible(timeout=PATIENCE_MS)
    assert not tab.errors


@pytest.mark.timeout(600)
def test_the_models_write_answers_side_by_side(server: str, open_tab: OpenTab) -> None:
    tab = open_tab(
        f"{server}/prune?model=toy-reasoner&task=toy_math&written=16&criterion=magnitude&against=global_magnitude"
    )
    page = tab.page
    page.get_by_role("button", name="Let them write").click()
    expect(page.get_by_test_id("stTable").last).to_contain_text("points", timeout=COMPUTING_MS)
    expect(page.get_by_text(re.compile(r"answer found in \d+ %"))).to_have_count(3, timeout=COMPUTING_MS)
    expect(page.get_by_role("button", name="Let them write")).to_have_count(0)
    assert "written=16" in page.url
    assert not tab.errors


def test_a_picked_row_is_in_the_address_and_a_link_to_it_shows_it(server: str, open_tab: OpenTab) -> None:
    """Detail, filter and picked question were in no link."""
    tab = open_tab(f"{server}{SHIPPED}")
    page = tab.page
    tab.settle()
    page.get_by_role("button", name="See them").click()
    expect(page).to_have_url(re.compile(r"flips=apart"), timeout=PATIENCE_MS)
    expect(page.get_by_text("Questions whose answer changes")).to_be_in_viewport(timeout=PATIENCE_MS)
    tab.settle()
    grid = page.get_by_test_id("stDataFrame").first
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    assert box is not None
    # The box to tick of the first row, below the header.
    page.mouse.click(box["x"] + 18, box["y"] + 52)
    expect(page).to_have_url(re.compile(r"item=\w"), timeout=PATIENCE_MS)
    prompt = page.get_by_test_id("stCode").first
    expect(prompt).to_contain_text("Question: ", timeout=PATIENCE_MS)
    page.get_by_role("radio", name="Matrices").click()
    expect(page).to_have_url(re.compile(r"detail=matrices"), timeout=PATIENCE_MS)
    other = open_tab(page.url)
    other.settle()
    expect(other.page.get_by_test_id("stCode").first).to_have_text(prompt.inner_text(), timeout=PATIENCE_MS)
    assert not tab.errors
    assert not other.errors


def test_costs_come_first_on_a_phone(server: str, open_tab: OpenTab) -> None:
    narrow = open_tab(f"{server}{SHIPPED}", size=(390, 844))
    narrow.settle()
    places = [
        narrow.page.get_by_text(text, exact=True).first.bounding_box() for text in ("See them", "Where the zeros are")
    ]
    assert places[0] is not None
    assert places[1] is not None
    assert places[0]["y"] < places[1]["y"]


@pytest.mark.timeout(600)
def test_the_pruned_model_is_exported(server: str, open_tab: OpenTab, cache_folder: Path) -> None:
    tab = open_tab(f"{server}/prune?model=toy-reasoner&task=toy_math&sparsity=50")
    page = tab.page
    page.get_by_role("button", name="Export the pruned model").click()
    page.get_by_role("button", name=re.compile(r"^CAP at 50 % \(\d+ MiB\)")).click()
    expect(page.get_by_text(re.compile("from_pretrained"))).to_be_visible(timeout=COMPUTING_MS)
    (folder,) = (cache_folder / "exports").glob("toy-reasoner-cap-50-*")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        file.name for file in folder.iterdir()
    }
    assert not tab.errors
