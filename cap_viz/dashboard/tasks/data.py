"""Data of the Tasks page: one run of head scores per task, all measured in the same way, on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from cap_viz.dashboard.components.panels import p_words
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.data import agreement, shared_top
from cap_viz.dashboard.names import task_name
from cap_viz.dashboard.overview.data import default_scores
from cap_viz.dashboard.stored import statistics_of
from cap_viz.errors import CapVizError
from cap_viz.runs.run_queries import alike
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import HeadEstimate, HeadStatistics, true_spread
from cap_viz.tasks import Task, all_tasks, load_task
from cap_viz.tasks.readable import CONTROL_TEXTS

# The only metric that running text has as well.
METRIC = "nll"
STANDARDISED, RAW = "standardised", "nats"
SCALE_UNITS = {STANDARDISED: "SD over heads", RAW: "nats per token"}


@dataclass(frozen=True)
class Measured:
    """A task's head scores. `spread`: standard deviation over heads of the true mean effects, in nats per token."""

    task: Task
    run: StoredRun[ScoreSpec]
    stats: HeadStatistics
    spread: float
    title: str

    @property
    def name(self) -> str:
        return self.task.name

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


def measured_in(store: Store, run: StoredRun[ScoreSpec], suffix: str = "") -> Measured:
    """Read a run of head scores; `suffix` follows the task's title. Raises `CapVizError` if it cannot be read."""
    task, stats = load_task(run.spec.examples.task), statistics_of(store, run, METRIC)
    return Measured(task, run, stats, true_spread(stats.effects), f"{task.title}{suffix}")


@dataclass(frozen=True)
class TaskPair:
    """Tasks to compare, scale of their maps, and number of heads counted as the top."""

    first: Measured
    second: Measured
    scale: str
    k: int


def collect(view: Frame) -> tuple[list[Measured], list[str]]:
    """Collect the usual run of each task (exact, zero ablation, most examples) if made like the chosen task's.

    Returns reasoning tasks before control texts, and a sentence for each task left out.
    """
    usual = {name: run for name, task in all_tasks().items() if (run := default_scores(view, task)) is not None}
    like = usual.get(view.task.name) or next(iter(usual.values()), None)
    measured: list[Measured] = []
    problems: list[str] = []
    for name, run in usual.items():
        if like is not None and not alike(run.spec, like.spec):
            problems.append(f"{task_name(name)} was measured in another way than the others and is left out.")
            continue
        try:
            measured.append(measured_in(view.store, run))
        except CapVizError as error:
            problems.append(f"{task_name(name)}: {error}")
    return sorted(measured, key=lambda one: one.is_control), problems


def reasoning(measured: Sequence[Measured]) -> list[Measured]:
    """Return those that are no control texts; all, if there are no others."""
    return [one for one in measured if not one.is_control] or list(measured)


def pair_table(measured: Sequence[Measured], k: int) -> pd.DataFrame:
    """Return one row per pair of tasks: rank correlation with its noise ceiling, and shared top heads with p."""
    rows = []
    for first, second in combinations(measured, 2):
        ranks, shared = agreement(first.stats, second.stats), shared_top(first.stats, second.stats, k)
        row = {"correlation": ranks.correlation, "ceiling": ranks.ceiling, "shared": shared.shared}
        more = {"by_chance": shared.expected, "p": p_words(shared.p_value)}
        rows.append({"first": first.title, "second": second.title, **row, **more})
    return pd.DataFrame(rows)


def shared_heads(measured: Sequence[Measured], k: int) -> pd.DataFrame:
    """Return one row per head in the top k of any task: number of such tasks, median rank, and rank on each task.

    `tasks` and `median_rank` count reasoning tasks only, if there are any; control texts add a rank column.
    """
    ranks = {one.name: one.estimate().rank for one in measured}
    counted = np.stack([ranks[one.name] for one in reasoning(measured)])
    some = np.any([rank <= k for rank in ranks.values()], axis=0)
    layers, heads = np.nonzero(some)
    table = pd.DataFrame(
        {
            "layer": layers,
            "head": heads,
            "tasks": (counted <= k).sum(axis=0)[some],
            "median_rank": np.median(counted, axis=0)[some],
            **{f"rank_{name}": rank[some] for name, rank in ranks.items()},
        }
    )
    return table.sort_values(["tasks", "median_rank"], ascending=[False, True], ignore_index=True)
