"""The kinds of runs, one file each.

A new kind is a file here, its spec class in `runs/spec.py`, and a line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from cap_viz.runs.kinds.base import RunKind
from cap_viz.runs.kinds.evaluation import Evaluation
from cap_viz.runs.kinds.joint import Joint, Pairs
from cap_viz.runs.kinds.paths import Paths
from cap_viz.runs.kinds.patterns import Patterns
from cap_viz.runs.kinds.positions import Positions
from cap_viz.runs.kinds.profile import Profile
from cap_viz.runs.kinds.removal import Removal
from cap_viz.runs.kinds.scores import Scores
from cap_viz.runs.run_labels import prompt_words
from cap_viz.runs.spec import RunSpec
from cap_viz.runs.store import Store, StoredRun

if TYPE_CHECKING:
    from cap_viz.attribution.batch_plan import BatchPlan
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask
    from cap_viz.runs.batched_runs import BatchedRun

KINDS: dict[str, RunKind[Any]] = {
    kind.name: kind
    for kind in (Scores(), Evaluation(), Profile(), Patterns(), Joint(), Pairs(), Paths(), Positions(), Removal())
}


def describe(spec: RunSpec) -> str:
    """Describe a run in a few words, without its model and task."""
    return KINDS[spec.kind].describe(spec) + prompt_words(spec.examples)


def runs_table(runs: Iterable[StoredRun]) -> pd.DataFrame:
    """Tabulate runs, one row each (`cap_viz.runs.list_runs` names the columns)."""
    rows = [
        (
            run.key,
            run.kind,
            run.spec.model.id,
            run.spec.examples.task,
            len(run.spec.examples.ids),
            describe(run.spec),
            run.created,
            run.origin,
        )
        for run in runs
    ]
    return pd.DataFrame(rows, columns=["key", "kind", "model", "task", "n", "what", "created", "origin"])


def numbers_of(store: Store, run: StoredRun) -> pd.DataFrame:
    """Tabulate the results of a run for export; the columns are those of its kind.

    Raises `DamagedRun` when a file of the run cannot be trusted.
    """
    return KINDS[run.spec.kind].numbers(store, run)


def batched_run(
    model: ReasoningModel, spec: RunSpec, plan: BatchPlan | None = None, mask: Mask | None = None
) -> BatchedRun:
    """Make the batches of a run; `plan` is that of an unfinished run, `mask` that of a pruned evaluation."""
    return KINDS[spec.kind].batched(model, spec, plan, mask)
