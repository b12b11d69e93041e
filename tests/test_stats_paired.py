"""Two models on the same questions: McNemar and losses by hand, coverage of the interval, power at its difference."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import compare_means, compare_paired, family_p, holm
from cap_viz.stats.paired import mcnemar, minimum_detectable


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    kinds = np.repeat(np.arange(4), [both, only_a, only_b, neither])
    return np.isin(kinds, [0, 1]), np.isin(kinds, [0, 2])


def test_counts_and_difference_first_minus_second():
    result = compare_paired(*answers(both=5, only_a=8, only_b=2, neither=5))
    assert (result.n, result.only_a, result.only_b) == (20, 8, 2)
    assert_allclose([result.mean_a, result.mean_b, result.difference], [13 / 20, 7 / 20, 6 / 20])
    assert result.ci.low < 0.3 < result.ci.high


def test_mcnemar_by_hand():
    assert mcnemar(6, 0) == pytest.approx(0.03125)
    assert mcnemar(0, 5) == pytest.approx(0.0625)
    # 2·(1 + 10 + 45)/1024
    assert mcnemar(8, 2) == pytest.approx(0.109375)
    assert mcnemar(3, 3) == pytest.approx(1)
    assert mcnemar(0, 0) == 1


def test_questions_both_answer_alike_do_not_move_the_p_value():
    few = compare_paired(*answers(1, 9, 2, 1))
    many = compare_paired(*answers(300, 9, 2, 300))
    assert few.p_value == many.p_value
    assert few.difference > many.difference


def test_swapping_the_models_turns_the_sign():
    a, b = answers(20, 9, 3, 18)
    there, back = compare_paired(a, b), compare_paired(b, a)
    assert there.difference == -back.difference
    assert there.p_value == back.p_value
    assert_allclose([there.ci.low, there.ci.high], [-back.ci.high, -back.ci.low], atol=0.041)


def test_interval_follows_the_pairs_not_the_accuracies():
    # The same accuracies (.5 and .45), once nearly the same questions, once independent ones.
    tight = compare_paired(*answers(45, 5, 0, 50))
    loose = compare_paired(*answers(23, 27, 22, 28))
    assert tight.difference == pytest.approx(loose.difference)
    assert loose.ci.high - loose.ci.low > 2 * (tight.ci.high - tight.ci.low)


def test_identical_answers_do_not_claim_certainty():
    # Clopper-Pearson for 0 of 10: 1 - .025^(1/10) = .308497.
    result = compare_paired(*answers(6, 0, 0, 4))
    assert (result.difference, result.p_value) == (0, 1)
    assert_allclose([result.ci.low, result.ci.high], [-0.308497, 0.308497], atol=1e-6)
    opposite = compare_paired(*answers(0, 0, 10, 0))
    assert_allclose([opposite.ci.low, opposite.ci.high], [-1, -1 + 2 * 0.308497], atol=1e-6)


@pytest.mark.parametrize(("only_a", "only_b"), [(0.15, 0.08), (0.04, 0.02)])
def test_interval_covers_a_known_difference(only_a, only_b):
    shares = [0.4, only_a, only_b, 0.6 - only_a - only_b]
    intervals = [
        compare_paired(*answers(*counts)).ci for counts in np.random.default_rng(0).multinomial(100, shares, size=150)
    ]
    truth = only_a - only_b
    # A hair wider, because the truth is itself one of the possible values.
    covered = [interval.low - 1e-9 <= truth <= interval.high + 1e-9 for interval in intervals]
    assert 0.91 <= np.mean(covered) <= 0.99


def test_detectable_difference_by_hand():
    # METHODS section 4: discordance .28 lets 400 questions detect about 7 points and 1,200 about 4.
    assert minimum_detectable(112, 400) == pytest.approx(2.801585 * (0.28 / 400) ** 0.5, rel=1e-6)
    assert minimum_detectable(112, 400) == pytest.approx(0.0741, abs=1e-4)
    assert minimum_detectable(336, 1200) == pytest.approx(0.0428, abs=1e-4)
    assert minimum_detectable(0, 200) == pytest.approx(7.84888 / 200, rel=1e-5)
    assert compare_paired(*answers(200, 70, 42, 88)).minimum_detectable == minimum_detectable(112, 400)


@pytest.mark.parametrize(("n", "discordant"), [(400, 112), (200, 20), (200, 0)])
def test_detectable_difference_is_found_four_times_in_five(n, discordant):
    difference = minimum_detectable(discordant, n)
    rate = max(discordant / n, difference)
    shares = [(rate + difference) / 2, (rate - difference) / 2, 1 - rate]
    draws = np.random.default_rng(1).multinomial(n, shares, size=400)
    power = np.mean([mcnemar(int(only_a), int(only_b)) < 0.05 for only_a, only_b, _ in draws])
    assert 0.72 < power < 0.88


def test_same_seed_same_interval():
    # Few resamples hit the same limit by luck: a large uneven sample keeps the grid fine.
    a, b = answers(501, 263, 187, 349)
    assert compare_paired(a, b, seed=1) == compare_paired(a, b, seed=1)
    assert compare_paired(a, b, seed=1).ci != compare_paired(a, b, seed=2).ci


def test_wider_at_a_higher_level():
    a, b = answers(50, 20, 10, 20)
    inner, outer = compare_paired(a, b, level=0.8).ci, compare_paired(a, b, level=0.99).ci
    assert outer.low < inner.low
    assert inner.high < outer.high


@pytest.mark.usefixtures("any_shapes")
def test_bad_input_is_refused():
    with pytest.raises(CapVizError, match="3 and 2 answers"):
        compare_paired(np.ones(3, bool), np.ones(2, bool))
    with pytest.raises(CapVizError, match="No answers"):
        compare_paired(np.array([], dtype=bool), np.array([], dtype=bool))
    with pytest.raises(UsageError, match="level is 95"):
        compare_paired(np.ones(3, bool), np.ones(3, bool), level=95.0)


def test_losses_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1/√3.
    result = compare_means(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert (result.n, result.mean_a, result.mean_b, result.difference) == (3, 4.0, 2.0, 2.0)
    assert result.p_value == pytest.approx(2 * stats.t.sf(2 * np.sqrt(3), df=2))
    assert result.minimum_detectable == pytest.approx(2.8016 / np.sqrt(3), abs=1e-4)
    assert 1 <= result.ci.low < 2 < result.ci.high <= 3


def test_the_order_of_losses_gives_the_sign_and_nothing_else() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    there, back = compare_means(a, b), compare_means(b, a)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value)


def test_equal_losses_are_no_difference() -> None:
    result = compare_means(np.ones(4), np.ones(4))
    assert (result.difference, result.p_value, result.minimum_detectable) == (0.0, 1.0, 0.0)


def test_the_loss_of_a_single_question_has_no_uncertainty() -> None:
    result = compare_means(np.array([1.0]), np.array([3.0]))
    assert result.difference == -2.0
    assert np.isnan([result.ci.low, result.ci.high, result.p_value, result.minimum_detectable]).all()


@pytest.mark.usefixtures("any_shapes")
def test_unequal_or_empty_losses_are_a_sentence() -> None:
    with pytest.raises(CapVizError, match="there are 2 and 3 losses"):
        compare_means(np.zeros(2), np.zeros(3))
    with pytest.raises(CapVizError, match="at least one question"):
        compare_means(np.zeros(0), np.zeros(0))


def test_the_rows_of_a_table_are_one_family() -> None:
    rows = [compare_paired(*answers(5, only_a, 0, 5)) for only_a in (7, 5, 0)]
    assert family_p(rows) == holm(np.array([row.p_value for row in rows])).tolist()
    assert family_p([]) == []
