"""Split-half reliability: a simulation with a known answer, hand-worked Spearman-Brown, edge cases.

Head effects N(0, 1) and example noise of variance v give a mean over n examples the reliability 1 / (1 + v/n)
in Pearson's sense; for normal variables Spearman's correlation is 6/π·asin(r/2).
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import Reliability, spearman_brown, split_half
from cap_viz.stats.reliability import spearman_rows

NOISE_VARIANCE = 36.0
EXAMPLES = 40


def spearman_of_normals(pearson: float) -> float:
    return 6 / np.pi * np.arcsin(pearson / 2)


def true_reliability(n: int) -> float:
    return spearman_of_normals(1 / (1 + NOISE_VARIANCE / n))


@pytest.fixture(scope="module")
def simulated() -> Reliability:
    random = np.random.default_rng(0)
    truth = random.normal(size=(60, 60, 1))
    effects = truth + random.normal(0, NOISE_VARIANCE**0.5, size=(60, 60, EXAMPLES))
    return split_half(effects, splits=60)


def test_known_reliability_is_found(simulated):
    assert simulated.half == 20
    assert_allclose(simulated.split_half, true_reliability(20), atol=0.03)
    assert_allclose(simulated.full, true_reliability(EXAMPLES), atol=0.03)
    assert true_reliability(EXAMPLES) - true_reliability(20) > 0.12
    assert simulated.low < simulated.split_half < simulated.high


def test_examples_needed_for_a_target(simulated):
    # 36·.8/.2 = 144 examples reach a Pearson reliability of .8.
    assert simulated.n_for(true_reliability(144)) == pytest.approx(144, rel=0.08)
    assert simulated.n_for(simulated.full) in (EXAMPLES, EXAMPLES + 1)


def test_doubling_examples_is_nearly_exact_for_ranks():
    for pearson in np.linspace(0.05, 0.95, 19):
        projected = spearman_brown(spearman_of_normals(pearson), 2.0)
        assert abs(projected - spearman_of_normals(2 * pearson / (1 + pearson))) < 0.003


def test_spearman_brown_by_hand():
    assert spearman_brown(0.5, 2.0) == pytest.approx(2 / 3)
    assert spearman_brown(0.25, 3.0) == pytest.approx(0.5)
    assert spearman_brown(0.7, 1.0) == pytest.approx(0.7)
    assert spearman_brown(-1.0, 2.0) == -1


def with_reliability(value: float) -> Reliability:
    return Reliability(n=48, half=24, splits=1, split_half=value, low=value, high=value, full=value)


def test_examples_needed_by_hand():
    # 24·(.8/.2)·(.5/.5) = 96; METHODS section 1 quotes about 760 and 1,700 for .11 before rounding.
    assert with_reliability(0.5).n_for(0.8) == 96
    assert with_reliability(0.11).n_for(0.8) == 777
    assert with_reliability(0.11).n_for(0.9) == 1748
    assert with_reliability(1.0).n_for(0.9) == 1


@pytest.mark.parametrize("value", [0.0, -0.2, float("nan")])
def test_no_number_of_examples_makes_noise_reliable(value):
    assert with_reliability(value).n_for(0.8) is None


@pytest.mark.parametrize("target", [0.0, 1.0, 80.0])
def test_impossible_targets_are_refused(target):
    with pytest.raises(UsageError, match=str(target)):
        with_reliability(0.5).n_for(target)


def test_halves_share_no_example():
    # Each example lifts one head, so two halves can agree only if they share an example.
    result = split_half(np.eye(4)[None])
    assert_allclose([result.split_half, result.low, result.high], -1)
    assert_allclose(result.full, -1)
    assert result.n_for(0.8) is None


def test_noiseless_effects_are_fully_reliable():
    effects = np.broadcast_to(np.arange(6.0).reshape(2, 3, 1), (2, 3, 5))
    result = split_half(effects)
    assert (result.n, result.half) == (5, 2)
    assert_allclose([result.split_half, result.low, result.full], 1)


def test_equal_heads_have_no_ranking():
    result = split_half(np.zeros((2, 2, 6)))
    assert np.isnan(result.split_half)
    assert np.isnan(result.full)
    assert result.n_for(0.8) is None


def test_correlation_agrees_with_scipy():
    # Rounded so that ties occur.
    first, second = np.random.default_rng(3).normal(size=(2, 5, 30)).round(1)
    expected = [np.asarray(stats.spearmanr(a, b))[0] for a, b in zip(first, second, strict=True)]
    assert_allclose(spearman_rows(first, second), expected)


def test_same_seed_same_result():
    effects = np.random.default_rng(4).normal(size=(4, 4, 9))
    assert split_half(effects, seed=1) == split_half(effects, seed=1)
    assert split_half(effects, seed=1) != split_half(effects, seed=2)


def test_too_little_data_is_refused():
    with pytest.raises(CapVizError, match="n = 3"):
        split_half(np.zeros((2, 2, 3)))
    with pytest.raises(CapVizError, match="not 1"):
        split_half(np.zeros((1, 1, 8)))
    with pytest.raises(UsageError, match="splits is 0"):
        split_half(np.zeros((2, 2, 8)), splits=0)
