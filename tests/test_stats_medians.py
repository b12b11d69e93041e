"""Medians of subsets, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cap_viz.errors import CapVizError, UsageError
from cap_viz.results import HeadScores, Questions
from cap_viz.stats import median_of_k, paired_median_of_k


def test_one_example_a_subset_by_hand():
    # Median of 4, 1, 9 is 4; minus the mean of 1, 2, 6, which is 3. Paired: 3, -1, 3.
    ablated, dense = np.array([4.0, 1.0, 9.0]), np.array([1.0, 2.0, 6.0])
    assert median_of_k(ablated, dense) == 1
    assert paired_median_of_k(ablated, dense) == 3


def test_subsets_are_disjoint_equal_and_drawn_by_the_seed():
    ablated, dense = np.arange(9.0) ** 3, np.zeros(9)
    order = np.random.default_rng(5).permutation(9)
    expected = np.median([ablated[order[i : i + 3]].mean() for i in (0, 3, 6)])
    assert median_of_k(ablated, dense, seed=5) == pytest.approx(expected)
    assert len({float(median_of_k(ablated, dense, seed=seed)) for seed in range(9)}) > 3


def test_hard_examples_disturb_the_unpaired_score_only():
    """An effect of exactly 1 on every example, whatever its difficulty."""
    dense = np.array([0.0, 0, 0, 0, 0, 30])
    scores = [median_of_k(dense + 1, dense, seed=seed) for seed in range(20)]
    assert_allclose(np.unique(scores), [-4.0])  # median of 1, 1, 16 minus the mean 5
    assert paired_median_of_k(dense + 1, dense) == 1


def test_one_subset_is_the_mean_effect_of_the_run():
    questions = Questions(
        ids=("a", "b"), gold=np.zeros(2, int), tokens=np.ones((2, 1), int), chars=np.ones((2, 1), int)
    )
    random = np.random.default_rng(0)
    scores = HeadScores(questions=questions, dense=random.normal(size=(2, 1)), ablated=random.normal(size=(3, 4, 2, 1)))
    losses = scores.losses("nll")
    for statistic in (median_of_k, paired_median_of_k):
        found = statistic(losses.ablated, losses.dense, k=1)
        assert_allclose(found, scores.mean_effect("nll"))


@pytest.mark.usefixtures("any_shapes")
def test_impossible_subsets_are_refused():
    with pytest.raises(UsageError, match="k = 4 subsets of 3 examples"):
        median_of_k(np.zeros(3), np.zeros(3), k=4)
    with pytest.raises(UsageError, match="k = 0"):
        paired_median_of_k(np.zeros(3), np.zeros(3), k=0)
    with pytest.raises(CapVizError, match="of 3 examples and dense ones of 2"):
        median_of_k(np.zeros(3), np.zeros(2))
