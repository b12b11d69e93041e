"""Metrics by hand on one question with three options (log-likelihoods -1, -2, -4; tokens 1, 2, 2)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cap_viz.attribution.effect_metrics import METRICS, metric_named
from cap_viz.attribution.results import EvalReport, HeadScores, Questions
from cap_viz.errors import UsageError

LOGLIKS = np.array([[-1.0, -2.0, -4.0, np.nan]])
TOKENS = np.array([[1, 2, 2, 0]])


@pytest.mark.parametrize(
    ("metric", "gold", "expected"),
    [
        ("nll", 0, 1.0),
        ("nll", 1, 1.0),
        ("nll", 2, 2.0),
        ("choice_nll", 0, math.log(math.exp(-1) + math.exp(-2) + math.exp(-4)) + 1),
        ("logit_diff", 0, math.log(math.exp(-2) + math.exp(-4)) + 1),
        ("logit_diff", 2, math.log(math.exp(-1) + math.exp(-2)) + 4),
        ("accuracy", 0, 0.0),
        ("accuracy", 1, 1.0),
    ],
)
def test_metric_by_hand(metric: str, gold: int, expected: float) -> None:
    assert metric_named(metric)(LOGLIKS, np.array([gold]), TOKENS)[0] == pytest.approx(expected, abs=1e-12)


def test_effect_is_positive_when_removing_the_head_hurts() -> None:
    questions = Questions(ids=("a",), gold=np.array([0]), tokens=TOKENS, chars=TOKENS * 4)
    worse = LOGLIKS - np.array([1.0, 0.0, 0.0, 0.0])
    scores = HeadScores(questions=questions, dense=LOGLIKS, ablated=worse[None, None])
    for metric in METRICS:
        assert scores.effects(metric)[0, 0, 0] > 0 or metric == "accuracy"
    assert scores.mean_effect("nll")[0, 0] == pytest.approx(1.0)


def test_unknown_metric_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'loss'; choose one of nll, choice_nll"):
        metric_named("loss")


def test_accuracy_and_normalised_accuracy_by_hand() -> None:
    # Sums choose option 0 (-3 > -4); per character option 1 wins (-4/8 > -3/2).
    questions = Questions(
        ids=("a", "b"),
        gold=np.array([1, 0]),
        tokens=np.array([[1, 4], [1, 4]]),
        chars=np.array([[2, 8], [2, 8]]),
    )
    report = EvalReport(questions=questions, logliks=np.array([[-3.0, -4.0], [-3.0, -4.0]], dtype=np.float32))
    assert report.chosen.tolist() == [0, 0]
    assert report.chosen_norm.tolist() == [1, 1]
    assert (report.acc, report.acc_norm) == (0.5, 0.5)
    assert report.correct.tolist() == [False, True]
