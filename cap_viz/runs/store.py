"""Store of finished runs: one folder each, found by the hash of the spec.

`<kind>-<model>-<task>-<key>/` holds `manifest.json` (spec, provenance, checksums; written last) and Parquet tables.
Shipped runs (tracked in git) are read-only; local ones are written by the app. A run that fails its checks is neither
used nor deleted. Reading moves nothing: a damaged run stays in place, and `damaged` lists it, until it is computed
again or `runs repair` is called; it then moves to the quarantine, with the reason beside it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, Generic, cast

import pandas as pd
from pandas.api.types import is_float_dtype, is_integer_dtype
from typing_extensions import TypeVar

from cap_viz.errors import CapVizError, UsageError
from cap_viz.files import write_bytes, write_json
from cap_viz.runs.manifest import Manifest
from cap_viz.runs.spec import (
    ENGINE_VERSION,
    READABLE_SCHEMAS,
    SCHEMA_VERSION,
    RunSpec,
    key_of,
    spec_dict,
    spec_from_dict,
    spec_key,
)
from cap_viz.settings import local_folder, shipped_folder
from cap_viz.validation import from_json, mistake

MANIFEST = "manifest.json"
# The spec of an unfinished run, beside its parts.
SPEC = "spec.json"
# Why a run was set aside, in its folder in the quarantine.
REASON = "reason.txt"
SHIPPED_REMEDY = "It came with CAP Viz: restore it with git restore cache/shipped, or install CAP Viz again."
LOCAL_REMEDY = "Start the run again, or set it aside on the Runs page or with python -m cap_viz runs repair."

log = logging.getLogger(__name__)

# `StoredRun` alone is a run of any kind.
Spec = TypeVar("Spec", bound=RunSpec, default=RunSpec, covariant=True)


class DamagedRun(CapVizError):
    """A stored run that cannot be trusted: the `reason`, and the remedy where there is one."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason} {remedy}".strip())
        self.reason = reason


@dataclass(frozen=True)
class StoredRun(Generic[Spec]):
    """A finished run. `provenance` records how it was made (plan, versions, seconds, time).

    Its type names the class of its spec where that is known: `StoredRun[ScoreSpec]`.
    """

    key: str
    spec: Spec
    folder: Path
    origin: str
    provenance: dict[str, Any]
    checksums: dict[str, str]

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def title(self) -> str:
        return self.folder.name


