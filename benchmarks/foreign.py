"""Environments for tools we compare or check ourselves with: built on first use, outside the project."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def environment(listed: Path) -> Path:
    """The Python of an environment with the packages listed in a file. Exits with pip's words if that fails."""
    key = hashlib.sha256(listed.read_bytes()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cap-viz"
    folder = home / f"{listed.stem.removeprefix('requirements-')}-{key}"
    python, ready = folder / "bin" / "python", folder / ".installed"
    if not ready.is_file():
        print(f"Building {folder} (once, some minutes) …", file=sys.stderr, flush=True)
        run([sys.executable, "-m", "venv", "--clear", str(folder)])
        run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(listed)])
        ready.touch()
    return python


def run(command: list[str]) -> str:
    """What a command prints. Exits with its last words where it fails."""
    # The foreign tools must not see our packages, nor ask a hub.
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, capture_output=True, text=True, env=clean | {"HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{done.stderr[-2000:]}")
    return done.stdout
