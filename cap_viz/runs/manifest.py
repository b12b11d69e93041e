"""Content of a run's manifest, checked when it is read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from cap_viz.models.loading import ModelShape
from cap_viz.validation import Record


def with_time_zone(time: str) -> str:
    with suppress(ValueError):
        if datetime.fromisoformat(time).tzinfo is not None:
            return time
    raise ValueError(f"should be a date and time with its zone, not {time!r:.40}")


def with_all_sizes(shape: dict[str, int]) -> dict[str, int]:
    names = [field.name for field in fields(ModelShape)]
    if set(shape) != set(names):
        raise ValueError(f"should hold {', '.join(names)}")
    return shape


class Provenance(Record):
    """Facts about the making of a run: the ones that every run has, and any others."""

    model_config = ConfigDict(extra="allow")

    created: Annotated[str, AfterValidator(with_time_zone)]
    seconds: float
    shape: Annotated[dict[str, int], AfterValidator(with_all_sizes)]


class Manifest(Record):
    """Content of a manifest file: `tables` maps tables to digests of their values.

    Manifests written before there were such digests map `files` to hashes of their bytes instead.
    """

    schema_version: int = Field(alias="schema")
    engine: int
    key: str
    spec: dict[str, Any]
    provenance: Provenance
    tables: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)

    @property
    def digests(self) -> dict[str, str]:
        return self.tables or {file.removesuffix(".parquet"): digest for file, digest in self.files.items()}
