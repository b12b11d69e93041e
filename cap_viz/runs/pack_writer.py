"""Writing of packs (`pack.py`): the same runs give the same bytes, so that git stores only what is new."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cap_viz.errors import CapVizError, UsageError
from cap_viz.runs.pack import (
    CONTENT_KEY,
    IDS,
    INDEX,
    PLANS,
    SPECS_KEY,
    VERSION,
    VERSION_KEY,
    Place,
    content_digest,
    ids_digest,
    specs_digest,
)
from cap_viz.runs.run_folder import parquet_options
from cap_viz.runs.spec import spec_dict, stem_of
from cap_viz.runs.stored_run import StoredRun, table_digest

if TYPE_CHECKING:
    import pyarrow as pa

# Runs whose rows are read together: fewer take more space, more take longer to read.
RUNS_PER_GROUP = 8
# A file is closed beyond this size, so that git and its hosts take it.
LARGEST_FILE = 7 << 20


def without_ids(content: Any, lists: dict[str, list[str]]) -> Any:
    """Replace every list of ids in a spec's JSON by its digest; the lists are added to `lists`."""
    if not isinstance(content, dict):
        return content
    short = {name: without_ids(value, lists) for name, value in content.items()}
    if ids := content.get("ids"):
        digest = ids_digest(ids)
        lists[digest] = ids
        short["ids"] = [digest]
    return short


def write_pack(folder: Path, runs: Iterable[StoredRun]) -> int:
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
        write_files(building, sorted(chosen.values(), key=order))
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


def write_files(folder: Path, runs: Sequence[StoredRun]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    places: dict[str, dict[str, Place]] = {run.key: {} for run in runs}
    for (stem, name), group in by_table(runs).items():
        for key, place in write_tables(folder, f"{stem}.{name}", name, group).items():
            places[key][name] = place
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
    about = {VERSION_KEY: VERSION, SPECS_KEY: specs_digest(index), CONTENT_KEY: content_digest(folder, index)}
    pq.write_table(index.replace_schema_metadata(about), folder / INDEX, **options)


def by_table(runs: Sequence[StoredRun]) -> dict[tuple[str, str], list[StoredRun]]:
    """Group runs by kind and model, as they stand in the names of files, and table.

    Models whose ids look alike there share files: rows are told apart by their key.
    """
    found: dict[tuple[str, str], list[StoredRun]] = {}
    for run in runs:
        model = re.sub(r"[^A-Za-z0-9.]+", "-", run.spec.model.id).strip("-.")[-40:]
        for name in run.digests:
            found.setdefault((f"{run.kind}.{model}", name), []).append(run)
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
