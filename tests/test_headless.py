"""The shell on a server without the dashboard's libraries: everything but the pages works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cap_viz.settings import PROJECT

WITHOUT_DASHBOARD = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("streamlit", "plotly", "playwright"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from cap_viz.cli import main

folder, *lines = sys.argv[1:]
codes = []
for line in lines:
    sys.argv = ["cap_viz", *line.replace("MODEL", f"--model {folder}").split()]
    try:
        main()
    except SystemExit as stop:
        codes.append(stop.code or 0)
print("codes", codes)
"""
COMMANDS = (
    "runs list",
    "score MODEL --task mini_science --n 2",
    "eval MODEL --task mini_science --n 2 --criterion wanda --n-calibration 2",
    "doctor MODEL",
)


@pytest.mark.slow
def test_commands_need_no_dashboard(tiny_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DASHBOARD, str(tiny_folder), *COMMANDS],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("codes [0, 0, 0, 0]\n"), done.stdout + done.stderr
    assert "No module named" not in done.stdout + done.stderr