class Store:
    """Runs in a shipped (read-only) and a local folder."""

    def __init__(self, shipped: Path | None = None, local: Path | None = None) -> None:
        self.shipped = shipped_folder() if shipped is None else shipped
        self.local = (local_folder() if local is None else local) / "runs"
        self.quarantine = self.local.parent / "quarantine"

    def runs(self) -> list[StoredRun]:
        """List all runs with a sound manifest, newest first; a shipped run hides a local copy."""
        found: dict[str, StoredRun] = {}
        for folder in self.folders():
            with suppress(DamagedRun):
                run = self.open(folder)
                found.setdefault(run.key, run)
        return sorted(found.values(), key=lambda run: run.provenance["created"], reverse=True)

    def get(self, spec: Spec) -> StoredRun[Spec] | None:
        """Find the stored run of exactly this spec with a sound manifest, shipped before local; else None."""
        key = spec_key(spec)
        for root in (self.shipped, self.local):
            for folder in root.glob(f"*-{key}"):
                with suppress(DamagedRun):
                    return cast(StoredRun[Spec], self.open(folder))
        return None

    def sound(self, spec: Spec) -> StoredRun[Spec] | None:
        """Find the stored run of exactly this spec and check all its files; None where it must be computed (again).

        Raises `DamagedRun` for a damaged shipped run, since it would hide a newly computed one.
        """
        run = self.get(spec)
        if run is None:
            return None
        if run.origin == "live":
            return run if self.is_sound(run) else None
        self.verify(run)
        return run

    def folders(self) -> Iterator[Path]:
        """Yield the folders of all runs, sound or not, shipped ones first."""
        for root in (self.shipped, self.local):
            # A leading dot marks a run that some process is writing, importing or deleting.
            yield from sorted(root.glob("[!.]*/"))

    def damaged(self) -> list[str]:
        """Report one sentence per run in quarantine and per damaged run still in place; all files are checked."""
        return [*self.in_quarantine(), *map(str, self.damaged_in_place().values())]

    def in_quarantine(self) -> list[str]:
        """Report one sentence per run in quarantine."""
        return [f"{reason_of(folder)} It was set aside." for folder in sorted(self.quarantine.glob("*/"))]

    def damaged_in_place(self) -> dict[Path, DamagedRun]:
        """Check all files of shipped and local runs; return the damage by folder."""
        found: dict[Path, DamagedRun] = {}
        for folder in self.folders():
            try:
                self.verify(self.open(folder))
            except DamagedRun as error:
                if folder.is_dir():  # Otherwise another process has deleted it or set it aside.
                    found[folder] = error
        return found

    def open(self, folder: Path) -> StoredRun:
        """Read and check a run's manifest. Raises `DamagedRun`, which names the run and the reason."""
        try:
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
            spec = spec_from_dict(manifest.spec)
        except (OSError, ValueError) as error:
            reason = mistake(error) if isinstance(error, ValueError) else error.strerror
            raise self.damage(folder, f"Run {folder.name} has no readable manifest ({reason}).") from error
        if manifest.schema_version not in READABLE_SCHEMAS:
            known = ", ".join(map(str, READABLE_SCHEMAS))
            reason = f"Run {folder.name} has schema {manifest.schema_version}, this program reads {known}."
            raise self.damage(folder, reason)
        if any(PurePath(name).name != name for name in manifest.files):
            raise self.damage(folder, f"Run {folder.name} lists files that are not in its folder.")
        true_key = key_of(manifest.spec, manifest.engine, manifest.schema_version)
        if manifest.key != true_key or not folder.name.endswith(true_key):
            reason = f"Run {folder.name} does not match its key: its spec was changed by hand or damaged."
            raise self.damage(folder, reason)
        missing = [name for name in manifest.files if not (folder / name).is_file()]
        if missing:
            raise self.damage(folder, f"Run {folder.name} lacks its file {missing[0]}.")
        origin = "precomputed" if self.shipped in folder.parents else "live"
        return StoredRun(true_key, spec, folder, origin, dict(manifest.provenance), manifest.files)

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        """Read a table of a run and verify its checksum. Raises `DamagedRun`."""
        return pd.read_parquet(io.BytesIO(self.content(run, f"{name}.parquet")))

    def content(self, run: StoredRun, file: str) -> bytes:
        """Read a file of a run. Raises `DamagedRun` where its checksum is not that of the manifest."""
        try:
            content = (run.folder / file).read_bytes()
        except FileNotFoundError as error:
            raise self.damage(run.folder, f"Run {run.title} lacks its file {file}.") from error
        except OSError as error:
            raise self.damage(run.folder, f"Run {run.title}: {file} cannot be read ({error.strerror}).") from error
        if hashlib.sha256(content).hexdigest() != run.checksums.get(file):
            raise self.damage(run.folder, f"Run {run.title}: {file} does not match its checksum.")
        return content

    def verify(self, run: StoredRun) -> None:
        """Check every file of a run against its checksum. Raises `DamagedRun`."""
        for file in run.checksums:
            self.content(run, file)

    def is_sound(self, run: StoredRun) -> bool:
        try:
            self.verify(run)
        except DamagedRun:
            return False
        return True

    def damage(self, folder: Path, reason: str) -> DamagedRun:
        """Make the error for a damaged run, with the remedy for a shipped or local one."""
        if self.shipped in folder.parents:
            return DamagedRun(reason, SHIPPED_REMEDY)
        return DamagedRun(reason, LOCAL_REMEDY if self.is_local(folder) else "")

    def is_local(self, folder: Path) -> bool:
        """Whether a folder holds a local run."""
        return folder.parent == self.local

    def by_key(self, key: str) -> StoredRun:
        """Find the run with a key that starts with `key`. Raises `CapVizError` unless there is exactly one."""
        found = [run for run in self.runs() if run.key.startswith(key)]
        if not found:
            raise UsageError(f"There is no stored run with a key that starts with {key!r}; `runs list` shows them.")
        if len(found) > 1:
            raise UsageError(f"{len(found)} stored runs have a key that starts with {key!r}; give more of it.")
        return found[0]

    def save(self, spec: Spec, tables: dict[str, pd.DataFrame], provenance: dict[str, Any]) -> StoredRun[Spec]:
        """Write a finished run: tables first, manifest last, then one rename into place."""
        key, title = spec_key(spec), folder_name(spec)
        building = self.local / f".{title}.building"
        shutil.rmtree(building, ignore_errors=True)
        checksums: dict[str, str] = {}
        for name, table in tables.items():
            content = parquet(table)
            write_bytes(building / f"{name}.parquet", content)
            checksums[f"{name}.parquet"] = hashlib.sha256(content).hexdigest()
        manifest = {
            "schema": SCHEMA_VERSION,
            "engine": ENGINE_VERSION,
            "key": key,
            "spec": spec_dict(spec),
            "provenance": {**provenance, "created": now()},
            "files": checksums,
        }
        write_json(building / MANIFEST, manifest, compact=True)
        return cast(StoredRun[Spec], self.place(building, title))

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
        """Delete a local run. Raises `UsageError` for a shipped one, `CapVizError` where it cannot be deleted."""
        if self.local not in run.folder.parents:
            raise UsageError(f"Run {run.title} came with CAP Viz and is only read; it cannot be deleted.")
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
        for folder in self.local.glob(f"[!.]*-{spec_key(spec)}"):
            self.set_aside_if_damaged(folder)

    def set_aside_damaged(self) -> list[str]:
        """Set aside every damaged local run; return the reasons, one sentence each. Raises `CapVizError` on failure."""
        found = {folder: error for folder, error in self.damaged_in_place().items() if self.is_local(folder)}
        for folder, error in found.items():
            self.set_aside(folder, error.reason)
        return [error.reason for error in found.values()]

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


