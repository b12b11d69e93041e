"""Reuse of a longer stored evaluation for an evaluation of its first items, and the time that computing takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun

# Provenance about computing all items of a run, which does not hold for the first of them alone.
ABOUT_ALL_ITEMS = ("plan", "seconds", "resumed_batches", "workers", "lost_workers", "taken_from", "taken_of")


def longer_run(spec: EvalSpec, store: Store) -> StoredRun[EvalSpec] | None:
    """Find a stored evaluation that is the same but for more items, of which these are the first.

    Runs with truncated prompts are skipped: they do not record how many of the first items were cut.
    """
    n = len(spec.examples.ids)
    for run in sorted(store.like(spec), key=lambda run: run.created, reverse=True):
        examples = run.spec.examples
        is_longer = len(examples.ids) > n and "truncated" not in run.provenance
        if is_longer and replace(run.spec, examples=replace(examples, ids=examples.ids[:n])) == spec:
            return run
    return None


def first_of(longer: StoredRun[EvalSpec], spec: EvalSpec, store: Store) -> StoredRun[EvalSpec]:
    """Save the first items of a longer evaluation as a run of their own.

    Provenance that the numbers depend on (machine, versions and so on) is copied from the longer run; `taken_from` is
    that run's key, `taken_of` its number of items. Plan, workers and resumed batches concern all its items and are not
    copied; `seconds` is the time taken to copy.
    """
    started = time.perf_counter()
    n = len(spec.examples.ids)
    tables = {name: store.table(longer, name) for name in longer.digests}
    for name in {"options", "answers"} & tables.keys():
        tables[name] = tables[name].query(f"example < {n}")
    made = {name: value for name, value in longer.provenance.items() if name not in ABOUT_ALL_ITEMS}
    made |= {
        "taken_from": longer.key,
        "taken_of": len(longer.spec.examples.ids),
        "seconds": round(time.perf_counter() - started, 2),
        "resumed_batches": 0,
        "plan": None,
    }
    return store.save(spec, tables, made)


def computing_seconds(run: StoredRun) -> float | None:
    """Return the seconds a run took to compute; None for one taken from a longer run.

    Such runs used to record a share of the longer run's seconds, including a share of building the mask.
    """
    return None if "taken_from" in run.provenance else run.provenance["seconds"]


def expected_seconds(runs: Sequence[StoredRun], wanted: EvalSpec) -> float | None:
    """Estimate seconds: items times the median per item (of dense if stored), plus the median for such a mask.

    From evaluations by the same weights and protocol that were neither resumed nor taken from longer ones: those of the
    task, else of all tasks; None if there are none.
    """
    timed = [
        (run.spec, seconds)
        for run in runs_of(runs, EvalSpec)
        if (seconds := computing_seconds(run)) is not None
        and run.spec.model == wanted.model
        and run.spec.protocol == wanted.protocol
        and not run.provenance.get("resumed_batches")
    ]
    like = [one for one in timed if one[0].examples.task == wanted.examples.task] or timed
    if not like:
        return None
    dense = [seconds / len(spec.examples.ids) for spec, seconds in like if spec.mask is None]
    pace = float(np.median(dense or [seconds / len(spec.examples.ids) for spec, seconds in like]))
    building = [
        max(0.0, seconds - pace * len(spec.examples.ids))
        for spec, seconds in like
        if spec.mask is not None and wanted.mask is not None and spec.mask.criterion == wanted.mask.criterion
    ]
    return pace * len(wanted.examples.ids) + (float(np.median(building)) if building else 0.0)


def taken_words(run: StoredRun) -> str:
    """Say which items of which run this one was taken from; empty for a computed run."""
    made = run.provenance
    if "taken_from" not in made:
        return ""
    of = f" of {made['taken_of']}" if "taken_of" in made else ""
    return f"the first {len(run.spec.examples.ids)}{of} items of run {made['taken_from']}"
