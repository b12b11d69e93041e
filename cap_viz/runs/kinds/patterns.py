"""Attention patterns of all heads: descriptive measures, one forward per example."""

from __future__ import annotations

from collections.abc import Generator

import pandas as pd

from cap_viz.attribution.attention_patterns import HeadRoles, role_steps
from cap_viz.progress import Progress
from cap_viz.runs.kinds.base import Computation, Computed, RunKind, tables_of
from cap_viz.runs.spec import RoleSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import examples_of


class Patterns(RunKind[RoleSpec]):
    """Attention measures of every head."""

    name = RoleSpec.kind
    title, summary = "attention", "what heads attend to"

    def steps(self, spec: RoleSpec, by: Computation) -> Generator[Progress, None, Computed]:
        found = yield from role_steps(by.model, examples_of(spec.examples))
        return Computed(found.to_tables())

    def describe(self, spec: RoleSpec) -> str:
        return "what heads attend to"

    def numbers(self, store: Store, run: StoredRun[RoleSpec]) -> pd.DataFrame:
        """One row per layer and head."""
        return store.table(run, "roles")


def load_patterns(store: Store, run: StoredRun) -> HeadRoles:
    """Load the attention measures of every head."""
    return HeadRoles.from_tables(tables_of(store, run, "roles"), len(run.spec.examples.ids))
