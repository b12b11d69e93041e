"""Packs of runs: the same runs as in folders, in few files; damage is found, named by run, and loses nothing else."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs import pack_writer
from cap_viz.runs.archive import export_run, import_pack, import_run
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.pack import IDS, INDEX, PLANS, open_pack
from cap_viz.runs.pack_writer import write_pack
from cap_viz.runs.prefix_reuse import longer_run
from cap_viz.runs.spec import EvalSpec, ScoreSpec, spec_dict
from cap_viz.runs.store import Store, StoredRun
from cap_viz.runs.stored_run import DamagedRun, table_digest
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.shell import Shell

TASK = "mini_science"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: ReasoningModel) -> Store:
    """A store of folders: head scores, and evaluations dense and pruned, on 6 and on 9 questions."""
    folder = tmp_path_factory.mktemp("folders")
    store = Store(shipped=folder / "none", local=folder / "local")
    mask = mask_spec_for(tiny_model.ref, "magnitude", 0.5, task=TASK, n=2)
    finish(run_steps(ScoreSpec(tiny_model.ref, calibration_set(TASK, 4)), tiny_model, store))
    for n in (6, 9):
        for one in (None, mask):
            finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set(TASK, n), one), tiny_model, store))
    return store


@pytest.fixture
def packed(folders: Store, tmp_path: Path) -> Store:
    """The same runs as the shipped pack of another store."""
    write_pack(tmp_path / "shipped", folders.runs())
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def facts(store: Store) -> dict[str, Any]:
    return {
        run.key: (
            spec_dict(run.spec),
            run.provenance,
            {name: table_digest(store.table(run, name)) for name in run.digests},
            dict(run.digests),
        )
        for run in store.runs()
    }


def test_a_pack_holds_what_the_folders_held(folders: Store, packed: Store) -> None:
    assert facts(packed) == facts(folders)
    assert packed.damaged() == []
    assert {run.origin for run in packed.runs()} == {"precomputed"}
    for run in folders.runs():
        found = packed.sound(run.spec)
        assert found is not None
        assert (found.key, found.created, found.title) == (run.key, run.created, run.title)


def test_others_read_the_tables_without_this_program(folders: Store, packed: Store) -> None:
    (file,) = packed.shipped.glob("eval.*.options.parquet")
    table = pd.read_parquet(file)
    run = next(run for run in folders.runs() if "options" in run.digests and run.kind == "eval")
    assert len(table[table["key"] == run.key]) == len(folders.table(run, "options"))


def test_a_pack_of_the_same_runs_has_the_same_bytes(folders: Store, packed: Store, tmp_path: Path) -> None:
    """So that git stores only what is new."""
    write_pack(tmp_path / "again", reversed(folders.runs()))
    for file in packed.shipped.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_a_longer_packed_run_answers_a_shorter_one(packed: Store, tiny_model: ReasoningModel) -> None:
    few = EvalSpec(tiny_model.ref, evaluation_set(TASK, 3))
    longer = longer_run(few, packed)
    assert longer is not None
    assert len(longer.spec.examples.ids) in (6, 9)
    assert longer.spec.mask is None
    cut = finish(run_steps(few, tiny_model, packed))
    assert cut.provenance["taken_from"] == longer.key
    assert load_report(packed, cut).acc == pytest.approx(load_report(packed, longer).correct[:3].mean())
    assert longer_run(replace(few, examples=replace(few.examples, ids=("other",))), packed) is None


def test_export_and_import_work_from_a_pack(packed: Store, tmp_path: Path) -> None:
    run = packed.runs()[0]
    other = Store(shipped=tmp_path / "none", local=tmp_path / "other")
    imported = import_run(other, export_run(run, tmp_path))
    assert (imported.key, imported.spec, dict(imported.digests)) == (run.key, run.spec, dict(run.digests))
    other.verify(imported)


def test_an_imported_pack_is_read_beside_folders(packed: Store, folders: Store, tmp_path: Path) -> None:
    other = Store(shipped=tmp_path / "none", local=tmp_path / "other")
    assert import_pack(other, packed.shipped) == (len(folders.runs()), len(folders.runs()))
    assert facts(other) == facts(folders)
    with pytest.raises(UsageError, match="imported before"):
        import_pack(other, packed.shipped)
    with pytest.raises(UsageError, match=INDEX):
        import_pack(other, tmp_path)
    with pytest.raises(UsageError, match=r"other.packs.shipped"):
        other.delete(other.runs()[0])


def test_of_two_packs_with_one_run_the_first_counts(packed: Store, folders: Store, tmp_path: Path) -> None:
    shutil.copytree(packed.shipped, packed.shipped.with_name("copy"))
    assert import_pack(packed, packed.shipped.with_name("copy")) == (len(folders.runs()), 0)
    assert facts(packed) == facts(folders)
    assert {run.folder for run in packed.runs()} == {packed.shipped}


def spoil(file: Path, place: float) -> None:
    """Flip a byte of every 16 in a short stretch: a single one may be of a header that nobody reads."""
    content = bytearray(file.read_bytes())
    start = int(len(content) * place)
    for at in range(start, start + 64, 16):
        content[at] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5])
def test_flipped_bytes_are_found_and_named_by_run(packed: Store, folders: Store, place: float) -> None:
    (file,) = packed.shipped.glob("score.*.ablated.parquet")
    spoil(file, place)
    (sentence,) = packed.damaged()
    score = next(run for run in packed.runs() if run.kind == "score")
    assert score.title in sentence
    assert "git restore cache/shipped" in sentence
    with pytest.raises(DamagedRun):
        packed.table(score, "ablated")
    with pytest.raises(DamagedRun):
        packed.sound(score.spec)
    for run in packed.runs():
        assert packed.is_sound(run) == (run != score)


@pytest.mark.parametrize(
    ("file", "damage"),
    [(INDEX, "truncated"), (IDS, "truncated"), (PLANS, "truncated"), (IDS, "removed"), (PLANS, "removed")],
)
def test_a_pack_whose_own_files_are_damaged_is_one_sentence(packed: Store, file: str, damage: str) -> None:
    path = packed.shipped / file
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40])
    assert packed.damaged()
    assert all("git restore cache/shipped" in sentence for sentence in packed.damaged())


def rewritten(store: Store, change: Callable[[list[dict[str, Any]]], object], version: bytes = b"1") -> None:
    """The index with changed rows, as somebody might edit it; its metadata stay, but for the version."""
    import pyarrow as pa

    table = pq.read_table(store.shipped / INDEX)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(
        pa.Table.from_pylist(rows, schema=table.schema).replace_schema_metadata(
            {**(table.schema.metadata or {}), b"cap_viz_pack": version}
        ),
        store.shipped / INDEX,
    )


def other_spec(rows: list[dict[str, Any]]) -> None:
    rows[0]["spec"] = json.dumps(json.loads(rows[0]["spec"]) | {"kind": rows[0]["kind"], "extra": 1})


def other_place(rows: list[dict[str, Any]]) -> None:
    tables = json.loads(rows[0]["tables"])
    tables[next(iter(tables))]["file"] = "../../etc/passwd"
    rows[0]["tables"] = json.dumps(tables)


def other_seed(rows: list[dict[str, Any]]) -> None:
    spec = json.loads(rows[0]["spec"])
    spec["examples"]["seed"] = 77
    rows[0]["spec"] = json.dumps(spec)


@pytest.mark.parametrize("change", [other_spec, other_place, other_seed])
def test_a_wrong_index_is_found_and_named_by_run(
    packed: Store, change: Callable[[list[dict[str, Any]]], object]
) -> None:
    before = packed.runs()
    rewritten(packed, change)
    (sentence,) = packed.damaged()
    (bad,) = [run for run in before if run.title in sentence]
    assert len([run for run in packed.runs() if packed.is_sound(run)]) == len(before) - 1
    assert bad.key not in {run.key for run in packed.runs() if packed.is_sound(run)}
    # What is listed has a spec that pages can ask for.
    assert {run.spec.kind for run in packed.runs()} <= {"score", "eval"}


def test_a_pack_of_a_newer_version_says_so(packed: Store) -> None:
    rewritten(packed, lambda rows: None, version=b"2")
    assert packed.runs() == []
    (sentence,) = packed.damaged()
    assert "version 2" in sentence
    assert "reads version 1" in sentence


def test_damage_in_an_imported_pack_is_set_aside_and_the_rest_goes_on(packed: Store, folders: Store) -> None:
    target = packed.packs_dir / "team"
    shutil.copytree(packed.shipped, target)
    shutil.rmtree(packed.shipped)
    (file,) = target.glob("score.*.ablated.parquet")
    spoil(file, 0.3)
    before = {path: path.read_bytes() for path in target.iterdir()}
    (sentence,) = packed.damaged()
    packed.runs()
    assert {path: path.read_bytes() for path in target.iterdir()} == before, "reading moves nothing"
    assert packed.set_aside_damaged() == [sentence.split(" Import")[0]]
    assert {run.kind for run in packed.runs()} == {"eval"}
    assert len(packed.runs()) == len(folders.runs()) - 1
    assert len(packed.damaged()) == 1, "what was set aside is still named"
    (aside,) = packed.quarantine.iterdir()
    assert (aside / INDEX).is_file()


def test_a_full_disk_while_packing_loses_nothing(
    packed: Store, folders: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in packed.shipped.iterdir()}

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pack_writer, "write_tables", refuse)
    with pytest.raises(CapVizError, match="No space left"):
        write_pack(packed.shipped, folders.runs())
    assert {path.name: path.read_bytes() for path in packed.shipped.iterdir()} == before
    assert [path.name for path in packed.shipped.parent.glob(".*")] == []


def test_a_damaged_run_is_not_packed(folders: Store, tmp_path: Path) -> None:
    shutil.copytree(folders.local.parent, tmp_path / "copy")
    store = Store(shipped=tmp_path / "none", local=tmp_path / "copy")
    (store.runs()[0].folder / "options.parquet").write_bytes(b"not a table")
    with pytest.raises(DamagedRun):
        write_pack(tmp_path / "pack", store.runs())
    assert not (tmp_path / "pack").exists()
    with pytest.raises(UsageError, match="no run"):
        write_pack(tmp_path / "pack", [])


def test_models_whose_names_look_alike_are_told_apart(folders: Store, tmp_path: Path) -> None:
    store = Store(shipped=tmp_path / "none", local=tmp_path / "local")
    run = next(run for run in folders.runs() if run.kind == "score")
    tables = {name: folders.table(run, name) for name in run.digests}
    for number, model in enumerate(("a/b", "a-b")):
        changed = {name: table.iloc[number:] for name, table in tables.items()}
        store.save(replace(run.spec, model=ModelRef(model, "0" * 16)), changed, run.provenance)
    write_pack(tmp_path / "shipped", store.runs())
    assert facts(Store(shipped=tmp_path / "shipped", local=tmp_path / "other")) == facts(store)


def test_large_tables_go_into_several_files(folders: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_writer, "LARGEST_FILE", 1)
    monkeypatch.setattr(pack_writer, "RUNS_PER_GROUP", 1)
    write_pack(tmp_path / "pack", folders.runs())
    assert len(list((tmp_path / "pack").glob("eval.*.options*.parquet"))) > 1
    store = Store(shipped=tmp_path / "pack", local=tmp_path / "local")
    assert facts(store) == facts(folders)


def test_the_shell_packs_adds_and_imports(shell: Shell, tiny: list[str], tmp_path: Path) -> None:
    first = shell.json("eval", *tiny, "--n", "3")["key"]
    assert shell("runs", "pack", str(tmp_path / "team"))[0] == 0
    second = shell.json("eval", *tiny, "--n", "4")["key"]
    assert shell("runs", "pack", str(tmp_path / "team"), second)[0] == 0
    pack = open_pack(tmp_path / "team", "live", "")
    assert pack is not None
    assert set(pack.runs) == {first, second}
    shutil.rmtree(Store().local)
    assert shell("runs", "import", str(tmp_path / "team"))[0] == 0
    assert {first, second} <= {run.key for run in Store().runs()}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    code, _, err = shell("runs", "pack", str(tmp_path / "other"))
    assert code == 2
    assert INDEX in err


def test_runs_of_a_pack_are_equal_to_themselves_only(packed: Store, folders: Store) -> None:
    one, other = packed.runs()[0], folders.runs()[0]
    assert one.key == other.key
    assert one == packed.get(one.spec)
    assert one != other
    assert isinstance(one, StoredRun)


@pytest.fixture(scope="module")
def small_pack(folders: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pack = tmp_path_factory.mktemp("small") / "pack"
    write_pack(pack, folders.runs()[:2])
    return pack


@hypothesis.given(data=st.data())
def test_any_bytes_in_a_pack_are_read_or_refused_with_a_sentence(small_pack: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(shutil.copytree(small_pack, Path(folder, "shipped")))
        file = data.draw(st.sampled_from(sorted(pack.iterdir())))
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(bytes(content))
        store = Store(shipped=pack, local=Path(folder, "local"))
        assert all(isinstance(sentence, str) for sentence in store.damaged())
        for run in store.runs():
            with suppress(DamagedRun):
                store.verify(run)
                assert {table_digest(store.table(run, name)) for name in run.digests} == set(run.digests.values())
