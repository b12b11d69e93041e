"""Start the dashboard on an address, after checking that the address is free.

HOST, PORT and ALLOW come from `make run`. ALLOW adds host names (separated by commas) under which browsers
may reach the dashboard. Without it only the bound address and this machine's own names are accepted, which
keeps a web page elsewhere from talking to the dashboard through a name of its own (DNS rebinding).
"""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

EVERYWHERE = ("0.0.0.0", "::")


def main(env: Mapping[str, str]) -> None:
    host, port = env.get("HOST") or "127.0.0.1", port_number(env.get("PORT") or "8501")
    check_free(host, port)
    shown = "127.0.0.1" if host in EVERYWHERE else host
    print(f"CAP Viz: http://{f'[{shown}]' if ':' in shown else shown}:{port}  (Ctrl+C stops it)", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("There is no password: anyone who can reach this machine's port can start jobs on it.", flush=True)
    os.chdir(Path(__file__).resolve().parent.parent)
    run_streamlit(["run", "app.py", *options(host, port, env)])


def run_streamlit(arguments: list[str]) -> None:
    """Serve in this process, so that what the pages import can be loaded before the first visitor comes."""
    sys.path.insert(0, os.getcwd())
    threading.Thread(target=warm_up, daemon=True).start()
    sys.argv = ["streamlit", *arguments]
    from streamlit.web.cli import main as streamlit

    streamlit()


def warm_up() -> None:
    """The slow imports of a first page view (pandas, scipy, plotly): about a second."""
    importlib.import_module("cap_viz.dashboard.overview.page")


def options(host: str, port: int, env: Mapping[str, str]) -> list[str]:
    """The command-line options that go beyond `.streamlit/config.toml`."""
    allowed = ["localhost", "127.0.0.1", *(name.strip() for name in (env.get("ALLOW") or "").split(","))]
    if host in EVERYWHERE:
        allowed += [socket.gethostname(), f"{socket.gethostname()}.local"]
    else:
        allowed.append(host)
    return [
        f"--server.address={host}",
        f"--server.port={port}",
        *(f"--server.allowedHosts={name}" for name in dict.fromkeys(allowed) if name),
        "--server.headless=true",
        "--logger.hideWelcomeMessage=true",
    ]


def port_number(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        sys.exit(f"PORT={text} is not a port number; choose one from 1 to 65535, for example PORT=8502.")
    return int(text)


def check_free(host: str, port: int) -> None:
    """Exit with one sentence if nothing can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do it: a port whose last connections are still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                owner = holder(port)
                sys.exit(
                    f"Port {port} is in use{f' by {owner}' if owner else ''}."
                    f" Choose another one: make run PORT={port + 1}"
                )
            sys.exit(f"Cannot listen on {host}:{port} ({error.strerror}). Check HOST= and PORT=.")


def holder(port: int) -> str:
    """The name and number of the process listening on the port; empty where the system does not say."""
    commands = {
        "lsof": ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"],
        "ss": ["ss", "-Hltnp", f"sport = :{port}"],
    }
    for name, command in commands.items():
        if not shutil.which(name):
            continue
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if name == "lsof" and found:
            fields = {line[0]: line[1:] for line in found.splitlines() if line}
            return f"{fields.get('c', 'process')} (process {fields.get('p', '?')})"
        if "users:((" in found:
            process, number, _ = found.split("users:((")[1].split(",", 2)
            return f"{process.strip(chr(34))} (process {number.removeprefix('pid=')})"
    return ""


if __name__ == "__main__":
    main(os.environ)
