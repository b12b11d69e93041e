"""Stored runs for pages: read once per process, since a finished run never changes. Nothing here needs torch.

The caches serve all sessions. Stores are equal if they have the same folders, runs if they have the same tables, so a
run whose files were replaced is read again; what raises is not kept.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import EXACT_MATCH, Level, Measure, level_of, paired
from cap_viz.runs.kinds.evaluation import levels_of, load_answers, load_report
from cap_viz.runs.kinds.patterns import load_patterns
from cap_viz.runs.kinds.profile import load_head_zeros, load_zeros
from cap_viz.runs.kinds.scores import load_blocks, load_gradient, load_scores
from cap_viz.runs.run_queries import is_head_scores
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import HeadEstimate, HeadStatistics, PairedComparison, Specificity, mean_with_ci, specificity
from cap_viz.tasks import Example, load_task
from cap_viz.tasks.example_sets import asked_by


def stored_runs(store: Store) -> list[StoredRun]:
    """Return all readable runs, newest first; parse manifests again only if a file was added or changed."""
    return list(listed(tuple(store.stamps()), store.shipped, store.local.parent))


@lru_cache(maxsize=4)
def listed(stamps: tuple[tuple[str, int], ...], shipped: Path, local: Path) -> tuple[StoredRun, ...]:
    return tuple(Store(shipped=shipped, local=local).runs())


@lru_cache(32)
def scores_of(store: Store, run: StoredRun) -> HeadScores:
    """Return the head scores of a run. Raises `DamagedRun`."""
    return load_scores(store, run)


@lru_cache(128)
def report_of(store: Store, run: StoredRun) -> EvalReport:
    """Return the report of an evaluation. Raises `DamagedRun`."""
    return load_report(store, run)


@lru_cache(512)
def level_in(store: Store, run: StoredRun, measure: Measure) -> Level:
    """Return a run's value of the measure with its interval. Raises `DamagedRun`."""
    return level_of(report_of(store, run), measure)


# The main numbers of an evaluation, zeros per matrix and per head under a mask, and what heads attend to; they raise
# `DamagedRun`.
levels_in = lru_cache(128)(levels_of)
read_zeros, read_head_zeros = lru_cache(64)(load_zeros), lru_cache(64)(load_head_zeros)
roles_of = lru_cache(16)(load_patterns)


@lru_cache(1024)
def paired_in(store: Store, first: StoredRun, second: StoredRun, measure: Measure) -> PairedComparison:
    """Compare the measure of two runs on the same items, first minus second. Raises `CapVizError`."""
    read = load_answers if measure == EXACT_MATCH else report_of
    return paired(read(store, first), read(store, second), measure)


@lru_cache(32)
def statistics_of(store: Store, run: StoredRun, metric: str) -> HeadStatistics:
    """Return the head statistics of an exact or gradient run by a metric. Raises `CapVizError`."""
    scores = load_gradient(store, run) if is_head_scores(run, "gradient") else scores_of(store, run)
    return HeadStatistics(scores.effects(metric))


@lru_cache(16)
def block_estimate(store: Store, run: StoredRun, metric: str) -> HeadEstimate:
    """Return the mean effects of whole attention layers and MLPs with intervals. Raises `DamagedRun`."""
    return mean_with_ci(load_blocks(store, run).effects(metric))


@lru_cache(16)
def specificity_of(store: Store, run: StoredRun, control: StoredRun) -> Specificity:
    """Compare a run's effects with those on a control text. Raises `CapVizError` if there is too little signal."""
    return specificity(*(statistics_of(store, one, "nll").effects for one in (run, control)))


def texts_of(task: str, ids: tuple[str, ...], prompt: str | None = None) -> dict[str, Example] | None:
    """Return the examples by id, or None if the task's texts are not on this machine. Never downloads.

    `prompt` is another wording of the prompt than the task's own.
    """
    chosen = load_task(task)
    if not chosen.is_local():
        return None
    try:
        return {example.id: example for example in asked_by(prompt, chosen.by_ids(ids))}
    except CapVizError:
        return None
