"""Base of results: a short repr, a small table in notebooks, a pandas table, a figure, and a file of their own.

The file of a result is a zip archive: `result.json` with the format's version, the kind of result and what its tables
do not hold, then one Parquet file per table of `to_tables`. Nothing in it is code, so reading one runs nothing.
"""

from __future__ import annotations

import inspect
import io
import json
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_type_hints

import pandas as pd
from pydantic import BaseModel, ConfigDict, create_model

from cap_viz.errors import CapVizError, UsageError
from cap_viz.files import write_bytes
from cap_viz.validation import from_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMAT, FORMAT_VERSION = "cap-viz result", 1
HEADER = "result.json"
MOST_CHARACTERS = 200

Saved = TypeVar("Saved", bound="Result")


class Result(ABC):
    """A result that shows itself in notebooks, tabulates and draws itself, and is saved to a file.

    The keyword parameters of a result's `from_tables` are what its tables do not hold; each is an attribute of the same
    name, and `save` keeps it beside the tables.
    """

    @property
    @abstractmethod
    def headline(self) -> str:
        """The result in a few words."""

    @abstractmethod
    def overview(self) -> pd.DataFrame:
        """Return a small table of the main numbers, the one that notebooks show."""

    @abstractmethod
    def to_pandas(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Return the result as a table with one row per part or item."""

    @abstractmethod
    def plot(self, *args: Any, **kwargs: Any) -> go.Figure:
        """Draw the result as a Plotly figure. Raises `CapVizError` where Plotly is not installed."""

    @abstractmethod
    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables that hold the result, as the store and `save` keep them."""

    @classmethod
    @abstractmethod
    def from_tables(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the result from its tables: the inverse of `to_tables`."""

    def save(self, path: str | Path) -> Path:
        """Write the result to one file, which `cap_viz.load` reads; the name may end as you like.

        Raises `CapVizError` where it cannot be written.
        """
        file, tables = Path(path).expanduser(), self.to_tables()
        header = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "kind": type(self).__name__,
            "facts": facts_model(type(self)).model_validate(self, from_attributes=True).model_dump(mode="json"),
            "tables": sorted(tables),
        }
        content = io.BytesIO()
        # Parquet files are compressed already.
        with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(HEADER, json.dumps(header, indent=1))
            for name, table in tables.items():
                archive.writestr(f"{name}.parquet", table.to_parquet(index=False))
        try:
            write_bytes(file, content.getvalue())
        except OSError as error:
            raise CapVizError(f"{file} cannot be written ({error.strerror}); choose another place.") from error
        return file

    def __repr__(self) -> str:
        text = f"{type(self).__name__}({self.headline})"
        return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 2]}…)"

    def _repr_html_(self) -> str:
        table = self.overview().to_html(index=False, border=0, float_format="{:.4g}".format)
        return f"<p><b>{type(self).__name__}</b>: {escape(self.headline)}</p>{table}"


@dataclass(frozen=True)
class Header:
    """What the file of a result says about it."""

    format: str
    version: int
    kind: str
    facts: dict[str, Any]
    tables: list[str]


@lru_cache
def facts_model(kind: type[Result]) -> type[BaseModel]:
    """Return the model of what the tables of a result do not hold: the keyword parameters of its `from_tables`."""
    hints, parameters = get_type_hints(kind.from_tables), inspect.signature(kind.from_tables).parameters
    names = [name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
    fields: dict[str, Any] = {name: (hints[name], ...) for name in names}
    return create_model(f"{kind.__name__}Facts", __config__=ConfigDict(strict=True, extra="forbid"), **fields)


def read_result(path: str | Path, kinds: Mapping[str, type[Saved]]) -> Saved:
    """Read a saved result of one of `kinds`.

    Raises `UsageError` for a missing file, one that is not a saved result, a result of another format version or of an
    unknown kind, and for a damaged one.
    """
    file = Path(path).expanduser()
    try:
        with zipfile.ZipFile(file) as archive:
            header = header_of(archive.read(HEADER), file)
            tables = {name: pd.read_parquet(io.BytesIO(archive.read(f"{name}.parquet"))) for name in header.tables}
        if header.kind not in kinds:
            raise UsageError(
                f"{file} holds a result of kind {header.kind!r}, which this version of CAP Viz does not have; it reads "
                f"{', '.join(kinds)}."
            )
        kind = kinds[header.kind]
        facts = facts_model(kind).model_validate_json(json.dumps(header.facts))
        return kind.from_tables(tables, **dict(facts))
    except CapVizError:
        raise
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); name a file written by save.") from error
    except Exception as error:  # A file of others may hold anything: every error is about the file.
        raise UsageError(
            f"{file} is no result that CAP Viz saved, or it is damaged ({type(error).__name__}); name a file written "
            "by save."
        ) from error


def header_of(content: bytes, file: Path) -> Header:
    """Read the header, its version first: other versions may have other fields."""
    said = json.loads(content)
    if said["format"] == FORMAT and said["version"] != FORMAT_VERSION:
        raise UsageError(
            f"{file} was saved in version {said['version']!r} of the format, and this CAP Viz reads version "
            f"{FORMAT_VERSION}; open it with the CAP Viz that wrote it, or compute the result again."
        )
    header = from_json(Header, content)
    if header.format != FORMAT:
        raise ValueError(header.format)
    return header


@contextmanager
def drawing() -> Iterator[None]:
    """Raise `CapVizError` with what to do where Plotly, which the block needs, is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "plotly":
            raise
        raise CapVizError("Figures need Plotly, which is not installed here; run: pip install plotly.") from error
