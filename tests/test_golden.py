"""Keys and tables stay what they were when the golden files were written (`tests/golden.py`)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pandas as pd
import pytest

from cap_viz.runs.run_folder import parquet
from cap_viz.runs.spec import RunSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.stored_run import table_digest
from tests.golden import (
    KEYS,
    RUNS,
    SPECS,
    extend,
    generated,
    generated_contents,
    generated_keys,
    kept,
    shipped_digests,
)

TABLE = pd.DataFrame(
    {
        "example": np.array([0, 0, 1], dtype=np.int32),
        "id": ["a", None, ""],
        "loglik": np.array([-1.5, np.nan, 0.1], dtype=np.float32),
    }
)


@pytest.mark.usefixtures("all_shipped")
def test_shipped_runs_hold_what_they_held() -> None:
    """Guards packing, moving and re-keying of runs: the same keys, the same tables, the same values."""
    today, before = shipped_digests(), kept(RUNS)
    assert set(today) == set(before), "new shipped runs: python -m tests.golden"
    assert {key for key in before if today[key] != before[key]} == set()


def test_generated_specs_have_the_keys_they_had() -> None:
    assert generated_keys() == kept(KEYS)


def test_every_part_of_a_spec_is_in_its_key() -> None:
    keys = generated_keys()
    assert len(set(keys.values())) == len({json.dumps(spec_dict(spec)) for spec in generated().values()})


def test_specs_written_before_are_read_as_what_they_were() -> None:
    before = kept(SPECS)
    assert generated_contents() == before
    for key, content in before.items():
        spec = spec_from_dict(content)
        assert spec_key(spec) == key
        assert spec_dict(spec) == content


@pytest.mark.parametrize("kind", get_args(RunSpec), ids=lambda kind: kind.kind)
def test_a_generated_spec_is_read_back(kind: type) -> None:
    for spec in generated().values():
        if isinstance(spec, kind):
            assert spec_from_dict(spec_dict(spec)) == spec


def test_every_field_of_every_spec_is_generated_with_two_values() -> None:
    """A new kind of run, or a new field of a spec, has to be added to `tests.golden.generated`."""
    values: dict[tuple[str, str], set[str]] = {
        (kind.__name__, field.name): set() for kind in spec_classes(RunSpec, set()) for field in fields(kind)
    }
    for spec in generated().values():
        for part in parts_of(spec):
            for field in fields(part):
                values[type(part).__name__, field.name].add(repr(getattr(part, field.name)))
    assert {field for field, found in values.items() if len(found) < 2} == set()


def spec_classes(hint: Any, found: set[type]) -> set[type]:
    """Add the dataclasses that an annotation names or its fields name: scores name masks, and masks scores."""
    inner = list(get_args(hint))
    if isinstance(hint, type) and is_dataclass(hint) and hint not in found:
        found.add(hint)
        inner += get_type_hints(hint).values()
    for one in inner:
        spec_classes(one, found)
    return found


def parts_of(spec: Any) -> Iterator[Any]:
    yield spec
    for field in fields(spec):
        if is_dataclass(value := getattr(spec, field.name)):
            yield from parts_of(value)


def test_a_digest_is_of_values_not_of_bytes() -> None:
    packed = io.BytesIO()
    TABLE.astype({"id": "category"}).to_parquet(packed, compression=None, row_group_size=1)
    digest = table_digest(TABLE)
    assert table_digest(pd.read_parquet(packed)) == digest
    assert table_digest(pd.read_parquet(io.BytesIO(parquet(TABLE)))) == digest
    assert table_digest(TABLE.set_axis([7, 8, 9])) == digest
    other_nan = TABLE["loglik"].to_numpy().view(np.uint32) ^ np.array([0, 1, 0], dtype=np.uint32)
    assert table_digest(TABLE.assign(loglik=other_nan.view(np.float32))) == digest


@pytest.mark.parametrize(
    "changed",
    [
        TABLE.assign(loglik=np.nextafter(TABLE["loglik"], np.float32(1))),
        TABLE.assign(loglik=TABLE["loglik"].astype(np.float64)),
        TABLE.assign(id=["a", "", None]),
        TABLE.assign(id=["a", "None", ""]),
        TABLE.rename(columns={"id": "name"}),
        TABLE[["id", "example", "loglik"]],
        TABLE.iloc[::-1],
        TABLE.iloc[:2],
    ],
    ids=["value", "type", "missing text", "text", "name", "columns", "rows", "length"],
)
def test_a_digest_tells_what_changed(changed: pd.DataFrame) -> None:
    assert table_digest(changed) != table_digest(TABLE)


def test_an_entry_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "golden.json"
    assert extend(file, {"b": 1}) == []
    assert extend(file, {"a": 2, "b": 3}) == ["b"]
    assert kept(file) == {"a": 2, "b": 1}
