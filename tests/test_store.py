"""The store while others read it: nothing sound is ever missed, deleting always ends, damage is told where it lies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cap_viz.dashboard.stored import stored_runs
from cap_viz.errors import CapVizError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.archive import export_run, import_run
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.run_folder import MANIFEST
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import SPEC, Store, StoredRun
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import evaluation_set
from tests.moves import look_after_every_move
from tests.shell import Shell


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def spec(tiny_model: ReasoningModel, tiny_task: Task) -> EvalSpec:
    return EvalSpec(tiny_model.ref, evaluation_set("tiny", 6))


@pytest.fixture
def run(spec: EvalSpec, tiny_model: ReasoningModel, store: Store) -> StoredRun:
    return finish(run_steps(spec, tiny_model, store))


def spoil(run: StoredRun) -> None:
    (run.folder / "options.parquet").write_bytes(b"not a table")


def everything_in(folder: Path) -> dict[Path, int]:
    """All paths with the time of their last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("write", ["save", "import"])
def test_a_sound_run_is_never_missed_while_it_is_written_once_more(
    write: str, run: StoredRun, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder in place was moved away before the new one was there."""
    archive = export_run(run, tmp_path)
    tables = {"options": store.table(run, "options")}
    seen: list[bool] = []
    with monkeypatch.context() as patch:
        look_after_every_move(patch, lambda: seen.append(store.get(run.spec) == run))
        again = store.save(run.spec, tables, run.provenance) if write == "save" else import_run(store, archive)
    assert len(seen) > 3
    assert all(seen)
    assert again == run
    assert [path.name for path in store.local.iterdir()] == [run.title], "nothing is left beside it"


def test_the_run_that_was_there_first_stays_when_two_processes_save_it(
    run: StoredRun, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {"options": store.table(run, "options")}
    aside = store.local.parent / "first"
    run.folder.rename(aside)
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        rename(aside, run.folder)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", late)
        assert store.save(run.spec, tables, {**run.provenance, "seconds": 1e9}) == run
    assert [path.name for path in store.local.iterdir()] == [run.title]


def test_reading_changes_no_file(run: StoredRun, store: Store) -> None:
    """Lists, pages and tables moved what was damaged into the quarantine."""
    bad = store.local / f"{run.title[:-4]}beef"
    shutil.copytree(run.folder, bad)
    (store.local / "eval-without-manifest").mkdir()
    spoil(run)
    before = everything_in(store.local.parent)
    assert [found.key for found in store.runs()] == [run.key]
    assert stored_runs(store) == store.runs()
    assert store.get(run.spec) == run
    assert store.sound(run.spec) is None
    with pytest.raises(CapVizError, match="does not match its checksum"):
        load_report(store, store.runs()[0])
    said = store.damaged()
    assert everything_in(store.local.parent) == before
    assert len(said) == 3
    assert [sentence for sentence in said if "was set aside" in sentence] == []
    store.set_aside_damaged()
    assert [sentence.endswith("It was set aside.") for sentence in store.damaged()] == [True] * 3
    assert list(store.local.iterdir()) == []


def test_a_damaged_run_gives_way_to_an_imported_one(run: StoredRun, store: Store, tmp_path: Path) -> None:
    archive = export_run(run, tmp_path)
    spoil(run)
    store.verify(import_run(store, archive))
    (aside,) = store.quarantine.iterdir()
    assert (aside / "options.parquet").read_bytes() == b"not a table", "kept, not overwritten"


def test_a_damaged_longer_run_is_not_taken_for_its_first_items(
    run: StoredRun, tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    spoil(run)
    few = finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set("tiny", 3)), tiny_model, store))
    assert "taken_from" not in few.provenance
    assert np.isfinite(load_report(store, few).losses("nll")).all()


def test_the_shell_computes_a_damaged_run_again(shell: Shell, tiny: list[str]) -> None:
    """As its sentence says: start the run again."""
    first = shell.json("eval", *tiny, "--n", "5")
    store = Store()
    (run,) = [run for run in store.runs() if run.key == first["key"]]
    spoil(run)
    again = shell.json("eval", *tiny, "--n", "5")
    assert again["key"] == first["key"]
    store.verify(run)  # The checksums are those of the first time.
    assert [sentence.endswith("It was set aside.") for sentence in store.damaged()] == [True]


@pytest.mark.parametrize("name", [".{title}.deleted", ".{title}.1.deleted"])
def test_a_run_is_deleted_although_an_earlier_deletion_left_something_behind(
    name: str, run: StoredRun, store: Store
) -> None:
    left = store.local / name.format(title=run.title)
    shutil.copytree(run.folder, left)
    store.delete(run)
    assert not run.folder.exists()
    assert store.get(run.spec) is None
    assert [path.name for path in store.local.iterdir()] == [left.name]


def test_a_run_whose_files_cannot_all_be_removed_is_deleted_all_the_same(
    run: StoredRun, tiny_model: ReasoningModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was renamed, so it was gone, and yet "cannot be deleted" was said; and so it was of every later one."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        store.delete(run)
    assert store.runs() == []
    assert store.damaged() == []
    store.delete(finish(run_steps(run.spec, tiny_model, store)))
    assert store.runs() == []


def test_two_processes_delete_one_run(run: StoredRun, store: Store) -> None:
    store.delete(run)
    store.delete(run)
    assert list(store.local.iterdir()) == []


def test_a_run_that_goes_while_a_page_lists_is_passed_over(
    run: StoredRun, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = store.local / "eval-gone-0123456789abcdef"
    monkeypatch.setattr(store, "folders", lambda: iter([gone, run.folder]))
    assert stored_runs(store) == store.runs() == [run]
    assert store.damaged() == []


def test_an_unfinished_run_that_ends_while_a_page_lists_is_passed_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = store.partial_runs_dir / "eval-gone" / SPEC
    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", lambda *_: iter([gone]))
        assert store.unfinished() == []


def test_what_cannot_be_set_aside_is_said_and_stays(
    run: StoredRun, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(run)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(CapVizError, match=r"cannot be set aside \(Read-only file system\)"):
            store.set_aside_damaged()
    assert (run.folder / MANIFEST).is_file()


def test_a_reason_that_does_not_fit_on_the_disk_hides_no_run(
    run: StoredRun, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run in the quarantine without a reason beside it was named nowhere."""
    spoil(run)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert len(store.set_aside_damaged()) == 1
    (sentence,) = store.damaged()
    assert run.title in sentence
