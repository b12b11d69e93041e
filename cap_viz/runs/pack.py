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
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from cap_viz.errors import CapVizError, UsageError
from cap_viz.runs.run_folder import parquet_options
from cap_viz.runs.spec import READABLE_SCHEMAS, RunSpec, key_of, spec_dict, spec_from_dict, stem_of
from cap_viz.runs.stored_run import DamagedRun, StoredRun, table_digest
from cap_viz.tasks.example_sets import ExampleSet
from cap_viz.validation import mistake

if TYPE_CHECKING:
    import pyarrow as pa

INDEX, IDS, PLANS = "index.parquet", "ids.parquet", "plans.parquet"
VERSION_KEY, VERSION = b"cap_viz_pack", b"1"
CONTENT_KEY = b"cap_viz_content"
# Runs whose rows are read together: fewer take more space, more take longer to read.
RUNS_PER_GROUP = 8
# A file is closed beyond this size, so that git and its hosts take it.
LARGEST_FILE = 7 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a table of a run lies in a pack."""

    file: str
    group: int
    digest: str


class Pack:
    """A pack that was opened. Raises `DamagedRun` where its index cannot be read."""

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
            self.runs = {
                key: StoredRun(key, title, origin, created, self, engine, schema)
                for key, title, created, engine, schema in zip(*facts, strict=True)
            }
        except (KeyError, TypeError) as error:
            raise self.damage(f"has no readable index ({type(error).__name__}: {error})") from error

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
        return {**self.value(run, "provenance"), "plan": self.plans.get(run.key)}

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
        table = self.content(IDS)
        return {digest: tuple(ids) for digest, ids in zip(*table.to_pydict().values(), strict=True)}

    @cached_property
    def plans(self) -> dict[str, Any]:
        table = self.content(PLANS).to_pydict()
        return {key: json.loads(plan) for key, plan in zip(table["key"], table["plan"], strict=True)}

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Keys of runs that differ in their example ids only."""
        found: dict[str, list[str]] = {}
        for key, stem in zip(self.runs, self.index["stem"].to_pylist(), strict=True):
            found.setdefault(stem, []).append(key)
        return found

    def like(self, spec: RunSpec) -> Iterator[StoredRun]:
        """Runs that are the same as the spec, whatever their example ids."""
        return (self.runs[key] for key in self.by_stem.get(stem_of(spec), ()))

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        """Read a table of a run, and check its values."""
        return self.checked_table(self.group(self.places_of(run)[name]), run, name)

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

        if group is None or "key" not in group.column_names:
            raise self.run_damage(run, f"cannot be read: {name}")
        rows = group.filter(pc.field("key") == run.key).drop_columns(["key"])
        table = cast(pd.DataFrame, rows.to_pandas())
        if table_digest(table) != run.digests[name]:
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
                return {}
        found: dict[str, DamagedRun] = {}
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


def without_ids(content: Any, lists: dict[str, list[str]]) -> Any:
    """Replace every list of ids in a spec's JSON by its digest; the lists are added to `lists`."""
    if not isinstance(content, dict):
        return content
    short = {name: without_ids(value, lists) for name, value in content.items()}
    if ids := content.get("ids"):
        digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
        lists[digest] = ids
        short["ids"] = [digest]
    return short


