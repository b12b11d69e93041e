"""Criteria, tasks and head metrics of other packages, found by their entry points.

A package names its objects in the groups `cap_viz.criteria` (a `Criterion`), `cap_viz.tasks` (a `Task`) and
`cap_viz.metrics` (a function like those of `attribution/effect_metrics.py`). They join the registries of CAP Viz, so
that shell, pages and Python offer them like its own. `examples/plugin` is such a package.

Plug-ins are code and run with the rights of this process. `CAP_VIZ_PLUGINS` names the packages to load; without it all
are loaded, except on a shared server (`CAP_VIZ_SERVER=1`), which loads none.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from cap_viz.attribution.effect_metrics import METRICS, Metric
from cap_viz.errors import CapVizError, UsageError
from cap_viz.pruning import CRITERIA, Criterion
from cap_viz.settings import is_shared, listed_plugins
from cap_viz.tasks import TASKS, Task

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Plugin:
    """One object of another package: `kind` is "criterion", "task" or "metric"; `problem` says why it is left out."""

    kind: str
    name: str
    package: str
    version: str
    problem: str = ""

    @property
    def origin(self) -> str:
        return f"{self.package} {self.version}"


@lru_cache(maxsize=1)
def load_plugins() -> tuple[Plugin, ...]:
    """Add the objects of all packages to the registries, once per process; what cannot be added is logged."""
    found = [load(kind, entry) for kind in ADDERS for entry in entry_points(group=f"cap_viz.{GROUPS[kind]}")]
    for one in found:
        if one.problem:
            log.warning("%s", one.problem)
    return tuple(found)


def load(kind: str, entry: EntryPoint) -> Plugin:
    package, version = ("?", "?") if entry.dist is None else (entry.dist.name, entry.dist.version)
    plugin = Plugin(kind, entry.name, package, version)
    try:
        if not is_wanted(package):
            raise UsageError("this server loads only the packages named in CAP_VIZ_PLUGINS")
        ADDERS[kind](plugin, entry.load())
    except CapVizError as error:
        return replace(plugin, problem=sentence(plugin, str(error)))
    except Exception as error:  # Its code may raise anything; the dashboard goes on without it.
        return replace(plugin, problem=sentence(plugin, f"{type(error).__name__}: {error}"))
    return plugin


def sentence(plugin: Plugin, reason: str) -> str:
    return f"The {plugin.kind} {plugin.name!r} of {plugin.origin} is left out: {reason.rstrip('.')}."


def is_wanted(package: str) -> bool:
    named = listed_plugins()
    return package in named if named or is_shared() else True


def add_criterion(plugin: Plugin, criterion: Any) -> None:
    check(plugin, isinstance(criterion, Criterion), "it is no cap_viz.pruning.Criterion")
    check_name(plugin, criterion.name, CRITERIA)
    CRITERIA[plugin.name] = replace(criterion, origin=plugin.origin)


def add_task(plugin: Plugin, task: Any) -> None:
    check(plugin, isinstance(task, Task), "it is no cap_viz.tasks.Task")
    check_name(plugin, task.name, TASKS)
    TASKS[plugin.name] = replace(task, origin=plugin.origin)


def add_metric(plugin: Plugin, metric: Any) -> None:
    """Add a metric, a `Metric` or a bare function, after trying it on two questions of two options."""
    check_name(plugin, plugin.name, METRICS)
    logliks, gold = np.array([[-1.0, -2.0], [-3.0, -1.5]]), np.array([0, 1])
    values = np.asarray(metric(logliks, gold, np.array([[2, 3], [1, 2]])))
    check(plugin, values.shape == (2,) and bool(np.isfinite(values).all()), "it returns no finite number per example")
    described = metric if isinstance(metric, Metric) else Metric(metric, plugin.name, "effect")
    METRICS[plugin.name] = replace(described, origin=plugin.origin)


def check(plugin: Plugin, holds: bool, reason: str) -> None:
    if not holds:
        raise UsageError(reason)


def check_name(plugin: Plugin, own: str, taken: dict[str, Any]) -> None:
    check(plugin, own == plugin.name, f"its entry point is called {plugin.name!r} and the object {own!r}")
    check(plugin, NAME.fullmatch(plugin.name) is not None, "a name has small letters, digits and underscores only")
    check(plugin, plugin.name not in taken, "the name is taken")


GROUPS = {"criterion": "criteria", "task": "tasks", "metric": "metrics"}
ADDERS: dict[str, Callable[[Plugin, Any], None]] = {
    "criterion": add_criterion,
    "task": add_task,
    "metric": add_metric,
}
