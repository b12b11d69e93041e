"""Packages and versions that criteria, tasks and head metrics come from, where that is not CAP Viz itself.

They are recorded with a run, and every machine that computes a part of it must have them.
"""

from __future__ import annotations

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.pruning import CRITERIA, criterion_named
from cap_viz.runs.spec import RunSpec
from cap_viz.tasks import TASKS, load_task


def packages_of(spec: RunSpec) -> frozenset[str]:
    """Return package and version of whatever other packages add to the spec: task, criterion, head metric."""
    mask = getattr(spec, "mask", None)
    metrics = (getattr(spec, "metric", None), getattr(mask, "metric", None))
    found = {load_task(spec.examples.task).origin, *(METRICS[one].origin for one in metrics if one in METRICS)}
    if mask is not None:
        found.add(criterion_named(mask.criterion).origin)
    return frozenset(found - {""})


def packages_here() -> frozenset[str]:
    """Return package and version of everything that other packages have added in this process."""
    added = (*CRITERIA.values(), *TASKS.values(), *METRICS.values())
    return frozenset({one.origin for one in added} - {""})
