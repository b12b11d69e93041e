"""Uploaded files, for functions that read a path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cap_viz.errors import CapVizError, UsageError


@contextmanager
def as_file(name: str, content: bytes) -> Iterator[Path]:
    """Yield the path of an upload in a temporary folder; an error names the file as the browser does."""
    with TemporaryDirectory() as folder:
        # Use a name of our own: the browser's may hold anything.
        path = Path(folder, f"upload{Path(name).suffix}")
        path.write_bytes(content)
        try:
            yield path
        except CapVizError as error:
            raise UsageError(str(error).replace(str(path), name)) from error
