"""How soon live accuracies are there: python -m benchmarks.live_pruning [--json]

What the Prune page does when its button is pressed: dense, CAP and Wanda at one sparsity go to the job queue. Stored
are the shipped runs but for answers under these two masks, so that the dense answers and the head scores are read, as
on the page, and both pruned models are computed; the benchmark fails where one was not. The model is loaded beforehand.

first_interval_s   until two of the three have answered 2 common questions, so that a paired interval can be drawn
first_three_s      until all three have
all_s              until all have answered `--items` questions (bar for 100: 25, and 2 with --model toy-reasoner)
computed           questions of each that were computed; 0 where the answers were read from the shipped runs
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks.guards import CountingBackend, shipped_only
from cap_viz.attribution.results import EvalReport
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL
from cap_viz.models.loading import load_model
from cap_viz.runs.jobs import Job
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.pack_writer import write_pack
from cap_viz.runs.queue import JobQueue
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import EvalSpec, MaskSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.tasks.example_sets import evaluation_set
from cap_viz.tasks.readable import tasks_for

BARS = {DEFAULT_MODEL: {"first_interval_s": 5.0, "all_s": 25.0}, TOY_MODEL: {"first_interval_s": 5.0, "all_s": 2.0}}
ENOUGH = 2


def answered(job: Job) -> int:
    partial = job.progress.partial
    return len(partial) if isinstance(partial, EvalReport) else 0


def store_without(masks: Collection[MaskSpec], store: Store, folder: Path) -> Store:
    """The shipped runs of a store but for the answers under some masks, and an empty folder for new ones."""
    shipped = folder / "shipped"
    write_pack(
        shipped, [run for run in store.runs() if not (isinstance(run.spec, EvalSpec) and run.spec.mask in masks)]
    )
    return Store(shipped=shipped, local=folder / "local")


def measure(model_id: str, items: int, sparsity: float) -> dict[str, Any]:
    model, task = load_model(model_id), tasks_for(model_id)[0]
    with shipped_only() as shipped, tempfile.TemporaryDirectory() as folder:
        scores = score_runs(shipped.runs(), model.ref, task)[0].spec
        assert isinstance(scores, ScoreSpec)
        n, examples = len(scores.examples.ids), evaluation_set(task, items)
        masks = {
            name: mask_spec_for(model.ref, name, sparsity, task=task, n=n, scores=scores) for name in ("cap", "wanda")
        }
        pruned = {name: EvalSpec(model.ref, examples, mask) for name, mask in masks.items()}
        runs = {"dense": EvalSpec(model.ref, examples), **pruned}
        backend = CountingBackend()
        jobs_queue = JobQueue(
            store_without(masks.values(), shipped, Path(folder)), lambda _: model, backend=lambda: backend
        )
        started = time.perf_counter()
        jobs = [jobs_queue.submit(spec, name) for name, spec in runs.items()]
        first = three = 0.0
        while any(job.active for job in jobs):
            counts = sorted(items if job.state == "done" else answered(job) for job in jobs)
            if counts[1] >= ENOUGH and not first:
                first = time.perf_counter() - started
            if counts[0] >= ENOUGH and not three:
                three = time.perf_counter() - started
            time.sleep(0.02)
        done = time.perf_counter() - started
    failed = [job.error for job in jobs if job.state != "done"]
    if failed:
        raise SystemExit("; ".join(failed))
    backend.check_computed(pruned)
    return {
        "first_interval_s": round(first or done, 2),
        # Between two looks all may be done.
        "first_three_s": round(three or done, 2),
        "all_s": round(done, 2),
        "items": items,
        "sparsity": sparsity,
        "computed": {name: backend.computed[spec] for name, spec in runs.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, choices=BARS)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--sparsity", type=float, default=0.3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.model, options.items, options.sparsity)
    bars = BARS[options.model]
    passed = all(found[name] <= bar for name, bar in bars.items())
    if options.json:
        print(json.dumps({**found, "bars": bars, "passed": passed}))
    else:
        print("\n".join(f"{name:17} {value}" for name, value in found.items()))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
