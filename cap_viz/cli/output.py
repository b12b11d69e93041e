"""What the shell prints: tables and progress for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from cap_viz.progress import Progress, finish

if TYPE_CHECKING:
    from cap_viz.runs.store import StoredRun

# A table that goes to a file or a pipe must not lose text to the width of a terminal that is not there.
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)
Result = TypeVar("Result")


def shown(steps: Generator[Progress, None, Result]) -> Result:
    """Run steps to their end with a bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=err, transient=True) as bar:
        line = bar.add_task("starting", total=1.0)

        def update(progress: Progress) -> None:
            bar.update(line, completed=progress.share, description=progress.note or "working")

        return finish(steps, update)


def run_facts(run: StoredRun) -> dict[str, Any]:
    """`seconds` is None for the first items of another run, which `taken_from` then names."""
    from cap_viz.runs.prefix_reuse import computing_seconds

    facts = {
        "key": run.key,
        "kind": run.kind,
        "model": run.spec.model.id,
        "fingerprint": run.spec.model.fingerprint,
        "origin": run.origin,
        "created": run.provenance["created"],
        "seconds": computing_seconds(run),
    }
    return facts | {name: value for name, value in run.provenance.items() if name == "taken_from"}


def none_for_nan(values: Any) -> Any:
    """Nested lists with None where an array holds NaN (JSON has no NaN)."""
    import numpy as np

    listed = np.asarray(values).astype(object)
    listed[np.isnan(values)] = None
    return listed.tolist()


def print_json(content: Any) -> None:
    typer.echo(json.dumps(content, allow_nan=False))
