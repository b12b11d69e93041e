"""Stored runs: their description, computation, storage, loading and export.

The package can be called: `cap_viz.runs()` lists the runs, although a module of this name is loaded into `cap_viz`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from cap_viz._moved import names_of

if TYPE_CHECKING:
    import pandas as pd

    from cap_viz.runs.store import Store

__getattr__ = names_of("cap_viz.runs", "runs.execute")


def list_runs(store: Store | None = None) -> pd.DataFrame:
    """List the runs of a store, by default those on this machine and those that come with CAP Viz, newest first.

    One row each: key, kind, model, task, n examples, what (the settings in words), created (UTC), origin ("precomputed"
    for runs that come with CAP Viz, else "live").
    """
    from cap_viz.runs.kinds import runs_table
    from cap_viz.runs.store import Store

    return runs_table((store or Store()).runs())


class _CallableModule(ModuleType):
    def __call__(self, store: Store | None = None) -> pd.DataFrame:
        return list_runs(store)


sys.modules[__name__].__class__ = _CallableModule
