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
main()
"""


@pytest.mark.parametrize(
    "command",
    [
        ["score", "--task", "mini_science", "--n", "2"],
        ["eval", "--task", "mini_science", "--n", "2", "--criterion", "wanda", "--n-calibration", "2"],
        ["runs", "list"],
        ["doctor"],
    ],
    ids=lambda command: command[0],
)
def test_commands_need_no_dashboard(command: list[str], tiny_folder: Path) -> None:
    model = ["--model", str(tiny_folder)] if command[0] != "runs" else []
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DASHBOARD, *command, *model],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No module named" not in done.stdout + done.stderr
