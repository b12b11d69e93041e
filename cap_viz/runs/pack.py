"""Many runs packed into few Parquet files, for git and for teams: read in milliseconds, by anything that reads Parquet.

A pack is a folder:

- `index.parquet`: one row per run with its key, spec, provenance, and file, row group and digest of each table;
- `ids.parquet`: the lists of example ids that the specs name, each once; `plans.parquet`: the batch plans, by key;
- `<kind>.<model>.<table>.parquet`: the tables of all runs of that kind and model, with a column `key`. A row group
  holds a few runs, so that one run is read without the others.

A pack is never changed in place: `write_pack` writes a new one and swaps the folders.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from cap_viz.runs.spec import READABLE_SCHEMAS, RunSpec, key_of, spec_dict, spec_fields, spec_from_dict, stem_of
from cap_viz.runs.stored_run import DamagedRun, StoredRun, table_digest
from cap_viz.tasks.example_sets import ExampleSet
from cap_viz.validation import mistake

if TYPE_CHECKING:
    import pyarrow as pa

INDEX, IDS, PLANS = "index.parquet", "ids.parquet", "plans.parquet"
# Metadata of the index: the version of the format, and digests of all specs and of everything.
VERSION_KEY, VERSION = b"cap_viz_pack", b"1"
SPECS_KEY, CONTENT_KEY = b"cap_viz_specs", b"cap_viz_content"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a table of a run lies in a pack."""

    file: str
    group: int
    digest: str


