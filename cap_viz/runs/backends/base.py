"""What computes the batches of a run, and the backend that does it in this process. Needs neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cap_viz.errors import OUT_OF_MEMORY, OutOfMemory, is_out_of_memory

if TYPE_CHECKING:
    from cap_viz.runs.batched_runs import BatchedRun, BatchStep


class Backend(Protocol):
    """Computes the batches asked for and keeps them in the run."""

    def steps(self, run: BatchedRun, wanted: Sequence[int]) -> Iterator[BatchStep]:
        """What has arrived, about once a second; a step may also say no more than that time has passed.

        Raises `OutOfMemory` where a batch does not fit; those that came before are kept.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """What is recorded with a run this backend computed."""
        ...

    def close(self) -> None:
        """Let go of what it holds; it may be used again."""
        ...


class Here:
    """Compute in this process, on the model the run was made with."""

    def steps(self, run: BatchedRun, wanted: Sequence[int]) -> Iterator[BatchStep]:
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
