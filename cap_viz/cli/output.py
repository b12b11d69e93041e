"""Output of the command line: tables and progress for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cap_viz.errors import UsageError
from cap_viz.progress import Progress, finish

if TYPE_CHECKING:
    import pandas as pd

    from cap_viz.runs.store import StoredRun

# Without a terminal the width is fixed, so that a table in a file or pipe is not truncated.
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)
Result = TypeVar("Result")


def shown(steps: Generator[Progress, None, Result]) -> Result:
    """Run steps to the end with a progress bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=err, transient=True) as bar:
        line = bar.add_task("starting", total=1.0)

        def update(progress: Progress) -> None:
            bar.update(line, completed=progress.share, description=progress.note or "working")

        return finish(steps, update)


def run_facts(run: StoredRun) -> dict[str, Any]:
    """Return a run's facts for JSON; `seconds` is None if its items were taken from another run (`taken_from`)."""
    from cap_viz.runs.prefix_reuse import computing_seconds

    facts = {
        "key": run.key,
        "kind": run.kind,
        "model": run.spec.model.id,
        "fingerprint": run.spec.model.fingerprint,
        "origin": run.origin,
        "created": run.created,
        "seconds": computing_seconds(run),
    }
    return facts | {name: value for name, value in run.provenance.items() if name == "taken_from"}


def none_for_nan(values: Any) -> Any:
    """Convert an array to nested lists with None for NaN (JSON has no NaN)."""
    import numpy as np

    listed = np.asarray(values).astype(object)
    listed[np.isnan(values)] = None
    return listed.tolist()


def records(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Convert a table to one dictionary per row, with None for NaN (JSON has no NaN)."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def print_json(content: Any) -> None:
    typer.echo(json.dumps(content, allow_nan=False))


def check_new(path: Path) -> None:
    """Raise `UsageError` for a file that is there already, or whose folder is not: before a long computation."""
    if path.exists():
        raise UsageError(f"{path} is there already; choose another name.")
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written (there is no folder {path.parent}).")


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet. Raises `UsageError` where it is, or cannot be written."""
    check_new(path)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}).") from error
