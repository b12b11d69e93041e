"""Somebody else's files: whatever is in them, there is a result or one sentence, and nothing outside the cache changes.

A hundred inputs each; `make fuzz` tries ten thousand.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
import zipfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cap_viz.attribution.results import Questions, options_table
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ModelShape
from cap_viz.models.weight_files import weight_bytes
from cap_viz.pruning.export import MASK_FORMAT, read_mask
from cap_viz.runs.archive import archive_bytes, import_run
from cap_viz.runs.run_folder import MANIFEST
from cap_viz.runs.spec import EvalSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import DamagedRun, Store, StoredRun, folder_name
from cap_viz.tasks.description import described, splits_of
from cap_viz.tasks.example_sets import evaluation_set
from cap_viz.validation import mistake

SHAPE = asdict(ModelShape(2, 2, 1, 8, 4, 8, 64, 9))
ONE_STORE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
# Leaves of JSON with the unpleasant ones among them.
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["../../etc/passwd", "<script>", "\u202e", "=1+1", "\ud800".encode("utf-8", "replace").decode()]),
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))


def lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode("utf-8", "replace")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def run(store: Store) -> StoredRun:
    """A sound run of two questions."""
    spec = EvalSpec(ModelRef("a/model", "0" * 16), evaluation_set("mini_science", 2))
    ones = np.ones((2, 4), dtype=np.int64)
    questions = Questions(ids=spec.examples.ids, gold=np.zeros(2, dtype=np.int64), tokens=ones, chars=ones)
    tables = {"options": options_table(questions, -np.ones((2, 4), dtype=np.float32))}
    return store.save(spec, tables, {"seconds": 1.0, "shape": SHAPE, "versions": {}})


def manifest_of(run: StoredRun) -> dict[str, Any]:
    return json.loads((run.folder / MANIFEST).read_text(encoding="utf-8"))


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in paths_in(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(copied[path[0]], path[1:], new)
    return copied


@ONE_STORE
@given(data=st.data())
def test_a_manifest_with_anything_in_it_is_read_or_refused(store: Store, run: StoredRun, data: st.DataObject) -> None:
    manifest = manifest_of(run)
    changed = replaced(manifest, data.draw(st.sampled_from(paths_in(manifest))), data.draw(JSON))
    folder = store.local / run.title
    (folder / MANIFEST).write_text(json.dumps(changed), encoding="utf-8")
    try:
        opened = store.open(folder)
    except DamagedRun:
        pass
    else:
        # As JSON, since 1, 1.0 and true are equal in Python.
        assert json.dumps(spec_dict(opened.spec)) == json.dumps(spec_dict(run.spec))
    finally:
        (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@given(data=st.data())
def test_a_spec_with_anything_in_it_is_sound_or_refused(data: st.DataObject) -> None:
    content = spec_dict(EvalSpec(ModelRef("a/model", "0" * 16), evaluation_set("mini_science", 2)))
    changed = replaced(content, data.draw(st.sampled_from(paths_in(content))), data.draw(JSON))
    try:
        spec = spec_from_dict(changed)
    except ValueError as error:
        mistake(error)  # A sentence, whatever the content.
        return
    assert "/" not in folder_name(spec)
    assert ".." not in folder_name(spec)
    assert spec_from_dict(json.loads(json.dumps(spec_dict(spec)))) == spec or "NaN" in json.dumps(spec_dict(spec))
    assert len(spec_key(spec)) == 16


def test_deeply_nested_json_is_a_sentence(store: Store, run: StoredRun) -> None:
    (run.folder / MANIFEST).write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(DamagedRun, match="no readable manifest"):
        store.open(run.folder)
    assert store.runs() == []
    assert len(store.damaged()) == 1


def test_a_manifest_that_names_files_elsewhere_is_refused(store: Store, run: StoredRun) -> None:
    manifest = manifest_of(run)
    manifest["tables"]["../../secret.txt"] = "0"
    (run.folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DamagedRun, match="lists files that are not in its folder"):
        store.open(run.folder)


NAMES = st.sampled_from(
    ["run/manifest.json", "run/options.parquet", "../x", "/etc/x", "run/../../x", "a\\b", "run/", "run/a/b", "C:\\x"]
) | st.text(min_size=1, max_size=12)


@ONE_STORE
@given(entries=st.lists(st.tuples(NAMES, st.binary(max_size=60)), max_size=6), cut=st.integers(0, 400))
def test_an_archive_with_anything_in_it_is_imported_or_refused(
    store: Store, tmp_path: Path, entries: list[tuple[str, bytes]], cut: int
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A name may come twice.
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name.replace("\x00", "0") or "x"), data)
    file = tmp_path / "given.zip"
    file.write_bytes(content.getvalue()[: len(content.getvalue()) - cut % 50])
    before = set(tmp_path.iterdir())
    with pytest.raises(CapVizError):
        import_run(store, file)
    assert {path for path in tmp_path.iterdir() if path != store.local.parent} <= before | {store.local}
    assert not list(store.local.glob("*")) if store.local.is_dir() else True


def test_an_archive_with_an_empty_name_is_refused(store: Store, tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("qqq", b"")
    file = tmp_path / "given.zip"
    file.write_bytes(content.getvalue().replace(b"qqq", bytes(3)))  # Names end at the first zero.
    with pytest.raises(UsageError, match="not an exported run"):
        import_run(store, file)


def test_an_archive_with_a_name_that_is_no_text_is_refused(store: Store, run: StoredRun, tmp_path: Path) -> None:
    content = bytearray(archive_bytes(run))
    # In the header before the first file: its name is in UTF-8, and the first byte of that name.
    content[7], content[30] = 0x08, 0x80
    file = tmp_path / "given.zip"
    file.write_bytes(bytes(content))
    with pytest.raises(UsageError, match="not a readable zip archive"):
        import_run(store, file)


@ONE_STORE
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_flipped_byte_in_an_exported_run_never_gets_in_unseen(
    store: Store, run: StoredRun, tmp_path: Path, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(archive_bytes(run))
    for place, value in flips:
        content[place % len(content)] = value
    file = tmp_path / "given.zip"
    file.write_bytes(bytes(content))
    other = Store(shipped=tmp_path / "none", local=tmp_path / "other")
    try:
        imported = import_run(other, file)
    except CapVizError:
        return
    assert imported.digests == run.digests
    other.verify(imported)


@ONE_STORE
@given(content=st.binary(max_size=300) | st.lists(JSON, max_size=5).map(lines))
def test_rows_with_anything_in_them_are_a_task_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    try:
        splits = splits_of(described(file))
    except CapVizError:
        return
    for example in (*splits.calibration, *splits.evaluation):
        assert 0 <= example.gold < len(example.options)


@ONE_STORE
@given(content=st.text(max_size=200) | st.dictionaries(st.text(max_size=8), LEAVES).map(json.dumps))
def test_a_description_with_anything_in_it_is_read_or_a_sentence(tmp_path: Path, content: str) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(content, encoding="utf-8", errors="replace")
    with pytest.raises(CapVizError):
        described(file)


@ONE_STORE
@given(content=st.binary(max_size=200))
def test_bytes_that_are_no_weights_are_a_sentence(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    size = len(content).to_bytes(8, "little")
    for whole in (content, size + content, size + content + b"x"):
        (folder / "model.safetensors").write_bytes(whole)
        with suppress(CapVizError):
            assert weight_bytes(folder, "float32") >= 0
        with pytest.raises(CapVizError, match="mask"):
            read_mask(folder / "model.safetensors")


def test_a_mask_that_claims_a_giant_matrix_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mask.safetensors"
    metadata = {"format": MASK_FORMAT, "shapes": json.dumps({"0.q": [1 << 20, 1 << 20]}), "spec": "{}"}
    save_file({"0.q": np.zeros(4, dtype=np.uint8)}, file, metadata=metadata)
    with pytest.raises(CapVizError, match="no matrix of"):
        read_mask(file)


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=12), min_size=1, max_size=5))
def test_no_text_becomes_a_formula(texts: list[str]) -> None:
    table = pd.DataFrame({"text": [*texts, "=HYPERLINK(1)", "a\r=SUM(1)", "-2+3"], "number": -1.5})
    header, *rows = csv.reader(io.StringIO(csv_text(table), newline=""))
    assert header == ["text", "number"]
    assert [number for _, number in rows] == ["-1.5"] * len(table), "no text makes a row of its own"
    assert not any(text.startswith(("=", "+", "-", "@")) for text, _ in rows)
