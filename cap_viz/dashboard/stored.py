"""Stored runs for pages: read once per process, since a finished run never changes.

Caches are keyed by folder and checksums, so a replaced run is read again. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import ACC, Level, Measure, Paired, level_of, paired, paired_p
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.store import MANIFEST, Store, StoredRun
from cap_viz.stats import (
    Discoveries,
    MeanEstimate,
    PairedComparison,
    RankIntervals,
    Reliability,
    Specificity,
    bootstrap_rank_intervals,
    false_discovery,
    mean_with_ci,
    rank_heads,
    specificity,
    split_half,
)
from cap_viz.tasks import Example, load_task


@dataclass(frozen=True)
class HeadStatistics:
    """Statistics of every head from one run and metric.

    Those that resample or split the examples are computed on first access: the Overview shows nine tasks at once.
    """

    effects: Float[np.ndarray, "layer head example"]
    estimate: MeanEstimate
    found: Discoveries

    @cached_property
    def rank(self) -> Int[np.ndarray, "layer head"]:
        return rank_heads(self.estimate.mean)

    @cached_property
    def ranks(self) -> RankIntervals:
        return bootstrap_rank_intervals(self.effects)

    @cached_property
    def reliability(self) -> Reliability | None:
        """Split-half reliability of the ranking; None below 4 examples."""
        return reliability_of(self.effects)

    @property
    def unclear(self) -> Bool[np.ndarray, "layer head"]:
        """Heads whose interval includes zero, or that have none because there is a single example."""
        return ~((self.estimate.low > 0) | (self.estimate.high < 0))


def stored_runs(store: Store) -> list[StoredRun]:
    """Return all readable runs, newest first; parse manifests again only if a file was added or changed."""
    return list(listed(tuple(stamps_of(store)), store.shipped, store.local.parent))


def stamps_of(store: Store) -> Iterator[tuple[str, int]]:
    for folder in store.folders():
        with suppress(FileNotFoundError):  # No run, or one that another process has just deleted.
            yield str(folder), (folder / MANIFEST).stat().st_mtime_ns


@lru_cache(maxsize=4)
def listed(stamps: tuple[tuple[str, int], ...], shipped: Path, local: Path) -> tuple[StoredRun, ...]:
    return tuple(Store(shipped=shipped, local=local).runs())


def scores_of(store: Store, run: StoredRun) -> HeadScores:
    """Return the head scores of a run. Raises `DamagedRun`."""
    return cached_scores(*address(store, run))


def report_of(store: Store, run: StoredRun) -> EvalReport:
    """Return the report of an evaluation. Raises `DamagedRun`."""
    return cached_report(*address(store, run))


def statistics_of(store: Store, run: StoredRun, metric: str) -> HeadStatistics:
    """Return the head statistics of a run by a metric. Raises `DamagedRun`."""
    return cached_statistics(*address(store, run), metric)


def level_in(store: Store, run: StoredRun, measure: Measure) -> Level:
    """Return a run's value of the measure with its interval. Raises `DamagedRun`."""
    return cached_level(address(store, run), measure)


def paired_in(store: Store, first: StoredRun, second: StoredRun, measure: Measure) -> Paired:
    """Compare the measure of two runs on the same items, first minus second. Raises `DamagedRun`."""
    return cached_pair(address(store, first), address(store, second), measure)


def paired_p_in(store: Store, first: StoredRun, second: StoredRun, measure: Measure) -> float:
    """Return the p-value of `paired_in` alone. Raises `DamagedRun`."""
    return cached_p(address(store, first), address(store, second), measure)


def specificity_of(store: Store, run: StoredRun, control: StoredRun) -> Specificity:
    """Compare a run's effects with those on a control text. Raises `CapVizError` if there is too little signal."""
    return cached_specificity(address(store, run), address(store, control))


def paired_of(store: Store, first: StoredRun, second: StoredRun) -> PairedComparison:
    """Compare the accuracy of two runs on the same items, first minus second. Raises `DamagedRun`."""
    found = paired_in(store, first, second, ACC)
    assert isinstance(found, PairedComparison)
    return found


Address = tuple[Path, Path, Path, tuple[tuple[str, str], ...]]


def address(store: Store, run: StoredRun) -> Address:
    return store.shipped, store.local.parent, run.folder, tuple(sorted(run.checksums.items()))


@lru_cache(maxsize=32)
def cached_scores(shipped: Path, local: Path, folder: Path, checksums: tuple[tuple[str, str], ...]) -> HeadScores:
    store = Store(shipped=shipped, local=local)
    return load_scores(store, store.open(folder))


@lru_cache(maxsize=128)
def cached_report(shipped: Path, local: Path, folder: Path, checksums: tuple[tuple[str, str], ...]) -> EvalReport:
    store = Store(shipped=shipped, local=local)
    return load_report(store, store.open(folder))


@lru_cache(maxsize=512)
def cached_level(run: Address, measure: Measure) -> Level:
    return level_of(cached_report(*run), measure)


@lru_cache(maxsize=1024)
def cached_pair(first: Address, second: Address, measure: Measure) -> Paired:
    return paired(cached_report(*first), cached_report(*second), measure)


@lru_cache(maxsize=1024)
def cached_p(first: Address, second: Address, measure: Measure) -> float:
    return paired_p(cached_report(*first), cached_report(*second), measure)


@lru_cache(maxsize=32)
def cached_statistics(
    shipped: Path, local: Path, folder: Path, checksums: tuple[tuple[str, str], ...], metric: str
) -> HeadStatistics:
    return head_statistics(cached_scores(shipped, local, folder, checksums).effects(metric))


@lru_cache(maxsize=16)
def cached_specificity(run: Address, control: Address) -> Specificity:
    return specificity(cached_statistics(*run, "nll").effects, cached_statistics(*control, "nll").effects)


def head_statistics(effects: Float[np.ndarray, "layer head example"]) -> HeadStatistics:
    estimate = mean_with_ci(effects)
    return HeadStatistics(
        effects=effects,
        estimate=estimate,
        found=false_discovery(estimate.p_value),
    )


def reliability_of(effects: Float[np.ndarray, "layer head example"]) -> Reliability | None:
    try:
        return split_half(effects)
    except CapVizError:
        return None


def arrived_effects(scores: HeadScores, metric: str) -> Float[np.ndarray, "layer head example"]:
    """Return the effects of an unfinished run, with NaN for examples a layer has not seen yet."""
    gold = scores.questions.gold
    missing = np.isnan(scores.ablated[..., np.arange(len(gold)), gold])
    with np.errstate(all="ignore"):
        return np.where(missing, np.nan, scores.effects(metric))


def texts_of(task: str, ids: tuple[str, ...]) -> dict[str, Example] | None:
    """Return the examples by id, or None if the task's texts are not on this machine. Never downloads."""
    chosen = load_task(task)
    if not chosen.is_local():
        return None
    try:
        return {example.id: example for example in chosen.by_ids(ids)}
    except CapVizError:
        return None
