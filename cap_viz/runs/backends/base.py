"""Who computes the batches of a run: this process, or workers of a Ray cluster. Needs neither torch nor Ray.

`CAP_VIZ_ENGINE`: local or ray. `CAP_VIZ_RAY`: the address of a running cluster, "auto" for the one this machine
belongs to; where it is left out, Ray is started on this machine alone. `CAP_VIZ_WORKERS`: how many workers.
The commands' own options come first. Results have the same bits whoever computes them, given the same plan, versions,
kind of processor and number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from cap_viz.errors import CapVizError, OutOfMemory, UsageError, check_choice
from cap_viz.settings import engine_name, ray_address, worker_count

if TYPE_CHECKING:
    from cap_viz.runs.batched_runs import BatchedRun, Step

LOCAL, RAY = "local", "ray"


class Engine(Protocol):
    """Computes the batches asked for and keeps them in the run."""

    def steps(self, run: BatchedRun, wanted: Sequence[int]) -> Iterator[Step]:
        """What has arrived, about once a second; a step may also say no more than that time has passed.

        Raises `OutOfMemory` where a batch does not fit; those that came before are kept.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What is recorded with a run this engine computed."""
        ...

    def close(self) -> None:
        """Let go of what it holds; it may be used again."""
        ...


OUT_OF_MEMORY = (
    "The memory ran out; finished batches are kept. Use a lower precision (CAP_VIZ_DTYPE) or a larger device."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Told by name, since torch has an error of its own for GPUs and a plain one for the CPU."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "can't allocate memory" in str(error)


class Here:
    """Compute in this process, on the model the run was made with."""

    def steps(self, run: BatchedRun, wanted: Sequence[int]) -> Iterator[Step]:
        try:
            yield from run.steps(wanted)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(OUT_OF_MEMORY) from error

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing is held."""


HERE = Here()


@dataclass(frozen=True)
class EngineChoice:
    """An engine by name; of Ray the address ("": a cluster of this machine's own) and workers (0: one a device)."""

    name: str = LOCAL
    address: str = ""
    workers: int = 0


def asked_engine(name: str = "", address: str = "", workers: int | None = None) -> EngineChoice:
    """The engine asked for by options, else by the environment. Raises `UsageError` for what makes no sense."""
    address = address or ray_address()
    chosen = name or engine_name() or (RAY if address else LOCAL)
    check_choice("engine", chosen, (LOCAL, RAY))
    typed = (worker_count() or "0") if workers is None else str(workers)
    if not typed.isdecimal():
        raise UsageError(f"{typed!r} workers make no sense; give a whole number, or 0 for one to each device.")
    return EngineChoice(chosen, address, int(typed)) if chosen == RAY else EngineChoice()


def engine_named(choice: EngineChoice) -> Engine:
    """The engine, ready to be used; a cluster is joined with its first run.

    Raises `CapVizError` where Ray is asked for and not installed.
    """
    if choice.name == LOCAL:
        return HERE
    if find_spec("ray") is None:
        raise CapVizError("Ray is not installed here; run pip install -r requirements-ray.txt, or use --engine local.")
    from cap_viz.runs.backends.ray import Cluster

    return Cluster(choice.address, choice.workers)


@contextmanager
def engine_of(choice: EngineChoice) -> Iterator[Engine]:
    """`engine_named`, closed in the end."""
    with closing(engine_named(choice)) as engine:
        yield engine
