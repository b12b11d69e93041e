"""Paired comparison of losses, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cap_viz.errors import CapVizError
from cap_viz.stats import compare_means


def test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1/√3.
    result = compare_means(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert (result.n, result.mean_a, result.mean_b, result.difference) == (3, 4.0, 2.0, 2.0)
    assert result.p_value == pytest.approx(2 * stats.t.sf(2 * np.sqrt(3), df=2))
    assert result.minimum_detectable == pytest.approx(2.8016 / np.sqrt(3), abs=1e-4)
    assert 1 <= result.ci.low < 2 < result.ci.high <= 3


def test_order_gives_the_sign_and_nothing_else() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    there, back = compare_means(a, b), compare_means(b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value)


def test_equal_losses_are_no_difference() -> None:
    result = compare_means(np.ones(4), np.ones(4))
    assert (result.difference, result.p_value, result.minimum_detectable) == (0.0, 1.0, 0.0)


def test_a_single_question_has_no_uncertainty() -> None:
    result = compare_means(np.array([1.0]), np.array([3.0]))
    assert result.difference == -2.0
    assert np.isnan([result.ci.low, result.ci.high, result.p_value, result.minimum_detectable]).all()


@pytest.mark.usefixtures("any_shapes")
def test_unequal_or_empty_input_is_a_sentence() -> None:
    with pytest.raises(CapVizError, match="there are 2 and 3 losses"):
        compare_means(np.zeros(2), np.zeros(3))
    with pytest.raises(CapVizError, match="at least one question"):
        compare_means(np.zeros(0), np.zeros(0))
