"""Runs for a command, read from the store or computed with progress on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from cap_viz.cli.output import shown
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelRef, resolve
from cap_viz.runs.backends import BackendChoice, open_backend, requested_backend
from cap_viz.runs.spec import MaskSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import N_CALIBRATION

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.pruning.mask import Mask
    from cap_viz.stats.joint import Head

Name = TypeVar("Name")


class ModelRuns:
    """Runs of one model, which is resolved at once and loaded with the first run that has to be computed."""

    def __init__(self, model_id: str, backend: BackendChoice | None = None) -> None:
        self.source, self.store = resolve(model_id), Store()
        self.backend = backend or requested_backend()

    @property
    def ref(self) -> ModelRef:
        return self.source.ref

    @cached_property
    def model(self) -> ReasoningModel:
        from cap_viz.models.loading import load

        return load(self.source)

    def mask_spec(self, criterion: str, sparsity: float, task: str, seed: int) -> MaskSpec | None:
        """Describe a criterion's mask with its usual calibration on a task; None without a criterion."""
        from cap_viz.runs.masks import mask_spec_for

        if not criterion:
            return None
        return mask_spec_for(self.ref, criterion, sparsity, task=task, n=N_CALIBRATION, seed=seed)

    def mask(self, spec: MaskSpec) -> Mask:
        """Build a mask; head scores it needs are read or computed."""
        from cap_viz.runs.execute import mask_steps

        return shown(mask_steps(spec, self.model, self.store))

    def get(self, specs: Mapping[Name, RunSpec]) -> dict[Name, StoredRun]:
        """Read or compute the runs of the specs."""
        from cap_viz.runs.execute import missing_run_steps, stored_run

        found: dict[Name, StoredRun] = {}
        with open_backend(self.backend) as backend:
            for name, spec in specs.items():
                run = stored_run(spec, self.store)
                found[name] = run or shown(missing_run_steps(spec, self.model, self.store, backend))
        return found


def strongest(runs: ModelRuns, spec: ScoreSpec, metric: str, top: int, *, least: int = 1) -> tuple[Head, ...]:
    """Return the heads with the largest effects. Raises `UsageError` for fewer than `least` or more than there are."""
    from cap_viz.runs.kinds.scores import load_scores

    estimate = load_scores(runs.store, runs.get({"": spec})[""]).estimated(metric)
    if not least <= top <= estimate.mean.size:
        raise UsageError(f"--top {top}: name from {least} to {estimate.mean.size} heads, all that the model has.")
    return tuple(estimate.top_heads(top))
