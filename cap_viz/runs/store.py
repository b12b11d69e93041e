"""Store of finished runs, found by the hash of their spec: folders of one run each, and packs of many.

Shipped runs (tracked in git) are a pack, which is only read; local ones are written by the app, a folder
`<kind>-<model>-<task>-<key>/` each. A run that fails its checks is neither used nor deleted. Reading moves nothing: a
damaged run stays in place, and `damaged` lists it, until it is computed again or `runs repair` is called; it then moves
to the quarantine, with the reason beside it.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pandas as pd

from cap_viz.errors import CapVizError, UsageError
from cap_viz.files import write_bytes
from cap_viz.runs.pack import INDEX, Pack, open_pack
from cap_viz.runs.pack_writer import write_pack
from cap_viz.runs.run_folder import MANIFEST, open_run, run_files
from cap_viz.runs.spec import RunSpec, spec_from_dict, spec_key, stem_of
from cap_viz.runs.stored_run import DamagedRun, JustSaved, Spec, StoredRun
from cap_viz.settings import local_folder, shipped_folder
from cap_viz.validation import from_json

# The spec of an unfinished run, beside its parts.
SPEC = "spec.json"
# Why a run was set aside, in its folder in the quarantine.
REASON = "reason.txt"
SHIPPED_REMEDY = "It came with CAP Viz: restore it with git restore cache/shipped, or install CAP Viz again."
LOCAL_REMEDY = "Start the run again, or set it aside on the Runs page or with python -m cap_viz runs repair."
PACK_REMEDY = "Import the pack again, or set it aside with python -m cap_viz runs repair."

log = logging.getLogger(__name__)


class Store:
    """Runs in a shipped (read-only) and a local folder, either packed or a folder each."""

    def __init__(self, shipped: Path | None = None, local: Path | None = None) -> None:
        self.shipped = shipped_folder() if shipped is None else shipped
        self.local = (local_folder() if local is None else local) / "runs"
        self.quarantine = self.local.parent / "quarantine"
        # Packs of others, imported whole.
        self.packs_dir = self.local.parent / "packs"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and (self.shipped, self.local) == (other.shipped, other.local)

    def __hash__(self) -> int:
        return hash((self.shipped, self.local))

    def runs(self) -> list[StoredRun]:
        """List all runs with a sound manifest, newest first; a shipped run hides a local copy."""
        found: dict[str, StoredRun] = {}
        for run in self.every():
            found.setdefault(run.key, run)
        return sorted(found.values(), key=lambda run: run.created, reverse=True)

    def every(self) -> Iterator[StoredRun]:
        """Yield all readable runs, copies included: shipped ones first, then local folders, then imported packs."""
        shipped, imported = self.packs()
        for pack in shipped:
            yield from pack.runs.values()
        for folder in self.folders():
            with suppress(DamagedRun):
                yield self.open(folder)
        for pack in imported:
            yield from pack.runs.values()

    def get(self, spec: Spec) -> StoredRun[Spec] | None:
        """Find the stored run of exactly this spec with a sound manifest, shipped before local; else None."""
        name = folder_name(spec)
        # Ends in the key, which takes a moment to compute.
        key = name.rpartition("-")[2]
        shipped, imported = self.packs()
        in_packs = [[pack.runs[key] for pack in packs if key in pack.runs] for packs in (shipped, imported)]
        folders = [root / name for root in (self.shipped, self.local) if (root / name).is_dir()]
        for found in (*in_packs[0], *folders, *in_packs[1]):
            with suppress(DamagedRun):
                run = self.open(found) if isinstance(found, Path) else found
                if run.spec == spec:
                    return cast(StoredRun[Spec], run)
        return None

    def sound(self, spec: Spec) -> StoredRun[Spec] | None:
        """Find the stored run of exactly this spec and check all its tables; None where it must be computed (again).

        Raises `DamagedRun` for a damaged shipped run, since it would hide a newly computed one.
        """
        run = self.get(spec)
        if run is None:
            return None
        if run.origin == "live":
            return run if self.is_sound(run) else None
        self.verify(run)
        return run

    def like(self, spec: Spec) -> Iterator[StoredRun[Spec]]:
        """Yield the readable runs that are the same as the spec, whatever their example ids."""
        shipped, imported = self.packs()
        for pack in (*shipped, *imported):
            for run in pack.like(spec):
                with suppress(DamagedRun):
                    if isinstance(run.spec, type(spec)):
                        yield cast(StoredRun[Spec], run)
        stem, beginning = stem_of(spec), folder_name(spec).rpartition("-")[0]
        for root in (self.shipped, self.local):
            for folder in sorted(root.glob(f"{beginning}-*/")):
                with suppress(DamagedRun):
                    run = self.open(folder)
                    if stem_of(run.spec) == stem:
                        yield cast(StoredRun[Spec], run)

    def packs(self) -> tuple[list[Pack], list[Pack]]:
        """Open the shipped pack, and the imported ones; those that cannot be read are left out."""
        found: tuple[list[Pack], list[Pack]] = [], []
        for folder in (self.shipped, *self.pack_folders()):
            with suppress(DamagedRun):
                if (pack := open_pack(folder, *self.status(folder))) is not None:
                    found[folder != self.shipped].append(pack)
        return found

    def pack_folders(self) -> list[Path]:
        """List the folders of imported packs."""
        return sorted(self.packs_dir.glob("[!.]*/"))

    def folders(self) -> Iterator[Path]:
        """Yield the folders of single runs, sound or not, shipped ones first."""
        for root in (self.shipped, self.local):
            # A leading dot marks a run that some process is writing, importing or deleting.
            yield from sorted(root.glob("[!.]*/"))

    def stamps(self) -> Iterator[tuple[str, int]]:
        """Yield files and times that change when a run is added, replaced or removed."""
        manifests = (folder / MANIFEST for folder in self.folders())
        for file in (*(folder / INDEX for folder in (self.shipped, *self.pack_folders())), *manifests):
            with suppress(FileNotFoundError):  # No pack, or a run that another process has just deleted.
                yield str(file), file.stat().st_mtime_ns

    def status(self, folder: Path) -> tuple[str, str]:
        """Origin of the runs in a folder, and the remedy for damage there."""
        if self.shipped in (folder, *folder.parents):
            return "precomputed", SHIPPED_REMEDY
        if folder.parent == self.packs_dir:
            return "live", PACK_REMEDY
        return "live", LOCAL_REMEDY if self.is_local(folder) else ""

    def is_local(self, folder: Path) -> bool:
        """Whether a folder holds a local run."""
        return folder.parent == self.local

    def open(self, folder: Path) -> StoredRun:
        """Read and check a run's manifest. Raises `DamagedRun`, which names the run and the reason."""
        return open_run(folder, *self.status(folder))

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        """Read a table of a run and verify its values. Raises `DamagedRun`."""
        return run.form.table(run, name)

    def verify(self, run: StoredRun) -> None:
        """Check every table of a run. Raises `DamagedRun`."""
        run.form.verify(run)

    def is_sound(self, run: StoredRun) -> bool:
        try:
            self.verify(run)
        except DamagedRun:
            return False
        return True

    def damaged(self) -> list[str]:
        """Report one sentence per run in quarantine and per damaged run still in place; all tables are checked."""
        return [*self.in_quarantine(), *dict.fromkeys(map(str, self.damaged_in_place().values()))]

    def in_quarantine(self) -> list[str]:
        """Report one sentence per run in quarantine."""
        return [f"{reason_of(folder)} It was set aside." for folder in sorted(self.quarantine.glob("*/"))]

    def damaged_in_place(self) -> dict[Path, DamagedRun]:
        """Check all tables of shipped and local runs; return the damage by folder, in a pack by folder and run."""
        found: dict[Path, DamagedRun] = {}
        for folder in (self.shipped, *self.pack_folders()):
            try:
                pack = open_pack(folder, *self.status(folder))
            except DamagedRun as error:
                found[folder] = error
                continue
            if pack is not None:
                found |= {folder / pack.titles[key]: error for key, error in pack.damaged().items()}
        for folder in self.folders():
            try:
                self.verify(self.open(folder))
            except DamagedRun as error:
                if folder.is_dir():  # Otherwise another process has deleted it or set it aside.
                    found[folder] = error
        return found

    def by_key(self, key: str) -> StoredRun:
        """Find the run with a key that starts with `key`. Raises `CapVizError` unless there is exactly one."""
        found = [run for run in self.runs() if run.key.startswith(key)]
        if not found:
            raise UsageError(f"There is no stored run with a key that starts with {key!r}; `runs list` shows them.")
        if len(found) > 1:
            raise UsageError(f"{len(found)} stored runs have a key that starts with {key!r}; give more of it.")
        return found[0]

    def save(self, spec: Spec, tables: dict[str, pd.DataFrame], provenance: dict[str, Any]) -> StoredRun[Spec]:
        """Write a finished run: tables first, manifest last, then one rename into place.

        The run that is returned still has its tables in memory.
        """
        title = folder_name(spec)
        building = self.local / f".{title}.building"
        shutil.rmtree(building, ignore_errors=True)
        made = {**provenance, "created": now()}
        for name, content in run_files(spec, tables, made).items():
            write_bytes(building / name, content)
        run = self.place(building, title)
        return cast(StoredRun[Spec], replace(run, form=JustSaved(run.form, tables)))

    def place(self, building: Path, title: str) -> StoredRun:
        """Move a complete run into the local store; a sound run of the same title is kept instead.

        A sound run is never replaced, so that no reader ever finds it missing; and runs with the same key have the same
        spec.
        """
        target = self.local / title
        self.set_aside_if_damaged(target)
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():
                raise
            shutil.rmtree(building, ignore_errors=True)
        return self.open(target)

    def delete(self, run: StoredRun) -> None:
        """Delete a local run. Raises `UsageError` for a packed one, `CapVizError` where it cannot be deleted."""
        if run.origin == "precomputed":
            raise UsageError(f"Run {run.title} came with CAP Viz and is only read; it cannot be deleted.")
        if not self.is_local(run.folder):
            raise UsageError(f"Run {run.title} is part of the pack {run.folder}; delete that folder to be rid of it.")
        # Renamed first, since a folder without some of its files would look damaged to others; to a unique name, since
        # an earlier deletion may have left files behind.
        doomed = run.folder.with_name(f".{run.title}.{time.time_ns()}.deleted")
        try:
            run.folder.rename(doomed)
        except FileNotFoundError:
            return  # Another process deleted it first.
        except OSError as error:
            raise CapVizError(f"Run {run.title} cannot be deleted ({error.strerror}).") from error
        try:
            shutil.rmtree(doomed)
        except OSError as error:
            # The run has left the store even so; `runs repair` tries again.
            log.warning("%s is left behind (%s)", doomed, error)

    def partial_run_dir(self, spec: RunSpec) -> Path:
        """Return the folder of an unfinished run's plan and parts; it is removed when the run is saved."""
        return self.partial_runs_dir / folder_name(spec)

    @property
    def partial_runs_dir(self) -> Path:
        """Folder of the unfinished runs of all processes."""
        return self.local.parent / "unfinished"

    def unfinished(self) -> list[RunSpec]:
        """List runs begun and neither finished nor discarded, oldest first; some may be running right now."""
        found: list[tuple[float, RunSpec]] = []
        for file in self.partial_runs_dir.glob(f"*/{SPEC}"):
            try:
                begun, spec = file.stat().st_mtime, spec_from_dict(from_json(dict[str, Any], file.read_bytes()))
            except (OSError, ValueError):
                continue  # From another version, or just removed: it can be neither shown nor resumed.
            if file.parent == self.partial_run_dir(spec) and self.get(spec) is None:
                found.append((begun, spec))
        return [spec for _, spec in sorted(found, key=lambda one: one[0])]

    def make_room(self, spec: RunSpec) -> None:
        """Set aside a damaged local run of this spec, so that it can be computed again."""
        self.set_aside_if_damaged(self.local / folder_name(spec))

    def set_aside_damaged(self) -> list[str]:
        """Set aside every damaged local run; return the reasons, one sentence each. Raises `CapVizError` on failure.

        Of an imported pack with damage the sound runs go on in a new pack, and the old one moves to the quarantine.
        """
        found = {folder: error for folder, error in self.damaged_in_place().items() if self.is_local(folder)}
        for folder, error in found.items():
            self.set_aside(folder, error.reason)
        return [error.reason for error in (*found.values(), *self.set_aside_in_packs())]

    def set_aside_in_packs(self) -> list[DamagedRun]:
        found: list[DamagedRun] = []
        for folder in self.pack_folders():
            sound: list[StoredRun] = []
            try:
                pack = open_pack(folder, *self.status(folder))
                damage = {} if pack is None else pack.damaged()
                sound = [] if pack is None else [run for key, run in pack.runs.items() if key not in damage]
            except DamagedRun as error:
                damage = {"": error}
            if damage:
                found += damage.values()
                rest = folder.with_name(f".{folder.name}.sound")
                if sound:
                    write_pack(rest, sound)
                self.set_aside(folder, " ".join(error.reason for error in damage.values()))
                if sound:
                    rest.rename(folder)
        return found

    def set_aside_if_damaged(self, folder: Path) -> None:
        if folder.is_dir():
            try:
                self.verify(self.open(folder))
            except DamagedRun as error:
                self.set_aside(folder, error.reason)

    def set_aside(self, folder: Path, reason: str) -> None:
        """Move a damaged run to the quarantine, with the reason in `reason.txt`. Raises `CapVizError` on failure."""
        target = self.quarantine / f"{folder.name}-{time.time_ns()}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
        except FileNotFoundError:
            return  # Another process set it aside first.
        except OSError as error:
            raise CapVizError(f"Run {folder.name} is damaged and cannot be set aside ({error.strerror}).") from error
        try:
            write_bytes(target / REASON, f"{reason}\n".encode())
        except OSError as error:
            log.warning("%s (set aside as %s; the reason cannot be written there: %s)", reason, target, error)


def now() -> str:
    """The time in UTC, to the millisecond: runs of one second still have an order."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def reason_of(folder: Path) -> str:
    """Read why a run in quarantine was set aside."""
    try:
        return (folder / REASON).read_text(encoding="utf-8").strip()
    except OSError:
        return f"Run {folder.name} is damaged; why could not be written beside it."


def lock_file(partial_run_dir: Path) -> Path:
    """Return the lock file held while a run is computed in `partial_run_dir`; it outlives the folder."""
    return partial_run_dir.with_name(f"{partial_run_dir.name}.lock")


def folder_name(spec: RunSpec) -> str:
    """Build a run's folder name: readable, safe as a file name, ending in the key."""
    model = re.sub(r"[^A-Za-z0-9.]+", "-", spec.model.id).strip("-.")[-40:]
    task = re.sub(r"[^A-Za-z0-9_]+", "-", spec.examples.task)[:60]
    return f"{spec.kind}-{model}-{task}-{spec_key(spec)}"
