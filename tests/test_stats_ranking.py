"""Ranks of heads and their bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import bootstrap_rank_intervals, rank_heads


def test_ranks_of_four_heads_with_a_tie():
    assert_array_equal(rank_heads(np.array([[0.1, 0.5], [-0.2, 0.5]])), [[3, 1], [4, 2]])


def test_head_without_a_value_comes_last():
    assert_array_equal(rank_heads(np.array([[np.nan, -5.0, 0.0]])), [[3, 2, 1]])


def test_clear_differences_leave_no_doubt():
    effects = np.array([[[1.0, 1.1, 0.9], [3.0, 3.1, 2.9]], [[2.0, 2.1, 1.9], [0.0, 0.1, -0.1]]])
    result = bootstrap_rank_intervals(effects)
    assert_array_equal(result.rank, [[3, 1], [2, 4]])
    assert_array_equal(result.low, result.rank)
    assert_array_equal(result.high, result.rank)


def test_noise_shared_by_all_heads_does_not_blur_ranks():
    # Fails if each head were resampled by itself.
    shared = np.random.default_rng(0).normal(0, 100, size=20)
    effects = np.array([[0.02, 0.01, 0.03]])[..., None] + shared
    result = bootstrap_rank_intervals(effects)
    assert_array_equal(result.low, [[2, 3, 1]])
    assert_array_equal(result.high, [[2, 3, 1]])


def test_interval_of_two_heads_by_hand():
    # Head 0 resamples to mean -1, 0, 1 with probability 1/4, 1/2, 1/4; at 0 it ties and comes first.
    effects = np.array([[[-1.0, 1.0], [0.0, 0.0]]])
    wide, narrow = (bootstrap_rank_intervals(effects, level=level) for level in (0.9, 0.4))
    assert_array_equal(wide.low, [[1, 1]])
    assert_array_equal(wide.high, [[2, 2]])
    assert_array_equal(narrow.low, [[1, 2]])
    assert_array_equal(narrow.high, [[1, 2]])


def test_heads_without_effect_can_be_anywhere_and_hold_their_rank():
    effects = np.random.default_rng(1).normal(size=(5, 8, 24))
    effects[0, 0] += 3
    result = bootstrap_rank_intervals(effects, resamples=300)
    assert (result.low[0, 0], result.high[0, 0]) == (1, 1)
    assert (result.low <= result.rank).all()
    assert (result.rank <= result.high).all()
    assert np.median(result.high - result.low) > 15
    assert result.low.min() >= 1
    assert result.high.max() <= 40
    assert np.issubdtype(result.low.dtype, np.integer)


def test_interval_always_holds_the_observed_rank():
    # At this level the resampled ranks of most heads, which lean to the middle, leave the observed rank out.
    effects = np.random.default_rng(3).normal(size=(5, 8, 12))
    result = bootstrap_rank_intervals(effects, level=0.05, resamples=200)
    assert (result.low <= result.rank).all()
    assert (result.rank <= result.high).all()


def test_same_seed_same_interval():
    effects = np.random.default_rng(2).normal(size=(4, 4, 10))
    first, again, other = (bootstrap_rank_intervals(effects, resamples=100, seed=seed) for seed in (5, 5, 6))
    assert_array_equal(first.low, again.low)
    assert_array_equal(first.high, again.high)
    assert (first.low != other.low).any() or (first.high != other.high).any()


def test_single_example_allows_every_rank():
    result = bootstrap_rank_intervals(np.array([[[0.3], [0.1]], [[0.2], [0.4]]]))
    assert_array_equal(result.rank, [[2, 4], [3, 1]])
    assert_array_equal(result.low, np.ones((2, 2)))
    assert_array_equal(result.high, np.full((2, 2), 4))


def test_bad_input_is_refused():
    with pytest.raises(CapVizError, match="No examples"):
        bootstrap_rank_intervals(np.zeros((2, 2, 0)))
    with pytest.raises(UsageError, match="resamples is 0"):
        bootstrap_rank_intervals(np.zeros((2, 2, 3)), resamples=0)
