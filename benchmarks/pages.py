"""How quick the pages are: python -m benchmarks.pages [--json] [--clicks 20]

In Chromium on the machine of the server, on the shipped runs:

script_ms         per page, the time of a script run of an opened page (a rerun with nothing changed), median of several
figure_kb         per page, the largest figure as it is sent to the browser
median_ms, p95_ms from a click on a cell of the Heads grid to the painted sentence about that head; idle
busy_median_ms, busy_p95_ms    the same while the worker scores heads

The server and the browser share the cores; computing gets one thread unless CAP_VIZ_THREADS says more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from playwright.sync_api import Browser, Page, sync_playwright
from streamlit.testing.v1 import AppTest

from benchmarks.sessions import PATIENCE_MS, check_busy, start_job
from cap_viz.settings import PROJECT
from scripts.screenshot import CHROMIUM_OPTIONS, SETTLED, chromium, server

VIEWS = ("", "heads", "tasks", "prune?sparsity=50", "compare", "playground", "runs", "learn", "glossary")
BARS = {"script_ms": 150, "median_ms": 500, "busy_median_ms": 1000, "figure_kb": 200}
RERUNS = 7
# From the key "r" (Streamlit's rerun) to the end of the script, as the page itself sees it.
SCRIPT_RUN = """() => new Promise(resolve => {
  const app = document.querySelector('[data-test-script-state]');
  let started = 0;
  new MutationObserver((_, watcher) => {
    const state = app.getAttribute('data-test-script-state');
    if (state === 'running' && !started) started = performance.now();
    if (state === 'notRunning' && started) { watcher.disconnect(); resolve(performance.now() - started); }
  }).observe(app, {attributes: true, attributeFilter: ['data-test-script-state']});
  document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'r', code: 'KeyR', keyCode: 82, bubbles: true}));
})"""
CELL = """([layer, head]) => {
  const figure = document.querySelector('.js-plotly-plot'), {xaxis, yaxis} = figure._fullLayout;
  const box = figure.getBoundingClientRect();
  return [box.left + xaxis._offset + xaxis.l2p(head), box.top + yaxis._offset + yaxis.l2p(layer)];
}"""
# Armed before the click: the first paint in which the page speaks of the head.
ARM = """([layer, head]) => {
  const wanted = `head ${head} of layer ${layer}`.toLowerCase();
  window.capVizSeen = null; window.capVizClicked = null;
  const clicked = () => { window.capVizClicked = performance.now(); };
  document.addEventListener('mousedown', clicked, {once: true, capture: true});
  const look = () => {
    if (window.capVizClicked !== null && document.body.innerText.toLowerCase().includes(wanted)) {
      requestAnimationFrame(() => { window.capVizSeen = performance.now() - window.capVizClicked; });
    } else { requestAnimationFrame(look); }
  };
  requestAnimationFrame(look);
}"""


def settled(page: Page) -> None:
    page.wait_for_function(SETTLED, timeout=PATIENCE_MS)


def opened(browser: Browser, address: str, view: str) -> Page:
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{address}/{view}", timeout=PATIENCE_MS)
    page.locator("[data-testid=stMainBlockContainer] h1").first.wait_for(timeout=PATIENCE_MS)
    settled(page)
    page.wait_for_timeout(1000)
    return page


def script_ms(browser: Browser, address: str, view: str) -> int:
    page = opened(browser, address, view)
    times = []
    for _ in range(RERUNS):
        times.append(float(page.evaluate(SCRIPT_RUN)))
        page.wait_for_timeout(300)
    page.context.close()
    return round(statistics.median(times))


def largest_figure(view: str) -> int:
    """Bytes of the page's largest figure in the message that brings it."""
    name, _, query = view.partition("?")
    page = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=PATIENCE_MS / 1000)
    if name:
        page.switch_page(f"pages/{name}.py")
    page.query_params.update(dict(parse_qsl(query)))
    page.run()
    return max((len(figure.proto.spec.encode()) for figure in page.get("plotly_chart")), default=0)


def click_ms(page: Page, layer: int, head: int) -> float:
    settled(page)
    page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=PATIENCE_MS)
    page.evaluate(ARM, [layer, head])
    page.mouse.click(*page.evaluate(CELL, [layer, head]))
    page.wait_for_function("() => window.capVizSeen !== null", timeout=PATIENCE_MS)
    milliseconds = float(page.evaluate("() => window.capVizSeen"))
    page.wait_for_timeout(400)
    return milliseconds


def clicks(page: Page, n: int) -> list[float]:
    """Cells all over the grid; the first click is not counted, since it loads what the others share."""
    places = [((7 * number) % 30, (4 * number + 1) % 9) for number in range(n + 1)]
    return [click_ms(page, layer, head) for layer, head in places][1:]


def p95(values: list[float]) -> float:
    return sorted(values)[max(0, round(0.95 * len(values)) - 1)]


def measure(cache: Path, n_clicks: int) -> dict[str, Any]:
    # Here as on the server, since runs of this machine would be drawn as well.
    os.environ["CAP_VIZ_CACHE"] = str(cache)
    sizes = [largest_figure(view) for view in VIEWS]
    with server(cache) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        times = [script_ms(browser, address, view) for view in VIEWS]
        heads = opened(browser, address, "heads?task=mini_science")
        idle = clicks(heads, n_clicks)
        worker = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        start_job(worker, address)
        busy = clicks(heads, n_clicks)
        check_busy(worker)
        browser.close()
    pages = {
        view.partition("?")[0] or "overview": {"script_ms": spent, "figure_kb": round(size / 1000, 1)}
        for view, spent, size in zip(VIEWS, times, sizes, strict=True)
    }
    return {
        "script_ms": max(one["script_ms"] for one in pages.values()),
        "figure_kb": max(one["figure_kb"] for one in pages.values()),
        "median_ms": round(statistics.median(idle)),
        "p95_ms": round(p95(idle)),
        "busy_median_ms": round(statistics.median(busy)),
        "busy_p95_ms": round(p95(busy)),
        "clicks": n_clicks,
        "pages": pages,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        numbers = measure(Path(cache), options.clicks)
    print(json.dumps(numbers) if options.json else "\n".join(f"{name:16} {value}" for name, value in numbers.items()))
    return 0 if all(numbers[name] <= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
