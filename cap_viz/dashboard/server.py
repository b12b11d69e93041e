"""Start the dashboard on an address, after checking that the address is free.

Only the bound address, this machine's own names and the hosts allowed by name are accepted, which keeps a web page
elsewhere from talking to the dashboard through a name of its own (DNS rebinding).
"""

from __future__ import annotations

import errno
import importlib
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import psutil
from streamlit.web.cli import main as streamlit

from cap_viz.errors import CapVizError
from cap_viz.settings import SITE

EVERYWHERE = ("0.0.0.0", "::")


def serve(host: str, port: int, allow: Sequence[str] = ()) -> None:
    """Serve until interrupted. Raises `CapVizError` if nothing can listen there.

    In this process, so that what the pages import is loaded before the first visitor comes.
    """
    check_free(host, port)
    # `streamlit run app.py` puts the script's folder first on the path; it does so too late for the warm-up.
    sys.path.insert(0, str(SITE))
    threading.Thread(target=warm_up, daemon=True).start()
    sys.argv = ["streamlit", "run", str(SITE / "app.py"), *options(host, port, allow)]
    streamlit()


def address(host: str, port: int) -> str:
    """Return the address to open in a browser on this machine."""
    shown = "127.0.0.1" if host in EVERYWHERE else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


def warm_up() -> None:
    """Import what a first page view needs (pandas, scipy, plotly): about a second."""
    importlib.import_module("cap_viz.dashboard.overview.page")


def options(host: str, port: int, allow: Sequence[str] = ()) -> list[str]:
    """Return the command-line options that go beyond `.streamlit/config.toml`."""
    own = [socket.gethostname(), f"{socket.gethostname()}.local"] if host in EVERYWHERE else [host]
    allowed = ["localhost", "127.0.0.1", *(name.strip() for name in allow), *own]
    return [
        f"--server.address={host}",
        f"--server.port={port}",
        *(f"--server.allowedHosts={name}" for name in dict.fromkeys(allowed) if name),
        "--server.headless=true",
        "--logger.hideWelcomeMessage=true",
    ]


def check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do it: a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                owner = holder(port)
                by = f" by {owner}" if owner else ""
                raise CapVizError(
                    f"Port {port} is in use{by}. Choose another one: --port {port + 1}, or make run PORT={port + 1}"
                ) from error
            raise CapVizError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Check the host and the port."
            ) from error


def holder(port: int) -> str:
    """Return the name and number of the process listening on the port; empty where it belongs to another user."""
    for process in psutil.process_iter(["name"]):
        with suppress(psutil.Error):
            for one in process.net_connections():
                if one.status == psutil.CONN_LISTEN and one.laddr.port == port:
                    return f"{process.name()} (process {process.pid})"
    return ""
