"""Many visitors on one server: python -m benchmarks.sessions [--json] [--visitors 8] [--minutes 3]

Each visitor is a browser context of its own in Chromium. First one alone opens every view and its numbers (tiles and
tables) are noted. Then all visitors go round the views at the same time, each from another start, while one of
them has started a long job; every number must be the one seen alone.

All browsers run on the machine of the server; so computing gets one thread unless CAP_VIZ_THREADS says more.

wrong            views whose numbers differed, with both texts (must be empty)
views            views opened by all visitors together
open_p50/p95_s   from the address to numbers and figures on the screen, with all visitors at once
click_p50/p95_s  from a new layer number on the Heads page to the sentence about that head, while the job runs
cancelled_s      from Cancel to a free queue
errors           console errors and exceptions on any page, but for the two 404s of deep links
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from scripts.screenshot import CHROMIUM_OPTIONS, SETTLED, chromium, server

VIEWS = (
    "heads?task=mini_science&layer=1&head=3",
    "heads?task=arc_easy&metric=choice_nll&layer=24&head=6",
    "heads?task=strategyqa&layer=0&head=0",
    "prune?task=mini_science&criterion=cap&against=wanda&sparsity=50",
    "prune?task=arc_easy&criterion=magnitude&against=global_magnitude&sparsity=20",
    "compare?task=mini_science&measure=choice_nll",
    "runs?kind=accuracies",
    "tasks?task=mini_math&against=gsm8k",
)
# Layers clicked on in turn: none that one of the views shows from the start.
CLICKED = range(2, 22)
NUMBERS = "[data-testid=stMetric], [data-testid=stTable]"
PATIENCE_MS = 120_000
STILL_MS = 1_000


class Visitor:
    """One browser context with a page, and what went wrong in it."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.address = address
        self.page: Page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.note(said.type, said.text))

    def note(self, kind: str, text: str) -> None:
        if kind == "error" and "404" not in text:
            self.errors.append(text)

    def start(self, view: str) -> None:
        self.page.goto(f"{self.address}/{view}", wait_until="commit", timeout=PATIENCE_MS)

    def numbers(self) -> list[str]:
        """What the tiles and tables say once everything is drawn and has stayed the same for a second."""
        self.page.locator("[data-testid=stMainBlockContainer] h1").first.wait_for(timeout=PATIENCE_MS)
        seen, before = self.read(), None
        while seen != before:
            self.page.wait_for_timeout(STILL_MS)
            seen, before = self.read(), seen
        return seen

    def numbers_like(self, expected: list[str]) -> list[str]:
        """The numbers as soon as they are those expected; what is there instead after `PATIENCE_MS`."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while (seen := self.read()) != expected and time.monotonic() < end:
            self.page.wait_for_timeout(100)
        return seen

    def read(self) -> list[str]:
        self.page.wait_for_function(SETTLED, timeout=PATIENCE_MS)
        return [re.sub(r"\s+", " ", text) for text in self.page.locator(NUMBERS).all_inner_texts()]


def alone(browser: Browser, address: str) -> dict[str, list[str]]:
    visitor = Visitor(browser, address)
    seen = {}
    for view in VIEWS:
        visitor.start(view)
        seen[view] = visitor.numbers()
    visitor.page.context.close()
    return seen


def start_job(page: Page, address: str) -> None:
    """Exact scores of examples nobody has measured, so many that the one worker is busy to the end."""
    page.goto(f"{address}/heads?task=mini_science")
    page.wait_for_function(SETTLED, timeout=PATIENCE_MS)
    page.get_by_role("button", name="New run").click()
    for name, value in (("Seed of the draw", "11"), ("Examples", "64")):
        box = page.get_by_role("spinbutton", name=name, exact=True)
        box.fill(value)
        box.press("Tab")
        page.wait_for_timeout(1000)
        page.wait_for_function(SETTLED, timeout=PATIENCE_MS)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("button", name="Cancel").first).to_be_visible(timeout=PATIENCE_MS)


def check_busy(worker: Page) -> None:
    """Exit where the job is over: what was timed beside it was timed on an idle server, at least in part."""
    if not worker.get_by_role("button", name="Cancel").first.is_visible():
        raise SystemExit("The job ended before the last click beside it; start one of more examples.")


def click_seconds(page: Page, layer: int) -> float:
    """A new layer number until the page speaks of that head. Exits where it does beforehand."""
    box = page.get_by_role("spinbutton", name="Layer")
    sentence = page.get_by_text(re.compile(rf"head \d+ of layer {layer}\b"))
    if sentence.count():
        raise SystemExit(f"The page speaks of layer {layer} before it is clicked on: nothing can be timed.")
    started = time.perf_counter()
    box.fill(str(layer))
    box.press("Enter")
    sentence.first.wait_for(timeout=PATIENCE_MS)
    return time.perf_counter() - started


def together(browser: Browser, address: str, expected: dict[str, list[str]], n: int, minutes: float) -> dict[str, Any]:
    worker = Visitor(browser, address)
    start_job(worker.page, address)
    visitors = [Visitor(browser, address) for _ in range(n)]
    wrong: list[str] = []
    opened: list[float] = []
    clicks: list[float] = []
    end, turn = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < end:
        views = [VIEWS[(turn + place) % len(VIEWS)] for place in range(n)]
        started = time.perf_counter()
        for visitor, view in zip(visitors, views, strict=True):
            visitor.start(view)
        for visitor, view in zip(visitors, views, strict=True):
            numbers = visitor.numbers_like(expected[view])
            opened.append(time.perf_counter() - started)
            if numbers != expected[view]:
                wrong.append(f"{view}: {numbers} instead of {expected[view]}")
        on_heads = [visitor for visitor, view in zip(visitors, views, strict=True) if view.startswith("heads")]
        layers = [CLICKED[(turn + place) % len(CLICKED)] for place in range(len(on_heads))]
        clicks += [click_seconds(visitor.page, layer) for visitor, layer in zip(on_heads, layers, strict=True)]
        check_busy(worker.page)
        turn += 1
    visitors[0].page.context.close()  # A closed tab: the others and the job go on.
    started = time.perf_counter()
    worker.page.get_by_role("button", name="Cancel").first.click()
    worker.page.get_by_text("Queue: idle").wait_for(timeout=PATIENCE_MS)
    return {
        "wrong": wrong,
        "views": len(opened),
        "open_p50_s": round(statistics.median(opened), 2),
        "open_p95_s": round(statistics.quantiles(opened, n=20)[-1], 2),
        "click_p50_s": round(statistics.median(clicks), 2),
        "click_p95_s": round(statistics.quantiles(clicks, n=20)[-1], 2),
        "clicks": len(clicks),
        "cancelled_s": round(time.perf_counter() - started, 2),
        "errors": [error for visitor in (worker, *visitors) for error in visitor.errors],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache, server(Path(cache)) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        expected = alone(browser, address)
        found = together(browser, address, expected, options.visitors, options.minutes)
        browser.close()
    found |= {"visitors": options.visitors, "minutes": options.minutes}
    print(json.dumps(found) if options.json else "\n".join(f"{name:14} {value}" for name, value in found.items()))
    return 1 if found["wrong"] or found["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
