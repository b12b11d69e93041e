"""Guards for benchmarks: what is timed is computed there and then, or the benchmark ends with a sentence."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.backends.local import HERE
from cap_viz.runs.batched_runs import BatchedRun, BatchStep
from cap_viz.runs.spec import RunSpec
from cap_viz.runs.store import Store


class CountingBackend:
    """Computes in this process and counts the examples of each run: those read from a store never come by here."""

    def __init__(self) -> None:
        self.computed: Counter[RunSpec] = Counter()

    def steps(self, run: BatchedRun, wanted: Sequence[int]) -> Iterator[BatchStep]:
        for step in HERE.steps(run, wanted):
            if step.last:
                self.computed[run.spec] += len(run.batches.batches[step.batch])
            yield step

    def facts(self) -> dict[str, Any]:
        return HERE.facts()

    def close(self) -> None:
        HERE.close()

    def check_computed(self, runs: Mapping[str, RunSpec]) -> None:
        """Exit where an example of one of these runs was read instead of computed."""
        for name, spec in runs.items():
            n, computed = len(spec.examples.ids), self.computed[spec]
            if computed < n:
                raise SystemExit(f"{n - computed} of the {n} answers of {name} were read from a store, not computed.")


class Untried(set[str]):
    """Short cuts of a model of which none counts as tried; `asked` are those that somebody wanted to take."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def __contains__(self, short_cut: object) -> bool:
        self.asked.add(str(short_cut))
        return False


@contextmanager
def self_checks_made(model: ReasoningModel) -> Iterator[None]:
    """Have the self-checks of the engine made inside, as with the first plan of a model just loaded.

    Exits where the engine asked for none: a plan was not made inside, or the checks are remembered elsewhere.
    """
    passed, untried = model.passed, Untried()
    model.passed = untried
    try:
        yield
    finally:
        model.passed = passed | untried
    if not untried.asked:
        raise SystemExit("No self-check was made in what is timed with self-checks.")


@contextmanager
def shipped_only() -> Iterator[Store]:
    """The shipped runs and an empty folder for new ones: what else is stored on this machine takes no part."""
    with tempfile.TemporaryDirectory() as folder:
        yield Store(local=Path(folder))
