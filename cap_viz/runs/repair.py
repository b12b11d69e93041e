"""Repair of the local store after crashes: set damaged runs aside and remove left-over files of dead processes.

Nothing of use is deleted: damaged runs move to the quarantine with the reason, and unfinished runs that can be resumed
stay. Removed are half-written folders unchanged for an hour, partial folders of runs that cannot be resumed (finished,
or without a readable spec), and old lock files no process holds.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cap_viz.runs.store import Store, lock_file
from cap_viz.runs.unfinished import is_free

# Ample, since a process writes a run's folder within seconds.
ABANDONED_SECONDS = 3600.0


@dataclass(frozen=True)
class Repaired:
    """Reasons of the damaged runs set aside, and names of the removed files and folders."""

    set_aside: tuple[str, ...]
    removed: tuple[str, ...]


def repair(store: Store) -> Repaired:
    """Check every local run against its checksums and clean up.

    Raises `CapVizError` or `OSError` where the cache is read-only.
    """
    aside, removed = store.set_aside_damaged(), []
    for path in leftovers(store):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        removed.append(path.name)
    return Repaired(tuple(aside), tuple(removed))


def leftovers(store: Store) -> Iterator[Path]:
    """Yield what dead processes left behind; the caller removes each before it asks for the next."""
    # Folders that a process began to write, import or delete.
    for folder in sorted(store.local.glob(".*/")):
        if time.time() - newest_change(folder) > ABANDONED_SECONDS:
            yield folder
    # Partial folders of runs finished meanwhile or without a readable spec.
    resumable = {store.partial_run_dir(spec) for spec in store.unfinished()}
    for folder in sorted(store.partial_runs_dir.glob("*/")):
        if folder not in resumable and is_free(lock_file(folder)):
            yield folder
    # Old lock files of runs that are not being computed and have no partial folder.
    for file in sorted(store.partial_runs_dir.glob("*.lock")):
        old = time.time() - file.stat().st_mtime > ABANDONED_SECONDS
        if old and not file.with_suffix("").is_dir() and is_free(file):
            yield file


def newest_change(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
