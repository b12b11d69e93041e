"""Plotly figures as pictures for the documents, drawn by Chromium (the variable CHROMIUM names another one)."""

from __future__ import annotations

import io
from pathlib import Path

import plotly.graph_objects as go
from PIL import Image
from playwright.sync_api import ViewportSize, sync_playwright

from scripts.screenshot import CHROMIUM_OPTIONS, chromium

COLOURS = 256
TEXT = {"family": "DejaVu Sans, sans-serif", "size": 14}


def save_picture(figure: go.Figure, file: Path, *, width: int = 900, height: int = 420) -> None:
    """As a PNG of few colours and that size in pixels."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=CHROMIUM_OPTIONS)
        page = browser.new_page(viewport=ViewportSize(width=width, height=height))
        page.set_content(figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}))
        page.wait_for_selector(".main-svg")
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    picture.quantize(COLOURS).save(file, optimize=True)
