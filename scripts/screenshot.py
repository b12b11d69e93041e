"""Take the documents' pictures from the running code and the shipped runs:  python -m scripts.screenshot

Needs Chromium (the variable CHROMIUM names another one). Starts its own server on a free port with an empty cache.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright

PROJECT = Path(__file__).resolve().parent.parent
TARGET = PROJECT / "docs" / "screenshots"
PICTURES = {
    "overview": "",
    "heads": "heads?task=mini_science",
    "tasks": "tasks?task=arc_easy&layer=24&head=6",
    "prune": "prune?task=mini_science&sparsity=20",
    "compare": "compare?task=mini_science&measure=choice_nll",
    "circuit": "circuit?task=mini_science",
    "playground": "playground",
    "runs": "runs?kind=score",
    "learn": "learn?step=4&guesses=4b",
}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# A page loads faster with small pictures, and these have few colours.
COLOURS, MOST_BYTES = 256, 150_000
# The script has run to its end and every figure is painted.
SETTLED = """() => document.querySelector('[data-test-script-state="notRunning"]') !== null
  && ![...document.querySelectorAll('[data-testid="stPlotlyChart"]')].some(c => !c.querySelector('.main-svg'))"""
# The Playground converts the model first: minutes on a slow machine.
PATIENCE_MS = 300_000
SIZE = ViewportSize(width=1280, height=800)
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(address: str) -> None:
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
                return
        except OSError:
            time.sleep(0.25)
    sys.exit("The dashboard did not start within 30 s.")


def chromium() -> str:
    """The browser to use."""
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if executable is None:
        sys.exit("This needs Chromium: apt install chromium, or CHROMIUM=/path/to/it.")
    return executable


def take(address: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        for name, path in PICTURES.items():
            for scheme in SCHEMES:
                page = browser.new_page(viewport=SIZE, color_scheme=scheme)
                page.goto(f"{address}/{path}")
                page.locator("[data-testid=stMainBlockContainer] h1").first.wait_for(timeout=PATIENCE_MS)
                page.wait_for_function(SETTLED, timeout=PATIENCE_MS)
                page.wait_for_timeout(4_000)  # Plotly and the fonts settle after the first paint.
                save(page.screenshot(), folder / f"{name}-{scheme}.png")
                page.close()
        browser.close()


def save(picture: bytes, file: Path) -> None:
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(file, optimize=True)
    if file.stat().st_size > MOST_BYTES:
        sys.exit(f"{file} has {file.stat().st_size:,} bytes, more than {MOST_BYTES:,}.")


@contextmanager
def server(cache: Path, script: Path = PROJECT / "app.py") -> Iterator[str]:
    """The address of a dashboard of our own (or another script) that keeps its runs, log and output in `cache`."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}"]
    environment = os.environ | {"CAP_VIZ_CACHE": str(cache), "CAP_VIZ_LOG": str(cache / "log")}
    # The browser on the same machine needs a core as well.
    environment.setdefault("CAP_VIZ_THREADS", "1")
    with (cache / "server.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_healthy(address)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def main() -> None:
    with tempfile.TemporaryDirectory() as cache, server(Path(cache)) as address:
        take(address, TARGET)


if __name__ == "__main__":
    main()
