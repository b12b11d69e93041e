"""Data of the Tasks page: one run of head scores per task, all measured in the same way, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool

from cap_viz.dashboard.components.panels import p_words
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.data import agreement, shared_top
from cap_viz.dashboard.overview.data import default_scores
from cap_viz.dashboard.stored import HeadStatistics, statistics_of
from cap_viz.errors import CapVizError
from cap_viz.runs.run_queries import alike
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import HeadEstimate, RankAgreement, TopOverlap, true_spread
from cap_viz.tasks import Task, all_tasks, load_task
from cap_viz.tasks.readable import CONTROL_TEXTS

# The only metric that running text has as well.
METRIC = "nll"
STANDARDISED, RAW = "standardised", "nats"
SCALE_UNITS = {STANDARDISED: "SD over heads", RAW: "nats per token"}


@dataclass(frozen=True)
class Measured:
    """A task's head scores. `spread`: standard deviation over heads of the true mean effects, in nats per token.

    `label` replaces the task's title where two runs of one task are compared.
    """

    task: Task
    run: StoredRun[ScoreSpec]
    stats: HeadStatistics
    spread: float
    label: str = ""

    @property
    def title(self) -> str:
        return self.label or self.task.title

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def n(self) -> int:
        return self.estimate().n

    @property
    def is_control(self) -> bool:
        return self.name in CONTROL_TEXTS

    def estimate(self, scale: str = RAW) -> HeadEstimate:
        """Return the effects as they are, or in standard deviations over heads, a scale that tasks can share."""
        found = self.stats.estimate
        if scale == RAW:
            return found
        bounds = {name: getattr(found, name) / self.spread for name in ("mean", "low", "high", "std_error")}
        return replace(found, **bounds)

    def top(self, k: int) -> Bool[np.ndarray, "layer head"]:
        return self.estimate().rank <= k


@dataclass(frozen=True)
class TaskPair:
    """Tasks to compare, scale of their maps, and number of heads counted as the top."""

    first: Measured
    second: Measured
    scale: str
    k: int


@dataclass(frozen=True)
class Collection:
    """Comparable tasks, reasoning tasks before control texts, and a sentence for each task left out."""

    measured: tuple[Measured, ...]
    problems: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.measured]

    def named(self, name: str) -> Measured:
        return next(one for one in self.measured if one.name == name)


def collect(view: Frame) -> Collection:
    """Collect the usual run of each task (exact, zero ablation, most examples) if made like the chosen task's."""
    runs = {task.name: default_scores(view, task) for task in all_tasks().values()}
    stored = {name: run for name, run in runs.items() if run is not None}
    like = stored.get(view.task.name) or next(iter(stored.values()), None)
    measured: list[Measured] = []
    problems: list[str] = []
    for name, run in stored.items():
        assert like is not None
        if not alike(run.spec, like.spec):
            problems.append(f"{load_task(name).title} was measured in another way than the others and is left out.")
            continue
        try:
            stats = statistics_of(view.store, run, METRIC)
            measured.append(Measured(load_task(name), run, stats, true_spread(stats.effects)))
        except CapVizError as error:
            problems.append(f"{load_task(name).title}: {error}")
    return Collection(tuple(sorted(measured, key=lambda one: one.is_control)), tuple(problems))


@dataclass(frozen=True)
class Pair:
    """Agreement of two tasks: rank correlation, and overlap of their top heads."""

    ranks: RankAgreement
    shared: TopOverlap


def pairs(measured: Sequence[Measured], k: int) -> dict[tuple[str, str], Pair]:
    """Compare every pair of different tasks once, in the order given."""
    return {
        (first.name, second.name): Pair(agreement(first.stats, second.stats), shared_top(first.stats, second.stats, k))
        for i, first in enumerate(measured)
        for second in measured[i + 1 :]
    }


def pair_table(found: dict[tuple[str, str], Pair]) -> pd.DataFrame:
    """Return one row per pair of tasks: rank correlation with its noise ceiling, and shared top heads with p."""
    return pd.DataFrame(
        {
            "first": load_task(first).title,
            "second": load_task(second).title,
            "correlation": pair.ranks.correlation,
            "ceiling": pair.ranks.ceiling,
            "shared": pair.shared.shared,
            "by_chance": pair.shared.expected,
            "p": p_words(pair.shared.p_value),
        }
        for (first, second), pair in found.items()
    )


def shared_heads(measured: Sequence[Measured], k: int) -> pd.DataFrame:
    """Return one row per head in the top k of any task: number of such tasks, median rank, and rank on each task.

    `tasks` and `median_rank` count reasoning tasks only, if there are any; control texts add a rank column.
    """
    reasoning = [one for one in measured if not one.is_control] or list(measured)
    ranks = {one.name: one.estimate().rank for one in measured}
    in_top = np.sum([one.top(k) for one in reasoning], axis=0)
    median = np.median([one.estimate().rank for one in reasoning], axis=0)
    some = np.any([one.top(k) for one in measured], axis=0)
    layers, heads = np.nonzero(some)
    table = pd.DataFrame(
        {
            "layer": layers,
            "head": heads,
            "tasks": in_top[some],
            "median_rank": median[some],
            **{f"rank_{name}": rank[some] for name, rank in ranks.items()},
        }
    )
    return table.sort_values(["tasks", "median_rank"], ascending=[False, True], ignore_index=True)
