"""Stored runs: one folder each, found by the hash of what was asked.

`<kind>-<model>-<task>-<key>/` holds `manifest.json` (spec, provenance, checksums; written last) and Parquet tables.
Shipped runs (tracked in git) are only read; local ones are written by the app. A run that fails its checks is
moved to the quarantine with the reason beside it, never read and never deleted.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype, is_integer_dtype

from cap_viz.errors import CapVizError, UsageError
from cap_viz.fields import checked, fits
from cap_viz.files import replace_folder, write_bytes, write_json
from cap_viz.models import ModelShape
from cap_viz.settings import local_folder, shipped_folder
from cap_viz.spec import (
    ENGINE_VERSION,
    READABLE_SCHEMAS,
    SCHEMA_VERSION,
    RunSpec,
    key_of,
    spec_dict,
    spec_from_dict,
    spec_key,
)

MANIFEST = "manifest.json"
# Beside the parts of an unfinished run: what it will be.
SPEC = "spec.json"


log = logging.getLogger(__name__)


class DamagedRun(CapVizError):
    """A stored run that cannot be trusted."""


@dataclass(frozen=True)
class StoredRun:
    """A finished run. `provenance` records how it came about (plan, versions, seconds, time)."""

    key: str
    spec: RunSpec
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
    """Runs under a shipped (read-only) and a local folder."""

    def __init__(self, shipped: Path | None = None, local: Path | None = None) -> None:
        self.shipped = shipped_folder() if shipped is None else shipped
        self.local = (local_folder() if local is None else local) / "runs"
        self.quarantine = self.local.parent / "quarantine"

    def runs(self) -> list[StoredRun]:
        """All readable runs, newest first; a shipped run hides a local copy, damaged ones are set aside."""
        found: dict[str, StoredRun] = {}
        for folder in self.folders():
            run = self.try_open(folder)
            if run is not None:
                found.setdefault(run.key, run)
        return sorted(found.values(), key=lambda run: run.provenance["created"], reverse=True)

    def get(self, spec: RunSpec) -> StoredRun | None:
        """The stored run of exactly this spec, shipped ones first."""
        key = spec_key(spec)
        for root in (self.shipped, self.local):
            for folder in root.glob(f"*-{key}"):
                run = self.try_open(folder)
                if run is not None:
                    return run
        return None

    def folders(self) -> Iterator[Path]:
        for root in (self.shipped, self.local):
            if root.is_dir():
                # A name with a dot in front is a run that is being written, imported or deleted by some process.
                yield from sorted(path for path in root.glob("[!.]*") if (path / MANIFEST).is_file())

    def damaged(self) -> list[str]:
        """One sentence per run in the quarantine or damaged among the shipped ones."""
        reasons = sorted(self.quarantine.glob("*/reason.txt"))
        sentences = [path.read_text(encoding="utf-8").strip() for path in reasons]
        for folder in sorted(self.shipped.glob("*/")):
            try:
                self.open(folder)
            except DamagedRun as error:
                sentences.append(str(error))
        return sentences

    def try_open(self, folder: Path) -> StoredRun | None:
        try:
            return self.open(folder)
        except DamagedRun as error:
            if self.local in folder.parents:
                self.set_aside(folder, str(error))
            return None

    def open(self, folder: Path) -> StoredRun:
        """Read and check a run's manifest. Raises `DamagedRun` naming the run and the reason."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            spec = spec_from_dict(manifest["spec"])
            provenance, checksums, key = manifest["provenance"], manifest["files"], manifest["key"]
            readable = manifest["schema"] in READABLE_SCHEMAS
            true_key = key_of(manifest["spec"], manifest["engine"], manifest["schema"])
            created, seconds = datetime.fromisoformat(provenance["created"]), provenance["seconds"]
            checked(ModelShape(**provenance["shape"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedRun(
                f"Run {folder.name} has no readable manifest ({type(error).__name__}: {error})."
            ) from error
        if not readable:
            known = ", ".join(map(str, READABLE_SCHEMAS))
            raise DamagedRun(f"Run {folder.name} has schema {manifest['schema']}, this program reads {known}.")
        plain = isinstance(checksums, dict) and all(PurePath(name).name == name for name in checksums)
        if created.tzinfo is None or not fits(seconds, float) or not plain:
            raise DamagedRun(f"Run {folder.name} has a manifest with fields of the wrong kind.")
        if key != true_key or not folder.name.endswith(key):
            raise DamagedRun(f"Run {folder.name} does not match its key: its spec was changed by hand or damaged.")
        missing = [name for name in checksums if not (folder / name).is_file()]
        if missing:
            raise DamagedRun(f"Run {folder.name} lacks its file {missing[0]}.")
        origin = "precomputed" if self.shipped in folder.parents else "live"
        return StoredRun(key, spec, folder, origin, provenance, checksums)

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        """A table of a run, after its checksum was verified. Raises `DamagedRun`."""
        file = f"{name}.parquet"
        try:
            content = (run.folder / file).read_bytes()
        except OSError as error:
            raise self.damage(run, f"Run {run.title} lacks its file {file}.") from error
        if hashlib.sha256(content).hexdigest() != run.checksums.get(file):
            raise self.damage(run, f"Run {run.title}: {file} does not match its checksum.")
        return pd.read_parquet(io.BytesIO(content))

    def verify(self, run: StoredRun) -> None:
        """Check every file of a run against its checksum. Raises `DamagedRun`; moves nothing."""
        for file, checksum in run.checksums.items():
            if hashlib.sha256((run.folder / file).read_bytes()).hexdigest() != checksum:
                raise DamagedRun(f"Run {run.title}: {file} does not match its checksum.")

    def by_key(self, key: str) -> StoredRun:
        """The run whose key starts with `key`. Raises `CapVizError` when there is none or more than one."""
        found = [run for run in self.runs() if run.key.startswith(key)]
        if not found:
            raise UsageError(f"There is no stored run with a key that starts with {key!r}; `runs list` shows them.")
        if len(found) > 1:
            raise UsageError(f"{len(found)} stored runs have a key that starts with {key!r}; give more of it.")
        return found[0]

    def damage(self, run: StoredRun, sentence: str) -> DamagedRun:
        if run.origin == "live":
            self.set_aside(run.folder, sentence)
        return DamagedRun(f"{sentence} It was set aside; start the run again.")

    def save(self, spec: RunSpec, tables: dict[str, pd.DataFrame], provenance: dict[str, Any]) -> StoredRun:
        """Write a finished run: tables first, manifest last, then one rename into place."""
        key = spec_key(spec)
        target = self.local / folder_name(spec)
        building = target.with_name(f".{target.name}.building")
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
            "provenance": {**provenance, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())},
            "files": checksums,
        }
        write_json(building / MANIFEST, manifest, compact=True)
        replace_folder(building, target)
        return self.open(target)

    def delete(self, run: StoredRun) -> None:
        """Remove a local run. Raises `UsageError` for a shipped one, `CapVizError` where it cannot be removed."""
        if self.local not in run.folder.parents:
            raise UsageError(f"Run {run.title} came with CAP Viz and is only read; it cannot be deleted.")
        try:
            # Renamed first: a folder without some of its files would look damaged to others.
            doomed = run.folder.with_name(f".{run.title}.deleted")
            run.folder.rename(doomed)
            shutil.rmtree(doomed)
        except FileNotFoundError:
            return  # Another process deleted it first.
        except OSError as error:
            raise CapVizError(f"Run {run.title} cannot be deleted ({error.strerror}).") from error

    def workshop(self, spec: RunSpec) -> Path:
        """Where an unfinished run keeps its plan and blocks; removed when the run is saved."""
        return self.workshops / folder_name(spec)

    @property
    def workshops(self) -> Path:
        """The unfinished runs of all processes."""
        return self.local.parent / "unfinished"

    def unfinished(self) -> list[RunSpec]:
        """Runs that were begun and neither finished nor given up, oldest first; some may be running right now."""
        found: list[RunSpec] = []
        files = sorted(self.workshops.glob(f"*/{SPEC}"), key=lambda path: path.stat().st_mtime)
        for file in files:
            try:
                spec = spec_from_dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # Of another version, or just removed: it can be neither shown nor resumed.
            if file.parent == self.workshop(spec) and self.get(spec) is None:
                found.append(spec)
        return found

    def set_aside(self, folder: Path, reason: str) -> None:
        """Move a damaged run to the quarantine, with the reason in `reason.txt`."""
        target = self.quarantine / f"{folder.name}-{time.time_ns()}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            write_bytes(target / "reason.txt", f"{reason}\n".encode())
        except FileNotFoundError:
            return  # Another process set it aside first.
        except OSError as error:
            # A full or read-only disk: the run is not used all the same, and the others can be read.
            log.warning("%s cannot be set aside (%s)", folder, error)


def parquet(table: pd.DataFrame) -> bytes:
    """The table as a small Parquet file.

    Bytes of floats are grouped by their place, integers stored as steps from one to the next. Statistics and the notes
    of pandas and Arrow are left out: in tables this small they would be half of the file.
    """
    import pyarrow
    import pyarrow.parquet

    encodings: dict[str, str] = {
        str(name): encoding for name, kind in table.dtypes.items() if (encoding := encoding_of(kind))
    }
    # A list of columns may be given as well, which pyarrow's annotation leaves out.
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
    """How Parquet packs a column; None: a dictionary of its values."""
    if is_float_dtype(kind):
        return "BYTE_STREAM_SPLIT"
    return "DELTA_BINARY_PACKED" if is_integer_dtype(kind) else None


def lock_file(workshop: Path) -> Path:
    """The lock that whoever computes in a workshop holds; it stays when the workshop goes."""
    return workshop.with_name(f"{workshop.name}.lock")


def folder_name(spec: RunSpec) -> str:
    """Readable, safe as a file name, ending in the key."""
    model = re.sub(r"[^A-Za-z0-9.]+", "-", spec.model.id).strip("-.")[-40:]
    task = re.sub(r"[^A-Za-z0-9_]+", "-", spec.examples.task)[:60]
    return f"{spec.kind}-{model}-{task}-{spec_key(spec)}"
