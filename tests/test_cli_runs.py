"""Stored runs from the shell: list, show, verify, export, import, and archives that are not let in."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cap_viz import settings
from tests.shell import Shell


def test_runs_lists_what_was_computed(shell: Shell, tiny: list[str]) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    listed = shell.json("runs")
    assert key in [run["key"] for run in listed["runs"]]
    assert listed["damaged"] == []
    code, out, _ = shell("runs")
    assert code == 0
    assert key in out


def test_runs_show_verify_export_import(shell: Shell, tiny: list[str], tmp_path: Path) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    code, out, _ = shell("runs", "show", key[:8])
    assert code == 0
    shown = json.loads(out)
    assert (shown["key"], shown["spec"]["kind"], len(shown["spec"]["examples"]["ids"])) == (key, "eval", 3)
    assert shell.json("runs", "verify")["damaged"] == []
    assert shell("runs", "export", key, "--to", str(tmp_path))[0] == 0
    (archive,) = tmp_path.glob("*.zip")
    shutil.rmtree(settings.local_folder() / "runs")
    assert key not in [run["key"] for run in shell.json("runs", "list")["runs"]]
    assert shell("runs", "import", str(archive))[0] == 0
    assert key in [run["key"] for run in shell.json("runs")["runs"]]
    code, _, err = shell("runs", "show", "zz")
    assert code == 2
    assert "'zz'" in err
    assert err.count("\n") == 1


def rewritten(archive: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as result:
        for name in source.namelist():
            result.writestr(*change(name, source.read(name)))
    return target


def changed_manifest(**changes: Any) -> Callable[[str, bytes], tuple[str, bytes]]:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        return name, json.dumps(json.loads(data) | changes).encode() if name.endswith("manifest.json") else data

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda name, data: (name, data[:-1] if name.endswith("options.parquet") else data), "checksum"),
        (lambda name, data: (f"../{name}", data), "not an exported run"),
        (lambda name, data: (f"deep/{name}", data), "not an exported run"),
        (lambda name, data: (name, b"{}" if name.endswith("manifest.json") else data), "no readable manifest"),
        (lambda name, data: (name.replace("manifest.json", "photo.jpg"), data), "not an exported run"),
        (changed_manifest(tables={}), "holds other files than its manifest lists"),
        (changed_manifest(engine=99, tables={}), "does not match its key"),
        (changed_manifest(tables={"../../../etc/passwd": "0"}), "lists files that are not in its folder"),
        (changed_manifest(tables={"passwd": "0"}), "lacks its file"),
        (
            changed_manifest(provenance={"created": "today", "seconds": 1}),
            "provenance.created should be a date and time with its zone, not 'today'",
        ),
        (
            changed_manifest(provenance={"created": "2026-11-27T00:00:00Z"}),
            "the field provenance.seconds is missing; there are created",
        ),
        (changed_manifest(schema=99), "has schema 99, this program reads"),
    ],
)
def test_foreign_archives_are_not_imported(
    shell: Shell, tiny: list[str], tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes]], sentence: str
) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    shell("runs", "export", key, "--to", str(tmp_path))
    (archive,) = tmp_path.glob("*.zip")
    shutil.rmtree(settings.local_folder() / "runs")
    code, _, err = shell("runs", "import", str(rewritten(archive, tmp_path / "changed.zip", change)))
    assert code == 2
    assert re.search(sentence, err)
    assert not list((settings.local_folder() / "runs").glob("[!.]*"))


def test_something_else_than_an_archive(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("hello")
    code, _, err = shell("runs", "import", str(tmp_path / "x.zip"))
    assert code == 2
    assert str(tmp_path / "x.zip") in err
    assert "zip archive" in err


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 97)], ids=["encrypted", "unknown compression"])
def test_archives_zipfile_cannot_open(shell: Shell, tiny: list[str], tmp_path: Path, offset: int, value: int) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    shell("runs", "export", key, "--to", str(tmp_path))
    (archive,) = tmp_path.glob("*.zip")
    content = bytearray(archive.read_bytes())
    # The flags and the method stand in the central directory and, two bytes earlier, in the file's own header.
    content[content.index(b"PK\x01\x02") + offset] = content[offset - 2] = value
    archive.write_bytes(content)
    code, _, err = shell("runs", "import", str(archive))
    assert code == 2
    assert str(archive) in err
    assert "encrypted" in err


def test_a_file_that_no_manifest_lists_stays_out(shell: Shell, tiny: list[str], tmp_path: Path) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    shell("runs", "export", key, "--to", str(tmp_path))
    (archive,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(archive, "a") as target:
        target.writestr(f"{archive.stem}/evil.py", "print()")
    shutil.rmtree(settings.local_folder() / "runs")
    code, _, err = shell("runs", "import", str(archive))
    assert code == 2
    assert "holds other files than its manifest lists" in err
    assert not list((settings.local_folder() / "runs").rglob("evil.py"))


def test_targets_that_cannot_be_written(
    shell: Shell, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    (tmp_path / "file").write_text("")
    for target in ("missing/a.zip", "file/a.zip"):
        code, _, err = shell("runs", "export", key, "--to", str(tmp_path / target))
        assert code == 2
        assert str((tmp_path / target).parent) in err
        assert "a.zip" in err
    shell("runs", "export", key, "--to", str(tmp_path / "a.zip"))
    monkeypatch.setenv("CAP_VIZ_CACHE", str(tmp_path / "file"))
    code, _, err = shell("runs", "import", str(tmp_path / "a.zip"))
    assert code == 1
    assert "a.zip" in err
    assert str(tmp_path / "file") in err
    assert not list((tmp_path / "file").glob("*"))


def test_keys_that_name_none_or_many(shell: Shell, tiny: list[str]) -> None:
    for n in ("3", "4"):
        shell.json("eval", *tiny, "--n", n)
    code, _, err = shell("runs", "show", "")
    assert code == 2
    assert re.search(rf"\b{len(shell.json('runs')['runs'])}\b.*''", err)
    code, _, err = shell("runs", "--json", "list")
    assert code == 2
    assert "runs list --json" in err
