"""How fast stored runs are found:  python -m benchmarks.store [--generated 20000] [--json]

Each number is the median of fresh processes, after imports: the first listing of all runs (`list_ms`), finding a run
by its spec (`get_ms`), finding a longer run that answers a shorter one (`longer_ms`), and reading a table with its
check (`table_ms`). `shipped_mb` and `shipped_files` are what git carries. The same for a pack of generated runs,
copies of shipped evaluations under other seeds, and the growth of the times against the growth in runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from cap_viz.runs.pack_writer import write_pack
from cap_viz.runs.prefix_reuse import longer_run
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, spec_key
from cap_viz.runs.store import Store
from cap_viz.runs.stored_run import StoredRun
from cap_viz.settings import shipped_folder

BARS = {"list_ms": 50.0, "get_ms": 5.0, "longer_ms": 5.0, "shipped_mb": 15.0, "shipped_files": 40}
PROCESSES = 5
LOOKED_UP = 20


def measure(folder: Path) -> dict[str, float]:
    """The times of this process, in milliseconds; it has listed no run yet."""
    # What the first reader of Parquet imports is not what is measured.
    import pyarrow.parquet  # noqa: F401

    with tempfile.TemporaryDirectory() as empty:
        store = Store(shipped=folder, local=Path(empty))
        started = time.perf_counter()
        runs = store.runs()
        listed = time.perf_counter() - started
        asked = runs_of(runs, EvalSpec)[:: max(1, len(runs) // LOOKED_UP)][:LOOKED_UP]
        specs = [run.spec for run in asked]
        shorter = [replace(spec, examples=replace(spec.examples, ids=spec.examples.ids[:-1])) for spec in specs]
        found = {
            "get_ms": each(lambda: [store.get(spec) for spec in specs], len(specs)),
            "longer_ms": each(lambda: [longer_run(spec, store) for spec in shorter], len(specs)),
            "table_ms": each(lambda: [store.table(run, next(iter(run.digests))) for run in asked], len(specs)),
        }
        return {"runs": len(runs), "list_ms": round(1000 * listed, 2), **found}


def each(work: Any, n: int) -> float:
    started = time.perf_counter()
    work()
    return round(1000 * (time.perf_counter() - started) / n, 3)


def in_fresh_processes(folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.store", "--measure", str(folder)]
    found = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(PROCESSES)]
    return {name: median(one[name] for one in found) for name in found[0]}


@dataclass(frozen=True)
class Copied:
    """Form of a run that is another one under a spec of its own."""

    original: StoredRun
    spec: EvalSpec

    @property
    def folder(self) -> Path:
        return self.original.folder

    def spec_of(self, run: StoredRun) -> EvalSpec:
        return self.spec

    def provenance_of(self, run: StoredRun) -> dict[str, Any]:
        return self.original.provenance

    def digests_of(self, run: StoredRun) -> Mapping[str, str]:
        return self.original.digests

    def table(self, run: StoredRun, name: str) -> pd.DataFrame:
        return table_of(self.original, name)

    def verify(self, run: StoredRun) -> None:
        self.original.form.verify(self.original)


@lru_cache(64)
def table_of(run: StoredRun, name: str) -> pd.DataFrame:
    return run.form.table(run, name)


def generated(runs: list[StoredRun[EvalSpec]]) -> Iterator[StoredRun]:
    """The evaluations again and again, as if their examples had been drawn with other seeds."""
    for seed in count(1000):
        for run in runs:
            spec = replace(run.spec, examples=replace(run.spec.examples, seed=seed))
            yield replace(run, key=spec_key(spec), form=Copied(run, spec))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generated", type=int, default=20_000, help="Runs of the generated pack; 0: none.")
    parser.add_argument("--measure", type=Path, help="Measure a folder of packed runs in this process.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    files = [path for path in shipped_folder().rglob("*") if path.is_file()]
    found: dict[str, Any] = in_fresh_processes(shipped_folder())
    found |= {
        "shipped_mb": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "shipped_files": len(files),
    }
    if options.generated:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(local=Path(folder, "none"))
            few = runs_of(store.runs(), EvalSpec)[::50]
            write_pack(Path(folder, "pack"), islice(generated(few), options.generated))
            many = in_fresh_processes(Path(folder, "pack"))
        found["generated"] = many
        found["growth"] = {
            name: round(many[name] / found[name], 2) for name in ("runs", "list_ms", "get_ms", "longer_ms", "table_ms")
        }
    found["passed"] = all(found[name] <= bar for name, bar in BARS.items())
    print(json.dumps(found) if options.json else "\n".join(f"{name:14} {value}" for name, value in found.items()))
    if not found["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
