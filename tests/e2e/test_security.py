"""The server as a stranger meets it, and somebody else's texts on its pages: neither gets anything run."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import expect

from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import load
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.tasks import TASKS
from cap_viz.tasks.example_sets import calibration_set
from cap_viz.tasks.own import add_task, remove_task
from tests.e2e.conftest import PATIENCE_MS, OpenTab
from tests.tiny import write_tiny_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

HOSTILE = (
    '<img src=x onerror="window.capVizHacked=1"> <script>window.capVizHacked=2</script> '
    "[a link](javascript:window.capVizHacked=3) **bold** :red[colour] $x^2$ Which?"
)


def handshake(server: str, *, host: str, origin: str) -> int:
    """The status of a WebSocket handshake with the server's data stream, asked for under any name."""
    address = urlsplit(server)
    assert address.hostname is not None
    lines = [
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        f"Origin: {origin}",
    ]
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = connection.recv(1024).decode("latin-1")
    return int(answer.split()[1])


def test_its_own_page_may_connect(server: str) -> None:
    name = urlsplit(server).netloc
    assert handshake(server, host=name, origin=f"http://{name}") == 101


@pytest.mark.parametrize("name", ["evil.example", "evil.example:8501", "127.0.0.1.evil.example"])
def test_a_foreign_name_is_refused(server: str, name: str) -> None:
    """DNS rebinding: the attacker's page is reached under the attacker's name, which now leads to this machine."""
    assert handshake(server, host=name, origin=f"http://{name}") >= 400


def test_a_foreign_origin_is_refused(server: str) -> None:
    assert handshake(server, host=urlsplit(server).netloc, origin="http://evil.example") >= 400


@pytest.fixture
def hostile_task(cache_folder: Path, tmp_path: Path) -> Iterator[str]:
    """A task of one's own, in the server's cache, whose questions and options try to become part of the page."""
    rows = [
        {"question": f"{HOSTILE} ({number})", "options": [f"<b>one</b> {number}", "`two` <i>x</i>"], "gold": 0}
        for number in range(4)
    ]
    file = tmp_path / "hostile_texts.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    name = add_task(file, tuple(TASKS)).name
    yield name
    remove_task(name)


def test_hostile_texts_are_shown_as_text(server: str, open_tab: OpenTab, hostile_task: str, tmp_path: Path) -> None:
    model = load(resolve(str(write_tiny_model(tmp_path / "tiny"))))
    finish(run_steps(ScoreSpec(model.ref, calibration_set(hostile_task, 1)), model, Store()))
    tab = open_tab(f"{server}/heads?model={quote(model.ref.id)}&task={hostile_task}")
    expect(tab.page.get_by_text("1 example: too few").first).to_be_visible(timeout=PATIENCE_MS)
    tab.settle()
    main = tab.page.get_by_test_id("stMain")
    expect(main).to_contain_text('<img src=x onerror="window.capVizHacked=1">')
    expect(main).to_contain_text("**bold** :red[colour] $x^2$ Which?")
    expect(main).to_contain_text("<b>one</b>")
    assert tab.page.evaluate("window.capVizHacked") is None
    assert main.locator('img[src="x"], a[href^="javascript"]').count() == 0
    # The page has a script of its own.
    scripts = main.locator("script").evaluate_all("all => all.map(one => one.textContent)")
    assert not [one for one in scripts if "capVizHacked" in one]
