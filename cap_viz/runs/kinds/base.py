"""Interface of a kind of run: check and compute it, tabulate its results, and its words and limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import pandas as pd

from cap_viz.progress import Progress
from cap_viz.runs.spec import RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.base import TaskVersion

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask
    from cap_viz.runs.batched_runs import Backend, BatchedRun
    from cap_viz.runs.checkpoints import Checkpoints

Spec = TypeVar("Spec", bound=RunSpec)
# From a spec of head scores to their run, looked up or computed.
GetScores = Callable[[ScoreSpec], Generator[Progress, None, StoredRun[ScoreSpec]]]


@dataclass(frozen=True)
class Computed:
    """Results of a run as tables, its batches if it has any, and facts for the provenance."""

    tables: dict[str, pd.DataFrame]
    batches: BatchPlan | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Computation:
    """Model, store, checkpoints and backend of a run; `run` looks up or computes head scores that it builds on."""

    model: ReasoningModel
    store: Store
    checkpoints: Checkpoints
    backend: Backend
    run: GetScores


class RunKind(ABC, Generic[Spec]):
    """A kind of run; one instance per kind stands in `KINDS`.

    Lists of runs show its plural `title` and `summary`. A job of the dashboard may have `most_examples`, on a server
    shared by strangers `most_examples_shared`; the shell has no limit.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    most_examples: ClassVar[int] = 1_000
    most_examples_shared: ClassVar[int] = 64

    def check(self, spec: Spec) -> None:
        """Raise `UsageError` for a spec that contradicts itself or does not fit its task."""

    @abstractmethod
    def steps(self, spec: Spec, by: Computation) -> Generator[Progress, None, Computed]:
        """Compute the run of a checked spec."""

    @abstractmethod
    def describe(self, spec: Spec) -> str:
        """Describe the run in a few words, without its model and task."""

    @abstractmethod
    def numbers(self, store: Store, run: StoredRun[Spec]) -> pd.DataFrame:
        """Tabulate the results for export. Raises `DamagedRun` when a file of the run cannot be trusted."""

    def reused(self, spec: Spec, store: Store) -> StoredRun[Spec] | None:
        """Save the run from a stored run that contains it, if there is one."""
        return None

    def side_by_side(self, first: Spec, second: Spec) -> bool:
        """Whether two runs that a session asks for are computed side by side, instead of in order."""
        return False

    def holds_weights(self, spec: Spec) -> bool:
        """Whether the run holds a pruned copy of the weights while it is computed."""
        return False

    def batched(
        self, model: ReasoningModel, spec: Spec, plan: BatchPlan | None = None, mask: Mask | None = None
    ) -> BatchedRun:
        """Make the run's batches; `plan` is that of an unfinished run, `mask` that of a pruned evaluation."""
        raise NotImplementedError(f"A run of kind {self.name} has no batches.")


def tables_of(store: Store, run: StoredRun, *names: str) -> dict[str, pd.DataFrame]:
    """Read the named tables of a run. Raises `DamagedRun` where one cannot be trusted."""
    return {name: store.table(run, name) for name in names}


def task_of(run: StoredRun) -> TaskVersion:
    """Return the task of a run's examples, which its spec names and its tables do not."""
    return TaskVersion(run.spec.examples.task, run.spec.examples.version)
