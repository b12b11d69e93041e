"""A run as a folder: `manifest.json` (spec, provenance, digests; written last) and one Parquet file per table."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

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
from cap_viz.runs.stored_run import DamagedRun, StoredRun, table_digest
from cap_viz.validation import mistake

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
# Manifests kept parsed, by their path and change.
MOST_MANIFESTS = 1 << 16


@dataclass(frozen=True)
class RunFolder:
    """Folder of one run, with the content of its manifest; `remedy` is what to do about damage in it."""

    folder: Path
    remedy: str
    spec: RunSpec
    provenance: dict[str, Any]
    digests: dict[str, str]

    def spec_of(self, run: StoredRun) -> RunSpec:
        return self.spec

    def provenance_of(self, run: StoredRun) -> dict[str, Any]:
        return self.provenance

    def digests_of(self, run: StoredRun) -> dict[str, str]:
        return self.digests

    def damage(self, what: str) -> DamagedRun:
        return damage_in(self.folder, what, self.remedy)

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        file, digest = f"{name}.parquet", run.digests.get(name)
        try:
            content = (self.folder / file).read_bytes()
        except FileNotFoundError as error:
            raise self.damage(f"lacks its file {file}") from error
        except OSError as error:
            raise self.damage(f"cannot be read: {file} ({error.strerror})") from error
        wrong = self.damage(f"does not match its checksum: {file}")
        if digest == hashlib.sha256(content).hexdigest():
            return pd.read_parquet(io.BytesIO(content))
        try:
            table = pd.read_parquet(io.BytesIO(content))
        except Exception as error:  # Damaged bytes make pyarrow raise almost anything.
            raise wrong from error
        if digest != table_digest(table):
            raise wrong
        return table

    def verify(self, run: StoredRun) -> None:
        for name in run.digests:
            self.table(run, name)


def damage_in(folder: Path, what: str, remedy: str) -> DamagedRun:
    return DamagedRun(f"Run {folder.name} {what}.", remedy)


def open_run(folder: Path, origin: str, remedy: str) -> StoredRun:
    """Read and check a run's manifest. Raises `DamagedRun`, which names the run and the reason."""
    try:
        changed = (folder / MANIFEST).stat()
        there = set(os.listdir(folder))
    except OSError as error:
        raise damage_in(folder, f"has no readable manifest ({error.strerror})", remedy) from error
    run = opened(folder, origin, remedy, changed.st_mtime_ns, changed.st_size)
    for name in run.digests:
        if f"{name}.parquet" not in there:
            raise damage_in(folder, f"lacks its file {name}.parquet", remedy)
    return run


@lru_cache(MOST_MANIFESTS)
def opened(folder: Path, origin: str, remedy: str, changed: int, size: int) -> StoredRun:
    """Parse a manifest, once per process and change."""

    def damage(what: str) -> DamagedRun:
        return damage_in(folder, what, remedy)

    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        spec = spec_from_dict(manifest.spec)
    except (OSError, ValueError) as error:
        reason = mistake(error) if isinstance(error, ValueError) else error.strerror
        raise damage(f"has no readable manifest ({reason})") from error
    if manifest.schema_version not in READABLE_SCHEMAS:
        known = ", ".join(map(str, READABLE_SCHEMAS))
        raise damage(f"has schema {manifest.schema_version}, this program reads {known}")
    digests = manifest.digests
    if any(Path(name).name != name for name in digests):
        raise damage("lists files that are not in its folder")
    key = key_of(manifest.spec, manifest.engine, manifest.schema_version)
    if manifest.key != key or not folder.name.endswith(key):
        raise damage("does not match its key: its spec was changed by hand or damaged")
    made = dict(manifest.provenance)
    form = RunFolder(folder, remedy, spec, made, digests)
    return StoredRun(key, folder.name, origin, made["created"], form, manifest.engine, manifest.schema_version)


def run_files(spec: RunSpec, tables: Mapping[str, pd.DataFrame], provenance: Mapping[str, Any]) -> dict[str, bytes]:
    """Make the files of a run's folder by name, the manifest last."""
    files = {f"{name}.parquet": parquet(table) for name, table in tables.items()}
    manifest = {
        "schema": SCHEMA_VERSION,
        "engine": ENGINE_VERSION,
        "key": spec_key(spec),
        "spec": spec_dict(spec),
        "provenance": dict(provenance),
        "tables": {name: table_digest(table) for name, table in tables.items()},
    }
    return {**files, MANIFEST: json.dumps(manifest, separators=(",", ":")).encode()}


def parquet(table: pd.DataFrame) -> bytes:
    """Write a table as a small Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    rows = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(rows, file, **parquet_options(rows))
    return file.getvalue()


def parquet_options(rows: pa.Table) -> dict[str, Any]:
    """Choose the options of pyarrow's writer for a table.

    Floats are byte-stream-split, integers delta-encoded. Statistics and the metadata of pandas and Arrow are left out:
    in tables this small they would be half of the file.
    """
    import pyarrow.types as types

    encodings = {
        field.name: "BYTE_STREAM_SPLIT" if types.is_floating(field.type) else "DELTA_BINARY_PACKED"
        for field in rows.schema
        if types.is_floating(field.type) or types.is_integer(field.type)
    }
    return {
        "compression": "zstd",
        "compression_level": 19,
        "column_encoding": encodings or None,
        "use_dictionary": [name for name in rows.column_names if name not in encodings] or False,
        "write_statistics": False,
        "store_schema": False,
    }