def write_pack(folder: Path, runs: Iterable[StoredRun], note: Callable[[str], None] = lambda line: None) -> int:
    """Write runs, from folders or other packs, as a pack in place of the one in `folder`; return how many there are.

    Of runs with the same key the first is kept. Every table is checked as it is read. Raises `DamagedRun` for a run
    that cannot be trusted and `CapVizError` where the pack cannot be written; the old pack then stays.
    """
    chosen: dict[str, StoredRun] = {}
    for run in runs:
        chosen.setdefault(run.key, run)
    if not chosen:
        raise UsageError("There is no run to pack.")
    building, old = (folder.with_name(f".{folder.name}.{name}") for name in ("building", "old"))
    try:
        for left in (building, old):
            shutil.rmtree(left, ignore_errors=True)
        building.mkdir(parents=True)
        write_files(building, sorted(chosen.values(), key=order), note)
        if folder.exists():
            folder.rename(old)
        building.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise CapVizError(
            f"The pack {folder} cannot be written ({error.strerror or error}); the runs stay where they are."
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return len(chosen)


def order(run: StoredRun) -> tuple[str, ...]:
    """Neighbours in a file are alike, which packs well, and the order is the same every time."""
    return run.kind, run.spec.model.id, run.spec.examples.task, run.key


def write_files(folder: Path, runs: Sequence[StoredRun], note: Callable[[str], None]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    places: dict[str, dict[str, Place]] = {run.key: {} for run in runs}
    for (kind, model, name), group in by_table(runs).items():
        stem = f"{kind}.{re.sub(r'[^A-Za-z0-9.]+', '-', model).strip('-.')[-40:]}.{name}"
        written = write_tables(folder, stem, name, group)
        for key, place in written.items():
            places[key][name] = place
        note(f"{stem}: {len(group)} runs")
    lists: dict[str, list[str]] = {}
    rows, plans = [], []
    for run in runs:
        made = dict(run.provenance)
        plans.append({"key": run.key, "plan": json.dumps(made.pop("plan", None))})
        content = spec_dict(run.spec)
        rows.append(
            {
                "key": run.key,
                "stem": stem_of(run.spec),
                "title": run.title,
                "kind": run.kind,
                "model": run.spec.model.id,
                "task": run.spec.examples.task,
                "n": len(run.spec.examples.ids),
                "created": run.created,
                "engine": run.engine,
                "schema": run.schema,
                "spec": json.dumps(without_ids(content, lists), sort_keys=True),
                "provenance": json.dumps(made, sort_keys=True),
                "tables": json.dumps({name: vars(place) for name, place in places[run.key].items()}, sort_keys=True),
            }
        )
    ids = [{"digest": digest, "ids": values} for digest, values in lists.items()]
    ids_schema = pa.schema([("digest", pa.string()), ("ids", pa.list_(pa.string()))])
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 19, "write_page_checksum": True}
    pq.write_table(pa.Table.from_pylist(ids, schema=ids_schema), folder / IDS, **options)
    pq.write_table(pa.Table.from_pylist(plans), folder / PLANS, **options)
    index = pa.Table.from_pylist(rows)
    about = {VERSION_KEY: VERSION, CONTENT_KEY: content_digest(folder, index)}
    pq.write_table(index.replace_schema_metadata(about), folder / INDEX, **options)


def content_digest(folder: Path, index: pa.Table) -> bytes:
    """Hash the rows of the index and the bytes of all other files."""
    digest = hashlib.sha256(table_digest(index.to_pandas()).encode())
    for file in sorted(folder.glob("*.parquet")):
        if file.name != INDEX:
            digest.update(file.name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest().encode()


def by_table(runs: Sequence[StoredRun]) -> dict[tuple[str, str, str], list[StoredRun]]:
    found: dict[tuple[str, str, str], list[StoredRun]] = {}
    for run in runs:
        for name in run.digests:
            found.setdefault((run.kind, run.spec.model.id, name), []).append(run)
    return found


def write_tables(folder: Path, stem: str, name: str, runs: Sequence[StoredRun]) -> dict[str, Place]:
    """Write one table of each run into files of at most about `LARGEST_FILE` bytes; return where each is."""
    import pyarrow.parquet as pq

    places: dict[str, Place] = {}
    writer: pq.ParquetWriter | None = None
    file, columns, group, n_files = folder, None, 0, 0
    try:
        for rows, digests in row_groups(name, runs):
            if writer is None or rows.schema != columns or file.stat().st_size > LARGEST_FILE:
                if writer is not None:
                    writer.close()
                n_files += 1
                file, columns, group = folder / f"{stem}{'' if n_files == 1 else f'.{n_files}'}.parquet", rows.schema, 0
                writer = pq.ParquetWriter(file, columns, write_page_checksum=True, **parquet_options(rows))
            writer.write_table(rows, row_group_size=len(rows) or 1)
            places |= {key: Place(file.name, group, digest) for key, digest in digests.items()}
            group += 1
    finally:
        if writer is not None:
            writer.close()
    return places


def row_groups(name: str, runs: Sequence[StoredRun]) -> Iterator[tuple[pa.Table, dict[str, str]]]:
    """Yield the rows of a few neighbouring runs together, and the digest of each run's table.

    Runs whose tables have other columns start a new group.
    """
    import pyarrow as pa

    waiting: list[pa.Table] = []
    digests: dict[str, str] = {}
    for run in runs:
        table = run.form.table(run, name)
        rows = pa.Table.from_pandas(table.assign(key=run.key), preserve_index=False).replace_schema_metadata(None)
        if waiting and (len(waiting) == RUNS_PER_GROUP or rows.schema != waiting[0].schema):
            yield pa.concat_tables(waiting), digests
            waiting, digests = [], {}
        waiting.append(rows)
        digests[run.key] = table_digest(table)
    if waiting:
        yield pa.concat_tables(waiting), digests
