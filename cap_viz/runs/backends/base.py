"""The interface of backends, and the one that computes in this process. Needs neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cap_viz.errors import OUT_OF_MEMORY, OutOfMemory, is_out_of_memory

if TYPE_CHECKING:
    from cap_viz.runs.batched_runs import BatchedRun, BatchStep


class Backend(Protocol):
    """Computes the requested batches and keeps their results in the run."""

    def steps(self, run: BatchedRun, wanted: Sequence[int]) -> Iterator[BatchStep]:
        """Compute the `wanted` batches, yielding about once a second; a step may carry no new results.

        Raises `OutOfMemory` where a batch does not fit; earlier batches are kept.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """Return facts to record in the provenance of a run this backend computed."""
        ...

    def close(self) -> None:
        """Release all resources; the backend may be used again."""
        ...


class Here:
    """Backend of this process: compute on the model the run was made with."""

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
        """Do nothing: this backend holds no resources."""


HERE = Here()
