"""Accuracy against guessing: distributions small enough to write down."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import above_chance, wilson
from cap_viz.stats.chance import hits_distribution


def test_two_questions_with_two_and_four_options():
    options = np.array([2, 4])
    both = above_chance(np.array([True, True]), options)
    one = above_chance(np.array([False, True]), options)
    none = above_chance(np.array([False, False]), options)
    assert both.chance == pytest.approx(3 / 8)
    assert both.p_value == pytest.approx(1 / 2 * 1 / 4)
    assert one.p_value == pytest.approx(1 - 1 / 2 * 3 / 4)
    assert none.p_value == pytest.approx(1)
    assert (one.n, one.accuracy, one.ci) == (2, 0.5, wilson(1, 2))


def test_distribution_of_three_questions_by_hand():
    # One coin and two four-way guesses: (1/2, 1/2) convolved with (9, 6, 1)/16.
    assert_allclose(hits_distribution(np.array([0.25, 0.5, 0.25])), np.array([9, 15, 7, 1]) / 32)


def test_distribution_agrees_with_question_by_question_convolution():
    guess = 1 / np.random.default_rng(0).integers(2, 6, size=60)
    mass = np.ones(1)
    for probability in guess:
        mass = np.convolve(mass, [1 - probability, probability])
    assert_allclose(hits_distribution(guess), mass, atol=1e-15)


def test_equal_options_give_the_exact_binomial_tail():
    correct = np.arange(20) < 10
    tail = sum(comb(20, k) * 3 ** (20 - k) for k in range(10, 21)) / 4**20
    result = above_chance(correct, np.full(20, 4))
    assert result.p_value == pytest.approx(tail)
    assert result.clearly_above
    assert not above_chance(correct, np.full(20, 2)).clearly_above


def test_far_tail_keeps_its_size():
    # All 40 of 40 four-way questions: (1/4)^40, which 1 - cdf would report as 0.
    assert above_chance(np.ones(40, bool), np.full(40, 4)).p_value == pytest.approx(0.25**40)


def test_five_percent_exactly_is_not_clear():
    # One question with 20 options, answered: p = 1/20.
    result = above_chance(np.array([True]), np.array([20]))
    assert result.p_value == pytest.approx(0.05)
    assert not result.clearly_above


def test_always_giving_the_majority_answer_is_not_above_chance():
    # METHODS section 6: StrategyQA .533 by answering "no" throughout.
    correct = np.arange(1000) < 533
    yes_no = np.full(1000, 2)
    assert above_chance(correct, yes_no).clearly_above
    guarded = above_chance(correct, yes_no, majority=0.533)
    assert guarded.chance == pytest.approx(0.533)
    assert not guarded.clearly_above


def test_guessers_are_rarely_called_clear():
    random = np.random.default_rng(1)
    options = random.integers(2, 6, size=50)
    guesses = random.random((300, 50)) < 1 / options
    assert np.mean([above_chance(guess, options).clearly_above for guess in guesses]) < 0.06


@pytest.mark.usefixtures("any_shapes")
def test_bad_input_is_refused():
    with pytest.raises(CapVizError, match="No answers"):
        above_chance(np.array([], dtype=bool), np.array([], dtype=int))
    with pytest.raises(CapVizError, match=r"\b2 answers\b.*\b3\b"):
        above_chance(np.ones(2, bool), np.full(3, 4))
    with pytest.raises(CapVizError, match="has 0 options"):
        above_chance(np.ones(2, bool), np.array([4, 0]))
    with pytest.raises(UsageError, match="53"):
        above_chance(np.ones(2, bool), np.array([2, 2]), majority=53.0)
