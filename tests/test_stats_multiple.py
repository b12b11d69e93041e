"""Corrections for many tests, worked by hand and under a known truth."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from cap_viz.stats import false_discovery, holm, mean_with_ci

# Sorted: .005, .01, .03, .04.
P_VALUES = np.array([[0.01, 0.04], [0.03, 0.005]])


def test_benjamini_hochberg_by_hand():
    # p·4/rank: .02, .02, .04, .04.
    assert_allclose(false_discovery(P_VALUES), [[0.02, 0.04], [0.04, 0.02]])


def test_larger_p_value_can_rescue_a_smaller_one():
    # .03·2/1 = .06 alone, but .04·2/2 = .04 pulls it down.
    assert_allclose(false_discovery(np.array([0.03, 0.04])), [0.04, 0.04])


def test_holm_by_hand():
    # .005·4, .01·3, .03·2, .04·1 raised to the .06 before it.
    assert_allclose(holm(P_VALUES), [[0.03, 0.06], [0.06, 0.02]])
    assert_allclose(holm(np.array([0.6, 0.9])), [1, 1])


def test_nan_is_not_a_test():
    with_gap = np.array([0.03, np.nan, 0.04])
    assert_allclose(false_discovery(with_gap), [0.04, np.nan, 0.04])
    assert_allclose(holm(with_gap), [0.06, np.nan, 0.06])


def test_nothing_but_nan_and_nothing_at_all():
    assert_array_equal(false_discovery(np.full((2, 2), np.nan)), np.full((2, 2), np.nan))
    assert false_discovery(np.zeros((0, 3))).shape == (0, 3)
    assert holm(np.zeros(0)).shape == (0,)


def test_false_discoveries_stay_below_the_level():
    random = np.random.default_rng(0)
    truth = np.where(np.arange(200) < 40, 1.0, 0.0)
    effects = truth[None, :, None] + random.normal(size=(100, 200, 16))
    p_values = mean_with_ci(effects).p_value
    found = np.stack([false_discovery(p) <= 0.1 for p in p_values])
    shares = found[:, 40:].sum(axis=1) / np.maximum(1, found.sum(axis=1))
    # The procedure's rate is the level times the share of true nulls: .1·160/200 = .08.
    assert 0.06 < shares.mean() < 0.1
    assert found[:, :40].mean() > 0.8
    any_false = [(holm(p)[40:] <= 0.1).any() for p in p_values]
    assert np.mean(any_false) < 0.18
