"""Unfinished runs: how each one stopped, kept beside its parts, and how to discard them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from cap_viz.files import write_json
from cap_viz.runs.checkpoints import Checkpoints
from cap_viz.runs.jobs import sentence
from cap_viz.runs.spec import RunSpec
from cap_viz.runs.store import Store, lock_file
from cap_viz.validation import from_json

ENDING = "ending.json"


@dataclass(frozen=True)
class Ending:
    """How a run stopped: its program ended before it did, somebody cancelled it, or it failed for a reason."""

    state: Literal["interrupted", "cancelled", "failed"] = "interrupted"
    reason: str = ""


def keep_ending(checkpoints: Checkpoints, error: BaseException) -> None:
    """Write down why a run stops; where it has neither a plan nor parts to go on from, leave nothing behind."""
    if not checkpoints.has_begun:
        checkpoints.discard()
        return
    if isinstance(error, GeneratorExit):
        ending = Ending("cancelled")
    elif isinstance(error, Exception):
        ending = Ending("failed", sentence(error))
    else:  # Ctrl-C: the whole program ends.
        return
    with suppress(OSError):  # The disk may be full: the error itself says so.
        write_json(checkpoints.folder / ENDING, asdict(ending))


def forget_ending(partial_run_dir: Path) -> None:
    """Call it when the run goes on: a program that then dies can write nothing."""
    (partial_run_dir / ENDING).unlink(missing_ok=True)


def ending_of(store: Store, spec: RunSpec) -> Ending:
    """Return how an unfinished run stopped."""
    try:
        return from_json(Ending, (store.partial_run_dir(spec) / ENDING).read_bytes())
    except (OSError, ValueError):
        return Ending()


def stopped(store: Store) -> list[RunSpec]:
    """List the unfinished runs that no process is computing now, oldest first."""
    return [spec for spec in store.unfinished() if is_free(lock_file(store.partial_run_dir(spec)))]


def discard(store: Store, spec: RunSpec) -> None:
    """Remove the parts of an unfinished run, or of a finished one whose process died before it removed them.

    Nothing happens while some process computes the run, or in a read-only cache.
    """
    checkpoints = Checkpoints(store.partial_run_dir(spec), spec.examples.ids)
    if checkpoints.folder.is_dir():
        lock = FileLock(lock_file(checkpoints.folder))
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            checkpoints.discard()


def is_free(file: Path) -> bool:
    """Whether no live process holds the lock; the system releases the locks of dead ones."""
    if not file.exists():
        return True
    try:
        with FileLock(file, timeout=0):
            return True
    except Timeout:
        return False
