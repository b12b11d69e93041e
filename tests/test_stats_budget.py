"""Sizes of a hybrid run: the formula by hand, the optimum against a search, predictions against simulated runs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cap_viz.errors import UsageError
from cap_viz.stats import hybrid_mean
from cap_viz.stats.budget import ExampleCost, Pilot, pilot_of, plan_for_half_width, plan_for_seconds

COST = ExampleCost(exact=8.0, gradient=0.25)
PILOT = Pilot(total=np.array([1.0]), left=np.array([0.06]), carried=np.array([0.94]))


def test_half_width_by_hand():
    assert PILOT.half_width(16, 94)[0] == pytest.approx(stats.t.ppf(0.975, 14) * (0.06 / 16 + 0.01) ** 0.5)
    assert COST.seconds(16, 100) == 153


def test_pilot_by_hand():
    """Gradient ±1, effect 2·gradient ± .5: left out .25·(8/7)², carried 4·16/15."""
    gradient = np.tile([-1.0, 1.0], 8)
    exact = 5 + 2 * gradient + np.tile([0.5, 0.5, -0.5, -0.5], 4)
    found = pilot_of(exact, gradient)
    assert found.total == pytest.approx((16 * 4 + 16 * 0.25) / 15)
    assert found.left == pytest.approx(0.25 * 64 / 49)
    assert found.carried == pytest.approx(4 * 16 / 15)


def test_best_sizes_within_a_budget():
    found = plan_for_seconds(PILOT, COST, 400.0, available=2000)
    assert found.seconds <= 400
    n, m = np.arange(16, 51)[:, None], np.arange(16, 1100)
    widths = stats.t.ppf(0.975, n - 2) * np.sqrt(0.06 / n + 0.94 / m)
    assert found.half_width == pytest.approx(widths[(m >= n) & (8 * n + 0.25 * m <= 400)].min())
    assert plan_for_seconds(PILOT, COST, 400.0, available=50).n_gradient == 50


def test_cheapest_sizes_for_a_precision():
    found = plan_for_half_width(PILOT, COST, 0.2, available=2000)
    assert found.half_width <= 0.2
    n, m = np.arange(16, 60)[:, None], np.arange(16, 1000)
    reached = (stats.t.ppf(0.975, n - 2) * np.sqrt(0.06 / n + 0.94 / m) <= 0.2) & (m >= n)
    assert found.seconds == (8.0 * n + 0.25 * m)[reached].min()


def test_expected_half_width_is_what_runs_give():
    random = np.random.default_rng(0)
    shared, own = random.normal(size=(2, 2000, 120))
    exact, gradient = 0.9 * shared + 0.43589 * own, 0.7 * shared
    measured = hybrid_mean(exact[:, :24], gradient[:, :24], gradient)
    expected = pilot_of(exact[:400], gradient[:400])
    width = np.median(expected.half_width(24, 120))
    assert np.median(measured.high - measured.mean) == pytest.approx(width, rel=0.06)


def test_what_cannot_be_reached_is_said():
    with pytest.raises(UsageError, match=r"\b60 seconds\b.*\b132\b"):
        plan_for_seconds(PILOT, COST, 60.0, available=500)
    with pytest.raises(UsageError, match=r"\b0\.001\b.*\b300 examples\b"):
        plan_for_half_width(PILOT, COST, 0.001, available=300)
    with pytest.raises(UsageError, match="n = 8"):
        pilot_of(np.zeros(8), np.zeros(8))
