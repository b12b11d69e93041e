"""Mean effects, shares and bootstrapped means: worked numbers, edge cases, coverage under a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import bootstrap_mean_ci, mean_with_ci, wilson


def test_mean_of_two_examples_by_hand():
    # Mean 1, standard error 1, t = 1 with one degree of freedom: Cauchy, so p = 1 - 2·atan(1)/π = 1/2.
    estimate = mean_with_ci(np.array([0.0, 2.0]))
    assert estimate.mean == 1
    assert estimate.std_error == 1
    assert estimate.n == 2
    assert_allclose(estimate.p_value, 0.5)
    assert_allclose([estimate.low, estimate.high], [1 - 12.7062047, 1 + 12.7062047])


def test_mean_agrees_with_scipy_for_every_head():
    effects = np.random.default_rng(0).normal(0.2, 1, size=(3, 4, 20))
    estimate = mean_with_ci(effects, level=0.9)
    reference = stats.ttest_1samp(effects, 0, axis=-1)
    limits = reference.confidence_interval(0.9)
    assert estimate.mean.shape == (3, 4)
    assert_allclose(estimate.p_value, np.asarray(reference)[1])
    assert_allclose(estimate.low, limits.low)
    assert_allclose(estimate.high, limits.high)


def test_single_example_has_a_mean_but_no_uncertainty():
    estimate = mean_with_ci(np.array([[[0.5], [0.0]]]))
    assert_array_equal(estimate.mean, [[0.5, 0.0]])
    for unknown in (estimate.low, estimate.high, estimate.std_error, estimate.p_value):
        assert_array_equal(unknown, np.full((1, 2), np.nan))


def test_constant_effects_are_certain():
    # 0.1 seven times: numpy's standard deviation is 1.5e-17, not 0.
    estimate = mean_with_ci(np.array([[0.0] * 7, [0.1] * 7]))
    assert_array_equal(estimate.p_value, [1, 0])
    assert_array_equal(estimate.std_error, [0, 0])
    assert_array_equal(estimate.low, estimate.high)


def test_nan_stays_in_its_head():
    estimate = mean_with_ci(np.array([[1.0, np.nan], [0.0, 2.0]]))
    assert_array_equal(np.isnan(estimate.p_value), [True, False])
    assert_array_equal(np.isnan(estimate.low), [True, False])


def test_single_precision_effects_are_summed_in_double():
    effects = np.array([1e8, 1.0, -1e8], dtype=np.float32)
    assert_allclose(mean_with_ci(effects).mean, 1 / 3)


def test_no_examples_and_bad_levels_are_refused():
    with pytest.raises(CapVizError, match="at least one"):
        mean_with_ci(np.zeros((2, 0)))
    with pytest.raises(UsageError, match="95"):
        mean_with_ci(np.zeros((2, 3)), level=95.0)


def test_t_interval_covers_the_truth_and_the_test_holds_its_level():
    random = np.random.default_rng(1)
    shifted = mean_with_ci(random.normal(0.3, 1, size=(4000, 12)))
    assert 0.94 < np.mean((shifted.low <= 0.3) & (shifted.high >= 0.3)) < 0.96
    null = mean_with_ci(random.normal(0, 1, size=(4000, 12)))
    assert 0.04 < np.mean(null.p_value < 0.05) < 0.06


def test_an_estimate_ranks_its_heads_and_tests_them_all_at_once():
    # Standard errors: 1, 0, 1 and 0; certain effects have p = 0, the others p = 1/2 and 1.
    effects = np.array([[[0.0, 2.0], [3.0, 3.0]], [[-1.0, 1.0], [-2.0, -2.0]]])
    estimate = mean_with_ci(effects)
    assert_array_equal(estimate.rank, [[2, 1], [3, 4]])
    assert (estimate.top_head, estimate.top_heads(3)) == ((0, 1), [(0, 1), (0, 0), (1, 0)])
    # p·4/rank: 0·4/1, 0·4/2, .5·4/3, 1·4/4.
    assert_allclose(estimate.q_value, [[2 / 3, 0], [1, 0]])
    assert_array_equal(estimate.survives, [[False, True], [False, True]])
    assert_array_equal(estimate.unclear, [[True, False], [True, False]])


def test_no_head_survives_a_single_example():
    estimate = mean_with_ci(np.array([[[0.5], [0.0]]]))
    assert_array_equal(estimate.survives, [[False, False]])
    assert_array_equal(estimate.unclear, [[True, True]])


def test_wilson_by_hand():
    # (k + z²/2 ± z·sqrt(k(n - k)/n + z²/4)) / (n + z²) with z = 1.959964:
    # (9.92073 ± 1.959964·sqrt(1.6 + 0.960365)) / 13.84146
    interval = wilson(8, 10)
    assert_allclose([interval.low, interval.high], [0.490162, 0.943318], atol=1e-6)


def test_wilson_of_extremes_stays_inside_zero_and_one():
    assert wilson(0, 10).low == pytest.approx(0, abs=1e-12)
    assert wilson(10, 10).high == pytest.approx(1)
    # z² / (n + z²)
    assert wilson(0, 10).high == pytest.approx(3.841459 / 13.841459, abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_not_a_share(successes, n):
    with pytest.raises(CapVizError, match=f"{successes} successes out of {n}"):
        wilson(successes, n)


def test_bootstrap_repeats_with_its_seed():
    values = np.random.default_rng(2).exponential(size=30)
    assert bootstrap_mean_ci(values, seed=3) == bootstrap_mean_ci(values, seed=3)
    assert bootstrap_mean_ci(values, seed=3) != bootstrap_mean_ci(values, seed=4)


def test_bootstrap_agrees_with_normal_theory():
    values = np.random.default_rng(3).normal(5, 2, size=400)
    interval = bootstrap_mean_ci(values)
    margin = 1.96 * values.std() / 20
    assert_allclose([interval.low, interval.high], [values.mean() - margin, values.mean() + margin], atol=0.02)


def test_bootstrap_of_two_values_by_hand():
    # Resampled means of (0, 1) are 0, 1/2, 1 with probability 1/4, 1/2, 1/4.
    values = np.array([0.0, 1.0])
    wide, narrow = bootstrap_mean_ci(values, level=0.9), bootstrap_mean_ci(values, level=0.4)
    assert (wide.low, wide.high) == (0, 1)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_bootstrap_edges():
    constant = bootstrap_mean_ci(np.full(5, 0.25))
    assert (constant.low, constant.high) == (0.25, 0.25)
    assert np.isnan(bootstrap_mean_ci(np.array([1.0])).low)
    assert np.isnan(bootstrap_mean_ci(np.array([1.0, np.nan, 2.0])).high)
    with pytest.raises(CapVizError, match="No values"):
        bootstrap_mean_ci(np.array([]))
