"""Data of the Heads page: a run at one metric, its estimates, its comparison with generic text, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.results import HeadScores
from cap_viz.dashboard.components.share import Download
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.stored import scores_of, specificity_of, statistics_of, texts_of
from cap_viz.runs.html_page import html_of
from cap_viz.runs.kinds.scores import load_gradient
from cap_viz.runs.run_labels import AblationWords, ablation_words
from cap_viz.runs.run_queries import control_runs
from cap_viz.runs.score_sources import ScoreSource
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.spreadsheet import csv_text
from cap_viz.runs.store import Store, StoredRun
from cap_viz.stats import (
    HeadStatistics,
    RankAgreement,
    TopOverlap,
    mean_with_ci,
    rank_agreement,
    top_overlap,
    usual_top,
)
from cap_viz.stats.hybrid import HybridEstimate
from cap_viz.tasks import Example, Task, load_task
from cap_viz.tasks.readable import CONTROL_TEXTS

TASK_EFFECT, GENERIC_TEXT, SPECIFICITY = "task effect", "generic text", "specificity"
VIEWS = (TASK_EFFECT, GENERIC_TEXT, SPECIFICITY)
# Errors change on few questions: too coarse to rank heads.
NOT_FOR_RANKING = ("accuracy",)
SPECIFICITY_UNIT = "SD over heads"


@dataclass(frozen=True)
class View:
    """What the page shows: effects of a run by a metric, those on generic text, or the difference of the two.

    `control`: the stored run on generic text, None if there is none.
    """

    source: ScoreSource
    metric: str
    name: str = TASK_EFFECT
    control: StoredRun[ScoreSpec] | None = None

    @property
    def needs_control(self) -> bool:
        return self.name != TASK_EFFECT and self.control is None

    @property
    def run(self) -> StoredRun[ScoreSpec] | None:
        """The run whose effects are shown; None while it is being computed or has not been measured."""
        return self.control if self.name == GENERIC_TEXT else self.source.run


@dataclass(frozen=True)
class HeadView:
    """A stored exact run at one metric, ready to draw."""

    frame: Frame
    run: StoredRun[ScoreSpec]
    metric: str
    scores: HeadScores
    stats: HeadStatistics

    @classmethod
    def of(cls, frame: Frame, run: StoredRun[ScoreSpec], metric: str) -> HeadView:
        """Read a run. Raises `CapVizError` if it cannot be read."""
        return cls(frame, run, metric, scores_of(frame.store, run), statistics_of(frame.store, run, metric))

    @property
    def spec(self) -> ScoreSpec:
        return self.run.spec

    @property
    def task(self) -> Task:
        """Task of the run; the control text in the generic-text view."""
        return load_task(self.spec.examples.task)

    @property
    def words(self) -> AblationWords:
        """Wording of the run's ablation."""
        return ablation_words(self.spec)

    @property
    def unit(self) -> str:
        return METRICS[self.metric].unit

    @property
    def ids(self) -> tuple[str, ...]:
        return self.scores.questions.ids

    @cached_property
    def texts(self) -> dict[str, Example] | None:
        """The examples by id; None where they are not on this machine."""
        return texts_of(self.task.name, self.ids, self.spec.examples.prompt)

    @property
    def n(self) -> int:
        return len(self.ids)

    @property
    def ranks_heads(self) -> bool:
        return self.metric not in NOT_FOR_RANKING


def views_of(task: str, estimator: str) -> tuple[str, ...]:
    """Return the views on offer; only the task effect for a control text or an estimator other than exact.

    A control text has nothing to be compared with, and specificity is defined for exact effects.
    """
    return VIEWS[:1] if task in CONTROL_TEXTS or estimator != "exact" else VIEWS


def controls_of(frame: Frame, source: ScoreSource) -> dict[str, StoredRun[ScoreSpec]]:
    """Return the stored runs on generic text that a source can be compared with, by text."""
    has_views = len(views_of(frame.task.name, source.estimator)) > 1
    return control_runs(frame.runs, source.spec) if has_views else {}


@lru_cache(16)
def hybrid_of(store: Store, exact: StoredRun, gradient: StoredRun) -> tuple[HybridEstimate, float]:
    """Combine two runs; return the estimate, and how many times narrower its intervals are than the exact ones.

    Raises `CapVizError` if a run cannot be used.
    """
    from cap_viz.attribution.hybrid import hybrid_scores

    many, few = load_gradient(store, gradient), scores_of(store, exact)
    estimate, alone = hybrid_scores(few, many).estimate, mean_with_ci(few.effects(many.metric))
    return estimate, float(np.median((alone.high - alone.low) / (estimate.high - estimate.low)))


def shared_top(task: HeadStatistics, control: HeadStatistics, k: int | None = None) -> TopOverlap:
    """Return the overlap of the k heads with the largest effects, by default a tenth of all."""
    return top_overlap(task.estimate.mean, control.estimate.mean, k or usual_top(task.estimate.mean.size))


def agreement(task: HeadStatistics, control: HeadStatistics) -> RankAgreement:
    known = [np.nan if stats.reliability is None else stats.reliability.full for stats in (task, control)]
    return rank_agreement(task.estimate.mean, control.estimate.mean, *known)


def downloads_of(store: Store, view: View) -> list[Download]:
    """Return the files of the Share menu, none while there is nothing to export.

    They are read on click, not before: a damaged run is reported in place of the map.
    """
    run = view.run
    if run is None or view.needs_control:
        return []
    name = "-".join([view.name.replace(" ", "-"), run.spec.examples.task, view.metric, view.source.name])
    return [
        Download("Heads as CSV", lambda: csv_text(head_table(store, view)), f"{name}.csv", "text/csv"),
        Download("The run as a web page", lambda: html_of(store, run), f"{run.title}.html", "text/html"),
    ]


def head_table(store: Store, view: View) -> pd.DataFrame:
    """Return one row per head, in rank order; intervals of ranks are left out where the estimate combines two runs.

    Of specificities, effects are in nats per token, the rest in standard deviations over heads.
    """
    assert view.run is not None
    stats = statistics_of(store, view.run, view.metric)
    if view.source.gradient is not None:
        columns = hybrid_of(store, view.run, view.source.gradient)[0].columns()
    elif view.name != SPECIFICITY:
        columns = {**stats.estimate.columns(), "rank_low": stats.ranks.low, "rank_high": stats.ranks.high}
    else:
        assert view.control is not None
        found = specificity_of(store, view.run, view.control)
        columns = {
            **found.columns("specificity"),
            "task_standardised": found.task,
            "control_standardised": found.control,
            "task_effect": stats.estimate.mean,
            "control_effect": statistics_of(store, view.control, "nll").estimate.mean,
        }
    return pd.DataFrame({name: np.ravel(values) for name, values in columns.items()}).sort_values("rank")
