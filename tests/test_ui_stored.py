"""The pages' reader: a stored run is read once, and again when its files have been replaced."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest

from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import ExampleSet
from tests.tiny import listed_run

SPEC = EvalSpec(ModelRef("a/b", "0" * 16), ExampleSet("mini_science", 1, ("x",), "evaluation"))
RUN = listed_run(SPEC, key="k")


def test_a_run_is_read_once_for_equal_arguments(tmp_path: Path) -> None:
    reads: list[tuple[str, float]] = []

    @lru_cache(8)
    def value(store: Store, run: StoredRun, scale: float = 1.0) -> float:
        reads.append((run.key, scale))
        return scale

    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    # Another object for the same folders, and the same run as listed again.
    same, listed_again = Store(shipped=tmp_path / "shipped", local=tmp_path / "local"), listed_run(SPEC, key="k")
    assert [value(store, RUN), value(same, listed_again)] == [1.0, 1.0]
    assert [value(store, RUN, scale=2.0), value(same, RUN, scale=2.0)] == [2.0, 2.0]
    assert reads == [("k", 1.0), ("k", 2.0)]


@pytest.mark.parametrize("other", [listed_run(SPEC, key="k", digest="2"), listed_run(SPEC, key="k", folder="b")])
def test_a_replaced_run_is_read_again(tmp_path: Path, other: StoredRun) -> None:
    reads: list[StoredRun] = []

    @lru_cache(8)
    def value(store: Store, run: StoredRun) -> int:
        reads.append(run)
        return len(reads)

    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    assert [value(store, RUN), value(store, other), value(store, RUN)] == [1, 2, 1]
    elsewhere = Store(shipped=tmp_path / "shipped", local=tmp_path / "elsewhere")
    assert value(elsewhere, RUN) == 3
