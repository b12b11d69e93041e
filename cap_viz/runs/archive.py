"""Runs that travel: export a stored run as a zip, import one, or a whole pack, after checking everything in it.

An imported archive is not trusted: it may hold only the files its manifest lists, sizes are bounded, and the run must
match its key and checksums before it enters the local store.
"""

from __future__ import annotations

import io
import shutil
import zipfile
import zlib
from pathlib import Path

from cap_viz.errors import CapVizError, UsageError
from cap_viz.files import write_bytes
from cap_viz.runs.pack import INDEX, Pack
from cap_viz.runs.run_folder import MANIFEST, run_files
from cap_viz.runs.store import DamagedRun, Store, StoredRun

MAX_BYTES = 256 * 2**20
MAX_FILES = 16
MAX_PACK_BYTES = 4 << 30


def export_run(run: StoredRun, target: Path) -> Path:
    """Write a run to the file `target`, or as `<run>.zip` into the folder `target`; return the file.

    Raises `UsageError` or `CapVizError` where it cannot be written.
    """
    file = target / f"{run.title}.zip" if target.is_dir() else target
    if not file.parent.is_dir():
        raise UsageError(
            f"{file.parent} is not a folder, so {file.name} cannot be written there; choose another place."
        )
    building = file.with_name(f".{file.name}.part")
    try:
        building.write_bytes(archive_bytes(run))
        building.replace(file)
    except OSError as error:
        raise CapVizError(f"{file} cannot be written ({error.strerror}); choose another place.") from error
    finally:
        building.unlink(missing_ok=True)
    return file


def archive_bytes(run: StoredRun) -> bytes:
    """Write a run, from a folder or a pack, as a zip file: one folder with its manifest and tables.

    Raises `DamagedRun` where it cannot be trusted.
    """
    tables = {name: run.form.table(run, name) for name in run.digests}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in run_files(run.spec, tables, run.provenance).items():
            archive.writestr(f"{run.title}/{name}", data)
    return content.getvalue()


def import_run(store: Store, file: Path) -> StoredRun:
    """Import an exported run into the local store, where a sound copy of it is kept.

    Raises `CapVizError` for anything that is not an exported run.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            folder, content = checked_content(file, archive)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeDecodeError) as error:
        # zipfile raises RuntimeError for encrypted and unsupported archives, UnicodeDecodeError for damaged names.
        reason = "encrypted, or packed in an unknown way" if isinstance(error, RuntimeError) else error
        raise UsageError(
            f"{file} is not a readable zip archive ({reason}); use “Run as zip” on the Runs page, or: runs export KEY."
        ) from error
    building = store.local / f".{folder}.importing"
    shutil.rmtree(building, ignore_errors=True)
    try:
        for name, data in content.items():
            write_bytes(building / folder / name, data)
        run = store.open(building / folder)
        if set(content) != {MANIFEST, *(f"{name}.parquet" for name in run.digests)} or not run.digests:
            raise DamagedRun(f"Run {folder} holds other files than its manifest lists.")
        store.verify(run)
        return store.place(building / folder, folder)
    except DamagedRun as error:
        raise UsageError(f"{file} was not imported: {error}") from error
    except OSError as error:
        raise CapVizError(f"{file} was not imported: {store.local} cannot be written ({error.strerror}).") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def import_pack(store: Store, folder: Path) -> tuple[int, int]:
    """Copy a pack of runs (`runs pack`) into the local store; return how many runs it holds, and how many are new.

    Of a run that is stored twice the one that was there first is read.

    Raises `CapVizError` where it is no pack, holds damaged runs, or one of its name is there already.
    """
    target = store.packs_dir / folder.resolve().name
    if target.exists():
        raise UsageError(f"A pack named {target.name} was imported before; rename {folder}, or delete {target}.")
    building = target.with_name(f".{target.name}.importing")
    shutil.rmtree(building, ignore_errors=True)
    if not (folder / INDEX).is_file():
        raise UsageError(f"{folder} is not a pack of runs: it has no {INDEX}; write one with: runs pack.")
    files = sorted(folder.glob("*.parquet"))
    if sum(file.stat().st_size for file in files) > MAX_PACK_BYTES:
        raise UsageError(f"{folder} holds more than {MAX_PACK_BYTES >> 30} GiB; it was not read.")
    try:
        building.mkdir(parents=True)
        for file in files:
            shutil.copy(file, building)
        pack = Pack(building, "live", "")
        if damaged := pack.damaged():
            raise UsageError(f"{folder} was not imported: {next(iter(damaged.values()))}")
        known = {run.key for run in store.runs()}
        building.rename(target)
        return len(pack.runs), len(pack.runs.keys() - known)
    except DamagedRun as error:
        raise UsageError(f"{folder} was not imported: {error}") from error
    except OSError as error:
        raise CapVizError(f"{folder} was not imported ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def checked_content(file: Path, archive: zipfile.ZipFile) -> tuple[str, dict[str, bytes]]:
    """Check names and sizes, and only then unpack: return the name of the archive's folder, and its files."""
    # Not `is_dir`, which fails on an empty name.
    entries = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    folders = {entry.filename.split("/")[0] for entry in entries}
    plain = all(
        entry.filename.count("/") == 1 and "\\" not in entry.filename and ".." not in entry.filename
        for entry in entries
    )
    has_manifest = any(entry.filename.endswith(f"/{MANIFEST}") for entry in entries)
    if len(folders) != 1 or not plain or not has_manifest or len(entries) > MAX_FILES:
        raise UsageError(f"{file} is not an exported run: it should hold one folder with a manifest and tables.")
    if sum(entry.file_size for entry in entries) > MAX_BYTES:
        raise UsageError(f"{file} unpacks to more than {MAX_BYTES >> 20} MiB; it was not read.")
    return folders.pop(), {entry.filename.split("/")[1]: archive.read(entry) for entry in entries}
