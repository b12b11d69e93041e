"""Zero profiles: zeros per matrix or head at every sparsity, for criteria that rank weights once."""

from __future__ import annotations

from collections.abc import Generator

import pandas as pd

from cap_viz.errors import UsageError
from cap_viz.progress import Progress
from cap_viz.pruning import criterion_named
from cap_viz.pruning.head_sparsity import HeadZeros, head_profile_steps
from cap_viz.pruning.mask import ZeroCounts
from cap_viz.runs.kinds.base import Computation, Computed, RunKind, tables_of
from cap_viz.runs.kinds.scores import effects_by
from cap_viz.runs.masks import mask_request
from cap_viz.runs.spec import ProfileSpec
from cap_viz.runs.store import Store, StoredRun

SPARSITIES = tuple(round(0.01 * step, 2) for step in range(96))


class Profile(RunKind[ProfileSpec]):
    """A zero profile from one ranking of the weights."""

    name = ProfileSpec.kind
    title, summary = "profiles", "zeros at every sparsity"

    def check(self, spec: ProfileSpec) -> None:
        criterion = criterion_named(spec.mask.criterion)
        if criterion.rank is None:
            raise UsageError(f"Criterion {criterion.name!r} ranks weights anew for every sparsity; it has no profile.")
        if spec.mask.pattern is not None:
            raise UsageError(f"The pattern {spec.mask.pattern!r} has one sparsity; it has no profile over many.")
        if spec.parts not in (None, "heads"):
            raise UsageError(f'Parts {spec.parts!r}: a profile names none for matrices, or "heads".')

    def steps(self, spec: ProfileSpec, by: Computation) -> Generator[Progress, None, Computed]:
        rank = criterion_named(spec.mask.criterion).rank
        assert rank is not None
        request = yield from mask_request(spec.mask, effects_by(by.store, by.run))
        ranking = yield from rank(by.model, request)
        if spec.parts is None:
            return Computed(ranking.profile(SPARSITIES).to_tables())
        heads = yield from head_profile_steps(by.model, ranking, request.scope, SPARSITIES)
        return Computed(heads.to_tables())

    def describe(self, spec: ProfileSpec) -> str:
        return f"{spec.mask.criterion}, all sparsities"

    def numbers(self, store: Store, run: StoredRun[ProfileSpec]) -> pd.DataFrame:
        """One row per sparsity and matrix (or head)."""
        return store.table(run, "zeros" if run.spec.parts is None else "heads")


def load_zeros(store: Store, run: StoredRun) -> ZeroCounts:
    """Load the zeros per matrix: at one sparsity for a pruned evaluation, at many for a profile."""
    return ZeroCounts.from_tables(tables_of(store, run, "zeros"))


def load_head_zeros(store: Store, run: StoredRun) -> HeadZeros:
    """Load the zeros per head: at one sparsity for a pruned evaluation, at many for a profile of heads."""
    return HeadZeros.from_tables(tables_of(store, run, "heads"))
