"""Data of the Circuit page: paths and pairs among the heads with the largest effects, from stored runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import numpy as np

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.pair_scores import PairScores
from cap_viz.attribution.path_scores import ANSWER, EVERYTHING, HeadPath, PathScores
from cap_viz.dashboard.components.head_map import head_name
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.sentences import interval_at
from cap_viz.figures.circuit import HeadMark, PathMark
from cap_viz.figures.theme import signed
from cap_viz.runs.kinds.joint import load_pairs
from cap_viz.runs.kinds.paths import load_paths
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import PairSpec, PathSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import HeadEstimate, mean_with_ci
from cap_viz.stats.joint import Head

# Paths of less than this percentage of the largest one are left out at first.
USUAL_LEAST = 8
Kind = TypeVar("Kind", PathSpec, PairSpec)


def stored_for(view: Frame, kind: type[Kind], scores: ScoreSpec, heads: Sequence[Head]) -> StoredRun[Kind] | None:
    """Find a run of the dense model that holds these heads under this ablation: most examples first, then fewest heads.

    Runs of single parts of the receivers, or into chosen receivers, are not complete circuits.
    """
    held = [
        run
        for run in runs_of(view.runs, kind)
        if run.spec.examples.task == scores.examples.task
        and (run.spec.model, run.spec.ablation) == (scores.model, scores.ablation)
        and set(heads) <= set(run.spec.heads)
        and (not isinstance(run.spec, PathSpec) or is_circuit(run.spec))
    ]
    return max(held, key=lambda run: (len(run.spec.examples.ids), -len(run.spec.heads)), default=None)


def is_circuit(spec: PathSpec) -> bool:
    return spec.mask is None and spec.receivers is None and "all" in spec.parts


@dataclass(frozen=True)
class Circuit:
    """The paths among chosen heads by one metric; `pairs` is None where they were not measured."""

    paths: PathScores
    pairs: PairScores | None
    metric: str

    @property
    def unit(self) -> str:
        return METRICS[self.metric].unit

    @property
    def n(self) -> int:
        return len(self.paths.questions)

    @cached_property
    def effects(self) -> np.ndarray:
        """Effect of every path on every example."""
        return self.paths.effects(self.metric)

    @cached_property
    def totals(self) -> HeadEstimate:
        """Total effects of the heads in `paths.senders`, as they were measured with the paths."""
        return mean_with_ci(self.effects[[self.number(HeadPath(head, EVERYTHING)) for head in self.paths.senders]])

    @cached_property
    def single(self) -> HeadEstimate:
        """Effects of the paths in `paths.single`."""
        return self.paths.estimated(self.metric)

    def number(self, path: HeadPath) -> int:
        return self.paths.paths.index(path)

    def effect_of(self, path: HeadPath) -> str:
        """Format the mean effect of a path to one receiver with its interval."""
        return interval(self.single, (self.paths.single.index(self.number(path)),))

    def direct(self, head: Head) -> np.ndarray:
        return self.effects[self.number(HeadPath(head, ANSWER))]

    def total(self, head: Head) -> np.ndarray:
        return self.effects[self.number(HeadPath(head, EVERYTHING))]

    @cached_property
    def named(self) -> dict[str, HeadPath]:
        """Return the paths to heads as a whole, to MLPs and to the answer by their names, largest effects first."""
        order = np.argsort(-np.abs(self.single.mean), kind="stable")
        paths = [self.paths.paths[self.paths.single[place]] for place in order]
        return {path_id(path): path for path in paths if path.part == "all"}

    def head_marks(self) -> list[HeadMark]:
        return [
            HeadMark(
                head_name(*head),
                float(self.totals.mean[place]),
                bool(self.totals.unclear[place]),
                f"<b>Head {head[1]} of layer {head[0]}</b><br>total effect "
                f"{interval(self.totals, (place,))} {self.unit}",
                head,
            )
            for place, head in enumerate(self.paths.senders)
        ]

    def path_marks(self, least: float = USUAL_LEAST / 100) -> Iterator[PathMark]:
        """Return the paths whose effect has at least this share of the largest one."""
        smallest = least * float(np.abs(self.single.mean).max())
        for place, number in enumerate(self.paths.single):
            path, mean = self.paths.paths[number], float(self.single.mean[place])
            if path.part != "all" or abs(mean) < smallest:
                continue
            to = path.receiver
            receiver = (to.layer, to.head) if to.kind == "head" else to.layer if to.kind == "mlp" else None
            hover = f"<b>{path}</b><br>{interval(self.single, (place,))} {self.unit}"
            yield PathMark(path_id(path), mean, bool(self.single.unclear[place]), hover, path.sender, receiver)


def path_id(path: HeadPath) -> str:
    """Name a path in addresses: `L0H1-L2H3`, `L0H1-MLP3`, `L0H1-answer`."""
    return f"{head_name(*path.sender)}-{path.receiver}".replace(" ", "")


def interval(estimate: HeadEstimate, place: tuple[int, ...] = ()) -> str:
    """Format a mean with its interval."""
    return f"{signed(float(estimate.mean[place]))} {interval_at(estimate, place)}"


@lru_cache(32)
def circuit_of(
    store: Store,
    paths: StoredRun[PathSpec],
    pairs: StoredRun[PairSpec] | None,
    heads: tuple[Head, ...],
    metric: str,
) -> Circuit:
    """Read the paths and pairs of these heads. Raises `CapVizError` if a run cannot be read."""
    found = None if pairs is None else load_pairs(store, pairs).among(heads)
    return Circuit(load_paths(store, paths).among(heads), found, metric)
