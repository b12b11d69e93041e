"""The command line, run in the test's own process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cap_viz.cli import main


class Shell:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def __init__(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, entry: Callable[[], None] = main
    ) -> None:
        self.capfd, self.monkeypatch, self.entry = capfd, monkeypatch, entry

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["cap_viz", *arguments])
        with pytest.raises(SystemExit) as stop:
            self.entry()
        captured = self.capfd.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    def json(self, *arguments: str) -> Any:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        assert out.count("\n") == 1, "one JSON object on stdout and nothing else"
        return json.loads(out)
