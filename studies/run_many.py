"""Compute many runs of one model in turn, with the time of each and an estimate of the time left.

Finished runs are in the store, so a stopped series resumes where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cap_viz.attribution.results import BLOCK_PARTS
from cap_viz.progress import duration
from cap_viz.runs.backends.local import HERE
from cap_viz.runs.batched_runs import Backend
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds import describe
from cap_viz.runs.prefix_reuse import taken_words
from cap_viz.runs.protocols import PerplexityProtocol, protocol_of
from cap_viz.runs.spec import EvalSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import load_task

if TYPE_CHECKING:
    from cap_viz.models.loading import ModelShape, ReasoningModel

# Characters of a window of running text: its examples are windows, not questions.
WINDOW_CHARACTERS = 4_500


@dataclass(frozen=True)
class Turn:
    """A run of the series, and a line with the time it took and the estimated time left."""

    run: StoredRun
    line: str


def computed_in_turn(
    specs: Sequence[RunSpec], model: ReasoningModel, store: Store, backend: Backend = HERE
) -> Iterator[Turn]:
    """Yield every run in order, computing missing ones with progress on stderr."""
    from cap_viz.cli.output import shown

    left = {spec: work(spec, model.shape) for spec in specs}
    done, start = 0.0, time.monotonic()
    for spec in specs:
        size, found = left.pop(spec), store.sound(spec)
        run = found or shown(run_steps(spec, model, store, backend))
        taken = taken_words(run)
        done += 0 if found or taken else size
        to_go = duration((time.monotonic() - start) / done * sum(left.values())) if done and left else ""
        took = "computed before" if found else taken or duration(run.provenance["seconds"])
        yield Turn(run, f"{spec.examples.task}: {describe(spec)} ({took}){to_go and f', about {to_go} to go'}")


def work(spec: RunSpec, shape: ModelShape) -> float:
    """Estimate a run's cost in characters that pass through the whole model; only ratios between runs are meaningful.

    Removing a head (or a part) of layer l runs the layers from l on: (n_layers + 1) / 2 of n_layers on average.
    """
    characters = characters_of(spec)
    if not isinstance(spec, ScoreSpec):
        return float(characters)
    parts = shape.n_heads if spec.parts is None else len(BLOCK_PARTS)
    return characters * (1 + parts * (shape.n_layers + 1) / 2)


def characters_of(spec: RunSpec) -> int:
    if isinstance(spec, EvalSpec) and isinstance(protocol_of(spec), PerplexityProtocol):
        return WINDOW_CHARACTERS * len(spec.examples.ids)
    texts = load_task(spec.examples.task).by_ids(spec.examples.ids)
    return sum(len(example.prompt) + sum(map(len, example.options)) for example in texts)
