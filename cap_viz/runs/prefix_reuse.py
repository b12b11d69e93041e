"""Evaluations of the first items of a task that a longer evaluation has answered already."""

from __future__ import annotations

import time
from dataclasses import replace

from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun

# Of a run's provenance: what is about the making of all its items, and not true of some of them.
ABOUT_ALL_ITEMS = ("plan", "seconds", "resumed_batches", "workers", "lost_workers", "taken_from", "taken_of")


def longer_run(spec: EvalSpec, store: Store) -> StoredRun | None:
    """A stored evaluation of more items that begin with these, the same in everything else.

    None where it had to cut prompts: how many of these were cut, it does not say.
    """
    ids = spec.examples.ids
    for run in store.runs():
        if "truncated" in run.provenance:
            continue
        if not isinstance(run.spec, EvalSpec) or len(run.spec.examples.ids) <= len(ids):
            continue
        if replace(run.spec, examples=replace(run.spec.examples, ids=run.spec.examples.ids[: len(ids)])) == spec:
            return run
    return None


def first_of(longer: StoredRun, spec: EvalSpec, store: Store) -> StoredRun:
    """The first items of a stored evaluation as a run of their own: what was answered is not asked again.

    What its numbers depend on (machine, versions and so on) is that of the longer run, which `taken_from` names;
    `taken_of` is how many items that has. Its plan, workers and resumed batches are about all of these and stay with
    it; the seconds are those that copying took.
    """
    started = time.perf_counter()
    n = len(spec.examples.ids)
    names = [file.removesuffix(".parquet") for file in longer.checksums]
    tables = {name: store.table(longer, name) for name in names}
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
    """How long a run took to compute; None for the first items of another, which were there already.

    Such runs once recorded a share of the other's seconds, in which building the mask was shared out as well.
    """
    return None if "taken_from" in run.provenance else run.provenance["seconds"]


def taken_words(run: StoredRun) -> str:
    """Which items of which run a run was taken from; empty for one that was computed."""
    made = run.provenance
    if "taken_from" not in made:
        return ""
    of = f" of {made['taken_of']}" if "taken_of" in made else ""
    return f"the first {len(run.spec.examples.ids)}{of} items of run {made['taken_from']}"