def parquet(table: pd.DataFrame) -> bytes:
    """Write a table as a small Parquet file.

    Floats are byte-stream-split, integers delta-encoded. Statistics and the metadata of pandas and Arrow are left out:
    in tables this small they would be half of the file.
    """
    import pyarrow
    import pyarrow.parquet

    encodings: dict[str, str] = {
        str(name): encoding for name, kind in table.dtypes.items() if (encoding := encoding_of(kind))
    }
    # `use_dictionary` also takes a list of columns, which pyarrow's type annotation omits.
    dictionaries: Any = [str(name) for name in table.columns if name not in encodings] or False
    file = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None),
        file,
        compression="zstd",
        compression_level=19,
        column_encoding=encodings or None,
        use_dictionary=dictionaries,
        write_statistics=False,
        store_schema=False,
    )
    return file.getvalue()


def encoding_of(kind: Any) -> str | None:
    """Choose the Parquet encoding of a column by its dtype; None stands for dictionary encoding."""
    if is_float_dtype(kind):
        return "BYTE_STREAM_SPLIT"
    return "DELTA_BINARY_PACKED" if is_integer_dtype(kind) else None


def lock_file(partial_run_dir: Path) -> Path:
    """Return the lock file held while a run is computed in `partial_run_dir`; it outlives the folder."""
    return partial_run_dir.with_name(f"{partial_run_dir.name}.lock")


def folder_name(spec: RunSpec) -> str:
    """Build a run's folder name: readable, safe as a file name, ending in the key."""
    model = re.sub(r"[^A-Za-z0-9.]+", "-", spec.model.id).strip("-.")[-40:]
    task = re.sub(r"[^A-Za-z0-9_]+", "-", spec.examples.task)[:60]
    return f"{spec.kind}-{model}-{task}-{spec_key(spec)}"
