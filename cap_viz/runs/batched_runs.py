"""Runs computed batch by batch: plan, steps and tables, independent of the backend (`runs/backends`).

A batched run holds its plan, computes batches on the model it was made with, keeps their results, and makes the tables
to store. Batches may arrive in any order and from elsewhere (`restore`): the result has the same bits.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from cap_viz.attribution.batch_plan import BatchPlan, halved
from cap_viz.errors import OutOfMemory
from cap_viz.progress import Progress
from cap_viz.runs.checkpoints import Arrays, Checkpoints
from cap_viz.runs.spec import RunSpec

if TYPE_CHECKING:
    from cap_viz.attribution.pruned_weights import MaskLike, Weights
    from cap_viz.models.loading import ReasoningModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchStep:
    """Progress in one batch: `done` of its size is computed. After its `last` step the batch's content is complete."""

    batch: int
    done: float
    last: bool


class MeasuredBlock(Protocol):
    """Results of a part of a batch: `work` is the part's size, `last` marks the last of the batch."""

    @property
    def batch(self) -> int: ...
    @property
    def work(self) -> float: ...
    @property
    def last(self) -> bool: ...


class BatchedRun(ABC):
    """Interface between a run and the backend that computes its batches.

    `plan` holds the batches and everything else fixed before the first forward, `arrays` the results so far. `mask` is
    the mask of a pruned evaluation.
    """

    spec: RunSpec
    mask: MaskLike | None = None
    note: str
    plan: Any
    arrays: Any

    @property
    def batches(self) -> BatchPlan:
        return self.plan.batches

    def size(self, batch: int) -> float:
        """Return the work in a batch, in units of progress: by default its number of examples."""
        return len(self.batches.batches[batch])

    @abstractmethod
    def steps(self, wanted: Sequence[int]) -> Iterator[BatchStep]:
        """Compute the `wanted` batches here, in that order, and keep their results."""

    def steps_of(self, blocks: Iterable[MeasuredBlock]) -> Iterator[BatchStep]:
        """Keep the results of blocks as they come; a step after each."""
        done = 0.0
        for block in blocks:
            self.arrays.add(block)
            done += block.work
            yield BatchStep(block.batch, done, block.last)
            done = 0.0 if block.last else done

    def content(self, batch: int) -> Arrays:
        """Return the arrays of a computed batch, to be stored or sent."""
        return self.arrays.batch(batch)

    def restore(self, batch: int, content: Arrays) -> None:
        """Add a batch that was stored, or computed elsewhere."""
        self.arrays.restore(batch, content)

    def replan(self, batches: BatchPlan) -> None:
        """Continue with other batches; those already computed must be unchanged."""
        self.plan = self.arrays.plan = replace(self.plan, batches=batches)

    @abstractmethod
    def partial(self) -> Any:
        """Return the result of the batches so far."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the complete result as tables to store."""
        return self.partial().to_tables()

    def facts(self) -> dict[str, Any]:
        """Return facts to record in the provenance."""
        return {}


class MaskedRun(BatchedRun):
    """A run of the dense model or under a mask, which is released once the pruned weights are made."""

    def __init__(self, model: ReasoningModel, spec: RunSpec, mask: MaskLike | None) -> None:
        self.model, self.spec, self.mask = model, spec, mask

    @cached_property
    def weights(self) -> Weights:
        from cap_viz.attribution.pruned_weights import weights_under

        weights = weights_under(self.model, self.mask)
        self.mask = None
        return weights


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


def batch_steps(
    run: BatchedRun, checkpoints: Checkpoints, backend: Backend
) -> Generator[Progress, None, dict[str, Any]]:
    """Restore the finished batches and have the backend compute the others; return facts for the provenance.

    Where memory runs out, the remaining batches are halved and the new plan is recorded.
    """
    checkpoints.start(run.batches)
    finished = checkpoints.finished(run.batches)
    for batch, content in finished.items():
        run.restore(batch, content)
    arrived = set(finished)
    total, done = sum(map(run.size, run.batches.numbers())), sum(map(run.size, arrived))
    # A resumed run starts part-way; this first step says so, and the remaining time is estimated from here.
    yield Progress(done, total, run.note, run.partial())
    while left := [batch for batch in run.batches.numbers() if batch not in arrived]:
        try:
            for step in backend.steps(run, left):
                if step.last:
                    checkpoints.add(run.batches, step.batch, run.content(step.batch))
                    arrived.add(step.batch)
                    done += run.size(step.batch)
                yield Progress(done if step.last else done + step.done, total, run.note, run.partial())
        except OutOfMemory:
            smaller = halved(run.batches, [batch for batch in left if batch not in arrived])
            if smaller is None:
                raise
            log.warning("the memory ran out: going on with batches of half the size")
            checkpoints.start(smaller)
            run.replan(smaller)
            total = sum(map(run.size, smaller.numbers()))
    return {"resumed_batches": len(finished)} | backend.facts() | run.facts()
