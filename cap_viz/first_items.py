"""Evaluations of the first items of a task that a longer evaluation has answered already."""

from __future__ import annotations

from dataclasses import replace

from cap_viz.spec import EvalSpec
from cap_viz.store import Store, StoredRun


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

    Its seconds are the share of these items, so that estimates made from it hold for items that have to be asked.
    """
    n, n_longer = len(spec.examples.ids), len(longer.spec.examples.ids)
    names = [file.removesuffix(".parquet") for file in longer.checksums]
    tables = {name: store.table(longer, name) for name in names}
    for name in {"options", "answers"} & tables.keys():
        tables[name] = tables[name].query("example < @n")
    seconds = round(longer.provenance["seconds"] * n / n_longer, 2)
    made = {**longer.provenance, "taken_from": longer.key, "seconds": seconds}
    return store.save(spec, tables, made)
