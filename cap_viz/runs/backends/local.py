"""The backend that computes batches in this process. Needs neither torch nor Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cap_viz.errors import OUT_OF_MEMORY, OutOfMemory, is_out_of_memory
from cap_viz.runs.batched_runs import BatchedRun, BatchStep


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
