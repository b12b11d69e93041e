"""A finished run as the store hands it out, whatever form it is stored in, and the digest of a table's values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, Self, cast

import numpy as np
import pandas as pd
from typing_extensions import TypeVar

from cap_viz.errors import CapVizError
from cap_viz.runs.spec import ENGINE_VERSION, SCHEMA_VERSION, RunSpec, spec_dict

# `StoredRun` alone is a run of any kind.
Spec = TypeVar("Spec", bound=RunSpec, default=RunSpec, covariant=True)


class DamagedRun(CapVizError):
    """A stored run that cannot be trusted: the `reason`, and the remedy where there is one."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason} {remedy}".strip())
        self.reason = reason


class Form(Protocol):
    """Form in which runs are stored: a folder each (`run_folder.py`), or packed together (`pack.py`).

    All methods raise `DamagedRun` where what they read cannot be trusted.
    """

    @property
    def folder(self) -> Path: ...

    def spec_of(self, run: StoredRun) -> RunSpec: ...

    def provenance_of(self, run: StoredRun) -> dict[str, Any]: ...

    def digests_of(self, run: StoredRun) -> Mapping[str, str]: ...

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        """Read a table, and check that its values are those that were written."""
        ...

    def verify(self, run: StoredRun) -> None:
        """Check the spec against the key, and every table."""
        ...


@dataclass(frozen=True, eq=False)
class StoredRun(Generic[Spec]):
    """A finished run. Its type names the class of its spec where that is known: `StoredRun[ScoreSpec]`.

    `origin` is "precomputed" for shipped runs, else "live". The rest is parsed when it is first used.
    """

    key: str
    title: str
    origin: str
    created: str
    form: Form = field(repr=False)
    engine: int = ENGINE_VERSION
    schema: int = SCHEMA_VERSION

    @cached_property
    def spec(self) -> Spec:
        return cast(Spec, self.form.spec_of(self))

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How the run was made: plan, versions, seconds, time."""
        return self.form.provenance_of(self)

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The digest of each table, by its name."""
        return self.form.digests_of(self)

    @property
    def manifest(self) -> dict[str, Any]:
        """Key, spec, provenance and digests as JSON types, to be shown and handed out."""
        return {
            "key": self.key,
            "spec": spec_dict(self.spec),
            "provenance": self.provenance,
            "tables": dict(self.digests),
        }

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def folder(self) -> Path:
        """The run's own folder, or that of the pack it is in."""
        return self.form.folder

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells apart runs of the same key: where they are stored, and the values of their tables."""
        return self.key, self.folder, *sorted(self.digests.items())

    def let_go(self) -> Self:
        """Return the run without the tables that are still in memory after it was saved."""
        return replace(self, form=self.form.form) if isinstance(self.form, JustSaved) else self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredRun) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class JustSaved:
    """Form of a run that was saved a moment ago: its tables are still in memory, and are not read back."""

    form: Form
    tables: Mapping[str, pd.DataFrame]

    @property
    def folder(self) -> Path:
        return self.form.folder

    def spec_of(self, run: StoredRun) -> RunSpec:
        return self.form.spec_of(run)

    def provenance_of(self, run: StoredRun) -> dict[str, Any]:
        return self.form.provenance_of(run)

    def digests_of(self, run: StoredRun) -> Mapping[str, str]:
        return self.form.digests_of(run)

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        return self.tables[name]

    def verify(self, run: StoredRun) -> None:
        self.form.verify(run)


def table_digest(table: pd.DataFrame) -> str:
    """Hash the values of a table to 32 hex digits: names, types and values of its columns, in their order, row by row.

    How it is packed into a file does not matter, nor which of pandas' types holds texts, nor how a NaN is written.
    """
    packed = {str(name): column_bytes(column) for name, column in table.items()}
    head = [[name, kind, len(content)] for name, (kind, content) in packed.items()]
    digest = hashlib.sha256(json.dumps([len(table), head]).encode())
    for _, content in packed.values():
        digest.update(content)
    return digest.hexdigest()[:32]


def column_bytes(column: pd.Series) -> tuple[str, bytes]:
    """The type of a column ("text" for everything that is no number) and its values."""
    kind = column.dtype
    if not isinstance(kind, np.dtype) or kind.kind not in "biuf":
        return "text", json.dumps(column.to_numpy(dtype=object, na_value=None).tolist()).encode()
    values = column.to_numpy()
    if kind.kind == "f":
        values = np.where(np.isnan(values), np.array(np.nan, kind), values)
    return kind.name, values.astype(kind.newbyteorder("<")).tobytes()
