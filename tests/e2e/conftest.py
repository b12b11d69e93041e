"""A real server on a free port and a real browser.

All tests of a worker share one cache folder, one server and one browser; `start_server` gives a test a server of its
own.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, TimeoutError, expect, sync_playwright

PROJECT = Path(__file__).resolve().parents[2]
# No network of its own, and no graphics card: drawing without one's emulation takes less time.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-gpu",
    "--disable-software-rasterizer",
)
START_SECONDS = 60
# Slow, since two cores may be shared with a job.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)
# A layout that has not moved for so long has settled.
STILL_MS = 400
# Asking at every painted frame, as Playwright does by default, keeps the page painting frames.
POLLING_MS = 50


def free_port() -> int:
    """A port below those that the system gives to outgoing connections, one of which could take it beforehand."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@contextmanager
def running_server(cache: Path, port: int | None = None) -> Iterator[str]:
    """The address of a dashboard that keeps its runs in `cache`, on a free port where none is given."""
    with server_process(cache, port or free_port()) as (address, _):
        yield address


@contextmanager
def server_process(cache: Path, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """As `running_server`, with the process, for tests that kill it."""
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}"]
    environment = {**os.environ, "CAP_VIZ_CACHE": str(cache), "CAP_VIZ_LOG": str(cache / "cap_viz.log")}
    # The browser needs a core as well: two torch threads that wait for it are slower than one that does not.
    environment.setdefault("CAP_VIZ_THREADS", "1")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "server.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address, process)
        yield address, process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)


def wait_until_healthy(address: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"The server stopped with exit code {process.returncode}.")
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"The server did not answer within {START_SECONDS} s.")


@pytest.fixture(scope="session")
def cache_folder() -> Path:
    """The session's cache (see tests/conftest.py), with the converted model once a job has run."""
    return Path(os.environ["CAP_VIZ_CACHE"])


@pytest.fixture(scope="session")
def server(cache_folder: Path) -> Iterator[str]:
    """The address of the server all tests of the session share."""
    with running_server(cache_folder) as address:
        yield address


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[str]:
    """The address of a fresh server of this test's own, with an empty cache."""
    with running_server(tmp_path / "cache") as address:
        yield address


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *QUIET])
        yield browser
        browser.close()


@dataclass
class Tab:
    """A page with what went wrong in it: console errors and failed requests, without the two 404s of deep links."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The message of a failed request does not name its address, so addresses are taken from the responses.
        self.page.on(
            "console", lambda m: self.errors.append(m.text) if m.type == "error" and "404" not in m.text else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "response", lambda r: self.errors.append(r.url) if r.status >= 400 and not tolerated(r.url) else None
        )

    def goto(self, address: str) -> None:
        self.page.goto(address)
        self.page.locator("[data-testid=stMainBlockContainer] h1").first.wait_for(timeout=PATIENCE_MS)

    def settle(self) -> None:
        """Wait until the script has run to its end and every figure is painted, and that is still so a moment later.

        On a slow machine the page can look settled between two runs of the script.
        """
        settled = False
        while not settled:
            self.page.wait_for_function(SETTLED, timeout=PATIENCE_MS, polling=POLLING_MS)
            self.page.wait_for_timeout(STILL_MS)
            settled = bool(self.page.evaluate(SETTLED_NOW))

    def use_theme(self, scheme: Literal["light", "dark"]) -> None:
        self.page.emulate_media(color_scheme=scheme)
        expect(self.page.locator(".stApp")).to_have_css("color-scheme", scheme)
        self.settle()

    def press(self, control: Locator, shown: Locator) -> None:
        """Click until `shown` is there: a click that falls into a redrawing of the control can be lost."""
        for timeout in (PATIENCE_MS / 4, PATIENCE_MS / 4, PATIENCE_MS):
            control.click()
            try:
                shown.wait_for(timeout=timeout)
                return
            except TimeoutError:
                continue
        expect(shown).to_be_visible()

    def overhang(self) -> int:
        """By how many pixels the page is wider than the window; 0 or less where it fits."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def cell(self, row: int, column: int, *, figure: int = 0) -> tuple[float, float]:
        """Where a cell of a heatmap is on the screen, once it stays there: a note above may still push it."""
        self.page.locator(".js-plotly-plot .main-svg").first.wait_for(timeout=PATIENCE_MS)
        place, before = self.page.evaluate(CELL_PLACE, [row, column, figure]), None
        while place != before:
            self.page.wait_for_timeout(STILL_MS)
            place, before = self.page.evaluate(CELL_PLACE, [row, column, figure]), place
        return float(place[0]), float(place[1])


SETTLED = """() => document.querySelector('[data-test-script-state="notRunning"]') !== null
  && ![...document.querySelectorAll('[data-testid="stPlotlyChart"]')].some(c => !c.querySelector('.main-svg'))"""
SETTLED_NOW = f"({SETTLED})()"
CELL_PLACE = """([row, column, number]) => {
  const figure = document.querySelectorAll('.js-plotly-plot')[number], {xaxis, yaxis} = figure._fullLayout;
  const box = figure.getBoundingClientRect();
  return [box.left + xaxis._offset + xaxis.l2p(column), box.top + yaxis._offset + yaxis.l2p(row)];
}"""


OpenTab = Callable[..., Tab]


@contextmanager
def opened_tab(
    browser: Browser, address: str, *, dark: bool = False, size: tuple[int, int] = (1280, 800)
) -> Iterator[Tab]:
    """A tab with cookies and storage of its own, and without animations, which take a core where there is no GPU."""
    with browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    ) as context:
        context.set_default_timeout(PATIENCE_MS)
        tab = Tab(context.new_page())
        tab.goto(address)
        yield tab


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[OpenTab]:
    """`open_tab(address, dark=False, size=(1280, 800))`: see `opened_tab`."""
    with ExitStack() as tabs:
        yield lambda address, **options: tabs.enter_context(opened_tab(browser, address, **options))


def tolerated(address: str) -> bool:
    """On a deep link Streamlit asks for these below the page's own path first."""
    return address.endswith(("/_stcore/health", "/_stcore/host-config"))