class Pack:
    """A pack that was opened. Raises `DamagedRun` where its index cannot be read.

    `runs` are those with a spec that this program reads, by key; the others are in `unreadable`. Specs are parsed when
    they are used, and at once only if they may be wrong: changed, or written by a program with other kinds of specs.
    """

    def __init__(self, folder: Path, origin: str, remedy: str) -> None:
        self.folder, self.origin, self.remedy = folder, origin, remedy
        index = self.content(INDEX)
        version = (index.schema.metadata or {}).get(VERSION_KEY)
        if version != VERSION:
            written = "no version" if version is None else f"version {version.decode(errors='replace')}"
            raise self.damage(f"has {written}, this program reads version {VERSION.decode()}")
        try:
            self.index = index
            facts = [index[name].to_pylist() for name in ("key", "title", "created", "engine", "schema")]
            self.place = {key: number for number, key in enumerate(facts[0])}
            self.titles = dict(zip(facts[0], facts[1], strict=True))
            self.runs = {
                key: StoredRun(key, title, origin, created, self, engine, schema)
                for key, title, created, engine, schema in zip(*facts, strict=True)
            }
            if not all(isinstance(one, str) for column in facts[:3] for one in column):
                raise TypeError("keys, titles and times should be texts")
            trusted = (index.schema.metadata or {}).get(SPECS_KEY) == specs_digest(index)
        except (KeyError, TypeError, AttributeError) as error:
            raise self.damage(f"has no readable index ({type(error).__name__}: {error})") from error
        self.unreadable: dict[str, DamagedRun] = {}
        if not (trusted and self.ids_are_read()):
            for key in list(self.runs):
                try:
                    self.spec_of(self.runs[key])
                except DamagedRun as error:
                    self.unreadable[key] = error
                    del self.runs[key]

    def ids_are_read(self) -> bool:
        try:
            return bool(self.ids)
        except DamagedRun:
            return False

    def damage(self, what: str) -> DamagedRun:
        return DamagedRun(f"The pack {self.folder} {what}.", self.remedy)

    def content(self, file: str) -> pa.Table:
        import pyarrow.parquet as pq

        try:
            # Not `read_table`, which first imports pyarrow's data sets.
            with pq.ParquetFile(self.folder / file, page_checksum_verification=True) as content:
                return content.read(use_threads=False)
        except Exception as error:  # Damaged bytes make pyarrow raise almost anything.
            raise self.damage(f"cannot be read: {file} ({type(error).__name__})") from error

    def value(self, run: StoredRun, column: str) -> Any:
        """Parse a JSON value of a run from the index. Raises `DamagedRun`."""
        try:
            return json.loads(self.index[column][self.place[run.key]].as_py())
        except (KeyError, ValueError, TypeError) as error:
            raise self.run_damage(run, f"has no readable {column} ({type(error).__name__})") from error

    def spec_of(self, run: StoredRun) -> RunSpec:
        if run.schema not in READABLE_SCHEMAS:
            known = ", ".join(map(str, READABLE_SCHEMAS))
            raise self.run_damage(run, f"has schema {run.schema}, this program reads {known}")
        try:
            return with_ids(spec_from_dict(self.value(run, "spec")), self.ids)
        except (ValueError, KeyError) as error:
            reason = mistake(error) if isinstance(error, ValueError) else f"no list of ids {error}"
            raise self.run_damage(run, f"has no readable spec ({reason})") from error

    def provenance_of(self, run: StoredRun) -> dict[str, Any]:
        made = self.value(run, "provenance")
        try:
            return {**made, "plan": json.loads(self.plans[run.key])}
        except (KeyError, TypeError, ValueError) as error:
            raise self.run_damage(run, f"has no readable plan ({type(error).__name__})") from error

    def digests_of(self, run: StoredRun) -> dict[str, str]:
        return {name: place.digest for name, place in self.places_of(run).items()}

    def places_of(self, run: StoredRun) -> dict[str, Place]:
        """Where the tables of a run lie, by their names."""
        try:
            return {name: Place(**place) for name, place in self.value(run, "tables").items()}
        except (AttributeError, TypeError) as error:
            raise self.run_damage(run, "has no readable list of tables") from error

    def run_damage(self, run: StoredRun, what: str) -> DamagedRun:
        return DamagedRun(f"Run {run.title} {what}.", self.remedy)

    @cached_property
    def ids(self) -> dict[str, tuple[str, ...]]:
        """Lists of example ids by their digest."""
        table = self.content(IDS).to_pydict()
        try:
            found = {digest: tuple(ids) for digest, ids in zip(table["digest"], table["ids"], strict=True)}
            if any(ids_digest(list(ids)) != digest for digest, ids in found.items()):
                raise ValueError("a list does not match its digest")
            return found
        except (KeyError, TypeError, ValueError) as error:
            raise self.damage(f"cannot be read: {IDS} ({type(error).__name__})") from error

    @cached_property
    def plans(self) -> dict[str, str]:
        """The batch plans as JSON, by the keys of their runs; those of many thousand runs are not parsed at once."""
        table = self.content(PLANS).to_pydict()
        try:
            return dict(zip(table["key"], table["plan"], strict=True))
        except KeyError as error:
            raise self.damage(f"cannot be read: {PLANS} ({type(error).__name__})") from error

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Keys of runs that differ in their example ids only."""
        found: dict[str, list[str]] = {}
        for key, stem in zip(self.place, self.index["stem"].to_pylist(), strict=True):
            if key in self.runs:
                found.setdefault(stem, []).append(key)
        return found

    def like(self, spec: RunSpec) -> Iterator[StoredRun]:
        """Runs that are the same as the spec, whatever their example ids."""
        return (self.runs[key] for key in self.by_stem.get(stem_of(spec), ()))

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        """Read a table of a run, and check its values."""
        place = self.places_of(run).get(name)
        if place is None:
            raise self.run_damage(run, f"lacks its table {name}")
        return self.checked_table(self.group(place), run, name)

    def group(self, place: Place) -> pa.Table | None:
        """Read the row group of a table; None where it cannot be read."""
        import pyarrow.parquet as pq

        try:
            # Only the name: a wrong index must not lead out of the pack.
            with pq.ParquetFile(self.folder / Path(place.file).name, page_checksum_verification=True) as file:
                return file.read_row_group(place.group)
        except Exception:  # Damaged bytes make pyarrow raise almost anything.
            log.warning("%s, row group %s of the pack %s cannot be read", place.file, place.group, self.folder)
            return None

    def checked_table(self, group: pa.Table | None, run: StoredRun, name: str) -> pd.DataFrame:
        import pyarrow.compute as pc

        unreadable = self.run_damage(run, f"cannot be read: {name}")
        if group is None or "key" not in group.column_names:
            raise unreadable
        try:
            rows = group.filter(pc.field("key") == run.key).drop_columns(["key"])
            table = cast(pd.DataFrame, rows.to_pandas())
            digest = table_digest(table)
        except Exception as error:  # Columns of another type, say.
            raise unreadable from error
        if digest != run.digests[name]:
            raise self.run_damage(run, f"does not match its checksum: {name}")
        return table

    def verify(self, run: StoredRun) -> None:
        self.verify_key(run)
        self.provenance_of(run)
        for name in run.digests:
            self.table(run, name)

    def verify_key(self, run: StoredRun) -> None:
        if key_of(spec_dict(run.spec), run.engine, run.schema) != run.key:
            raise self.run_damage(run, "does not match its key: its spec was changed by hand or damaged")

    def damaged(self) -> dict[str, DamagedRun]:
        """Check every run; return the damage by key.

        Where index and files have the bytes that were written there is none; else each row group is read once.
        """
        with suppress(OSError):
            if (self.index.schema.metadata or {}).get(CONTENT_KEY) == content_digest(self.folder, self.index):
                return dict(self.unreadable)
        found = dict(self.unreadable)
        groups: dict[tuple[str, int], list[tuple[StoredRun, str, Place]]] = {}
        for key, run in self.runs.items():
            try:
                self.verify_key(run)
                self.provenance_of(run)
                for name, place in self.places_of(run).items():
                    groups.setdefault((place.file, place.group), []).append((run, name, place))
            except DamagedRun as error:
                found[key] = error
        for tables in groups.values():
            group = self.group(tables[0][2])
            for run, name, _ in tables:
                try:
                    self.checked_table(group, run, name)
                except DamagedRun as error:
                    found.setdefault(run.key, error)
        return found


def open_pack(folder: Path, origin: str, remedy: str) -> Pack | None:
    """Open the pack in a folder, once per process and change of its index; None where there is none.

    Raises `DamagedRun` where the index cannot be read.
    """
    try:
        changed = (folder / INDEX).stat()
    except OSError:
        return None
    return opened(folder, origin, remedy, changed.st_mtime_ns, changed.st_size)


@lru_cache(64)
def opened(folder: Path, origin: str, remedy: str, changed: int, size: int) -> Pack:
    return Pack(folder, origin, remedy)


def with_ids(value: Any, lists: Mapping[str, tuple[str, ...]]) -> Any:
    """Put the lists of ids back into a spec that names them by their digests."""
    if isinstance(value, ExampleSet):
        return replace(value, ids=lists[value.ids[0]]) if value.ids else value
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {field.name: getattr(value, field.name) for field in fields(value)}
    return replace(value, **{name: with_ids(part, lists) for name, part in parts.items() if is_dataclass(part)})


def ids_digest(ids: list[str]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


def specs_digest(index: pa.Table) -> bytes:
    """Hash the specs of an index, and the fields of the classes that read them."""
    digest = hashlib.sha256(spec_fields().encode())
    for spec in index["spec"].to_pylist():
        digest.update(spec.encode())
    return digest.hexdigest().encode()


def content_digest(folder: Path, index: pa.Table) -> bytes:
    """Hash the rows of the index and the bytes of all other files."""
    digest = hashlib.sha256(table_digest(index.to_pandas()).encode())
    for file in sorted(folder.glob("*.parquet")):
        if file.name != INDEX:
            digest.update(file.name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest().encode()
