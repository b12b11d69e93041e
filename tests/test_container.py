"""The Dockerfile, without an engine to build it: its files exist, it does not run as root, its health check works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from cap_viz.settings import PROJECT


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instruction and arguments, without comments."""
    text = (PROJECT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def all_of(steps: list[tuple[str, str]], name: str) -> list[str]:
    return [arguments for instruction, arguments in steps if instruction == name]


def test_it_is_of_the_python_the_pins_are_made_for(steps: list[tuple[str, str]]) -> None:
    (base,) = all_of(steps, "FROM")
    assert re.fullmatch(r"python:3\.11-slim-\w+", base), "a named release, not latest"


def test_it_does_not_run_as_root_and_keeps_what_it_computes(steps: list[tuple[str, str]]) -> None:
    names = [instruction for instruction, _ in steps]
    assert all_of(steps, "USER") == ["1000"]
    assert names.index("USER") < names.index("COPY") < names.index("CMD")
    (volume,) = all_of(steps, "VOLUME")
    assert f"CAP_VIZ_CACHE={volume}" in " ".join(all_of(steps, "ENV"))


def test_every_file_it_copies_is_there_and_not_ignored(steps: list[tuple[str, str]]) -> None:
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    for arguments in all_of(steps, "COPY"):
        for name in [word for word in arguments.split() if not word.startswith("--")][:-1]:
            assert (PROJECT / name).exists()
            assert name not in ignored
    for needed in ("app.py", "pages", "cap_viz", "scripts", "cache", ".streamlit"):
        assert needed not in ignored
    assert {".git", ".venv", "cache/local"} <= set(ignored)


def test_its_commands_are_those_of_make_run(steps: list[tuple[str, str]]) -> None:
    assert "sh scripts/setup.sh app" in all_of(steps, "RUN")
    (command,) = all_of(steps, "CMD")
    program = " ".join(json.loads(command)[1:4])
    assert f"$(PY) {program} --host" in (PROJECT / "Makefile").read_text(encoding="utf-8")


class Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/_stcore/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Not on the tests' stderr."""


@pytest.fixture
def server() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Health) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port
        serving.shutdown()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_tells_a_server_that_answers_from_one_that_does_not(
    steps: list[tuple[str, str]], server: int, monkeypatch: pytest.MonkeyPatch, status: int, healthy: bool
) -> None:
    monkeypatch.setattr(Health, "status", status)
    (check,) = all_of(steps, "HEALTHCHECK")
    code = json.loads(check[check.index("[") :])[-1].replace("8501", str(server))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=30)
    assert (done.returncode == 0) is healthy


def test_the_health_check_asks_the_port_that_is_served(steps: list[tuple[str, str]]) -> None:
    (check,) = all_of(steps, "HEALTHCHECK")
    (command,) = all_of(steps, "CMD")
    assert json.loads(command)[-2:] == ["--port", "8501"]
    assert ":8501/" in check
    assert all_of(steps, "EXPOSE") == ["8501"]
