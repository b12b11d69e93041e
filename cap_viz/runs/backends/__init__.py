"""Backends that compute the batches of a run: this process, or workers of a Ray cluster. Needs neither torch nor Ray.

`CAP_VIZ_BACKEND`: local or ray. `CAP_VIZ_RAY`: the address of a running cluster, "auto" for the one this machine
belongs to; where it is left out, Ray is started on this machine alone. `CAP_VIZ_WORKERS`: the number of workers.
Command-line options take precedence. All backends give bit-identical results for the same plan, versions, kind of
processor and number of threads.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec

from cap_viz.errors import CapVizError, UsageError, choose
from cap_viz.runs.backends.local import HERE
from cap_viz.runs.batched_runs import Backend
from cap_viz.settings import backend_name, ray_address, worker_count

LOCAL, RAY = "local", "ray"


@dataclass(frozen=True)
class BackendChoice:
    """Backend by name; for Ray also the address ("": start Ray on this machine) and workers (0: one per device)."""

    name: str = LOCAL
    address: str = ""
    workers: int = 0


def requested_backend(name: str = "", address: str = "", workers: int | None = None) -> BackendChoice:
    """Choose the backend from options, else from the environment.

    Raises `UsageError` for an unknown backend or a number of workers that is no whole number.
    """
    address = address or ray_address()
    chosen = name or backend_name() or (RAY if address else LOCAL)
    choose("backend", chosen, (LOCAL, RAY))
    typed = (worker_count() or "0") if workers is None else str(workers)
    if not typed.isdecimal():
        raise UsageError(f"{typed!r} workers make no sense; give a whole number, or 0 for one to each device.")
    return BackendChoice(chosen, address, int(typed)) if chosen == RAY else BackendChoice()


def backend_named(choice: BackendChoice) -> Backend:
    """Create the backend; a cluster is joined with its first run.

    Raises `CapVizError` where Ray is requested and not installed.
    """
    if choice.name == LOCAL:
        return HERE
    if find_spec("ray") is None:
        raise CapVizError("Ray is not installed here; run pip install -r requirements-ray.txt, or use --backend local.")
    from cap_viz.runs.backends.ray import Cluster

    return Cluster(choice.address, choice.workers)


def open_backend(choice: BackendChoice) -> closing[Backend]:
    """Create the backend, and close it at the end of a `with` block."""
    return closing(backend_named(choice))
