"""Take the README's pictures from the running code and the shipped runs:  python -m scripts.screenshot

Needs Chromium (the variable CHROMIUM names another one). Starts its own server on a free port with an empty cache.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import ViewportSize, sync_playwright

PROJECT = Path(__file__).resolve().parent.parent
TARGET = PROJECT / "docs" / "images"
PICTURES = {"heads": "heads?task=mini_science", "overview": "", "prune": "prune?task=mini_science&sparsity=20"}
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


def take(address: str, folder: Path) -> None:
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if executable is None:
        sys.exit("Screenshots need Chromium: apt install chromium, or CHROMIUM=/path/to/it.")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_OPTIONS)
        for name, path in PICTURES.items():
            page = browser.new_page(viewport=SIZE, device_scale_factor=1.5, color_scheme="light")
            page.goto(f"{address}/{path}")
            page.locator(".js-plotly-plot").first.wait_for(timeout=60_000)
            page.wait_for_timeout(4_000)  # Plotly and the fonts settle after the first paint.
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()


def main() -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}"]
        server = subprocess.Popen(command, cwd=PROJECT, env=os.environ | {"CAP_VIZ_CACHE": cache})
        try:
            wait_until_healthy(address)
            take(address, TARGET)
        finally:
            server.terminate()
            server.wait(timeout=20)


if __name__ == "__main__":
    main()
