"""Command `plugins`: list what other packages add."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from cap_viz.cli.options import JsonOption
from cap_viz.cli.output import out, print_json
from cap_viz.integrations.plugins import load_plugins


def plugins(as_json: JsonOption = False) -> None:
    """List the criteria, tasks and metrics that other packages add, and the reason for each one left out."""
    found = load_plugins()
    if as_json:
        print_json({"plugins": [asdict(one) for one in found]})
        return
    if not found:
        out.print("No package adds anything to CAP Viz here. How to write one: examples/plugin")
        return
    table = Table("kind", "name", "package", "state")
    for one in found:
        table.add_row(one.kind, one.name, one.origin, one.problem or "loaded")
    out.print(table)
