"""Health report to attach to an issue: versions, machine, settings, cache. No secrets, no texts.

Secrets are reported only as set or not set; the home folder is written as `~`, so that paths contain no person's name.
"""

from __future__ import annotations

import os
import platform
import shutil
import tomllib
from collections import Counter
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from cap_viz import __version__
from cap_viz.errors import CapVizError
from cap_viz.models.catalogue import CATALOGUE, is_available
from cap_viz.models.devices import chosen_device
from cap_viz.runs.store import Store
from cap_viz.settings import (
    IS_CHECKOUT,
    PACKAGE,
    PROJECT,
    data_folder,
    local_folder,
    log_file,
    reported,
    requested_dtype,
)
from cap_viz.tasks import all_tasks

PACKAGES = (
    "torch",
    "transformers",
    "transformer-lens",
    "datasets",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "streamlit",
    "plotly",
    "safetensors",
    "gguf",
)

Section = dict[str, str]


def report(store: Store) -> dict[str, Section]:
    """Return all facts by section; reading all shipped and local runs takes a second or two."""
    return {
        "versions": versions(),
        "machine": machine(),
        "settings": settings(),
        "cache": cache(store),
        "models": {entry.id: "installed" if is_available(entry) else entry.install for entry in CATALOGUE.values()},
        "tasks": {
            name: "on this machine" if task.is_local() else "to be downloaded" for name, task in all_tasks().items()
        },
    }


def versions() -> Section:
    found = {"cap_viz": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def installation_problems() -> list[str]:
    """Return a sentence for each dependency outside the tested range, and for a second CAP Viz on this machine."""
    said = [sentence for one in requirements() if (sentence := mismatch(one))]
    try:
        other = version("cap-viz")
    except PackageNotFoundError:
        return said
    if other != __version__:
        said.append(
            f"CAP Viz {__version__} of {from_home(PACKAGE)} is in use, while {other} is installed: "
            "pip uninstall cap-viz, or leave this folder."
        )
    return said


def requirements() -> list[Requirement]:
    """Return the direct dependencies with their tested ranges, of the checkout or of the installed package."""
    if IS_CHECKOUT:
        found = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        found = requires("cap-viz") or []
    every = [Requirement(one) for one in found]
    return [one for one in every if one.marker is None or one.marker.evaluate({"extra": ""})]


def mismatch(wanted: Requirement) -> str:
    """Say that a dependency is missing or not of the tested range; empty if it fits."""
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is not installed: pip install '{wanted}'"
    if wanted.specifier.contains(found, prereleases=True):
        return ""
    return f"{wanted.name} {found} is not of the tested range {wanted.specifier}: pip install '{wanted}'"


def machine() -> Section:
    memory = psutil.virtual_memory()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "memory": f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free",
        "device": device(),
    }


def device() -> str:
    """Name the device and precision models will use and the reason, or say why they cannot be used."""
    try:
        chosen = chosen_device()
    except CapVizError as error:
        return str(error)
    return f"{chosen.name}, {requested_dtype()}: {chosen.reason}"


def settings() -> Section:
    data = data_folder()
    return {name: without_home(value) for name, value in reported().items()} | {
        "data": "not set" if data is None else from_home(data),
        "cache": from_home(local_folder()),
        "log": from_home(log_file()),
    }


def cache(store: Store) -> Section:
    """Count runs by origin, check their files against the checksums, and report free space and write access."""
    counts = Counter(run.origin for run in store.runs())
    return {
        "shipped runs": str(counts["precomputed"]),
        "runs of this machine": str(counts["live"]),
        "damaged": "; ".join(map(without_home, store.damaged())) or "none",
        "free space": free_space(local_folder()),
        "writable": writable(local_folder()),
    }


def free_space(folder: Path) -> str:
    return f"{shutil.disk_usage(existing(folder)).free / 2**30:.1f} GiB"


def writable(folder: Path) -> str:
    return "yes" if os.access(existing(folder), os.W_OK) else "no"


def existing(folder: Path) -> Path:
    """Return the folder, or its nearest existing ancestor."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def from_home(path: Path) -> str:
    return without_home(str(path.absolute()))


def without_home(text: str) -> str:
    return text.replace(str(Path.home()), "~")
