"""Command `serve`: open the dashboard."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from cap_viz.cli.output import err, out
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import CATALOGUE, resolve
from cap_viz.settings import local_folder, serve_with

LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8501,
    allow: Annotated[str, typer.Option(help="Host names that browsers may use, separated by commas.")] = "",
    model: Annotated[str, typer.Option(help="Model to show first: a catalogue name, folder or hub id.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of data sets; see docs/data.md.")] = None,
) -> None:
    """Serve the dashboard, on this machine alone unless --host says otherwise."""
    if find_spec("streamlit") is None:
        raise UsageError(
            "The dashboard needs Streamlit and Plotly, which are not installed: pip install streamlit plotly"
        )
    if data is not None and not data.is_dir():
        raise UsageError(f"--data {data} is no folder.")
    if model and model not in CATALOGUE:
        model = resolve(model).id
    serve_with(model=model, data=None if data is None else data.resolve())
    check_writable(local_folder())
    from cap_viz.dashboard.server import address
    from cap_viz.dashboard.server import serve as start

    out.print(f"CAP Viz: {address(host, port)}  (Ctrl+C stops it)", highlight=False, soft_wrap=True)
    out.print(f"Results: {local_folder()}", highlight=False, soft_wrap=True)
    if host not in LOCAL:
        err.print("There is no password: anyone who can reach this machine's port can start jobs on it.")
    start(host, port, allow.split(","))


def check_writable(folder: Path) -> None:
    """Create the folder of results. Raises `CapVizError` if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CapVizError(
            f"Results cannot be stored in {folder} ({error.strerror}); set CAP_VIZ_CACHE to a folder you may write to."
        ) from error
