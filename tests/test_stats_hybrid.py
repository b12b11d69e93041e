"""The hybrid estimator: worked by hand, against a known truth, and what it refuses."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from cap_viz.errors import UsageError
from cap_viz.stats import HybridEstimate, hybrid_mean
from cap_viz.stats.hybrid import check_combinable

N, LARGE, REPLICATES, TRUTH = 16, 128, 4000, 0.3

# Eight pairs -1, +1; residuals of one half that no line explains: orthogonal to the line and summing to zero.
GRADIENT = np.tile([-1.0, 1.0], 8)
RESIDUAL = np.tile([0.5, 0.5, -0.5, -0.5], 4)


def simulated(correlation: float, skewed: bool, **options: Any) -> HybridEstimate:
    """One "head" per replicate: mean TRUTH, variance 1, gradients on another scale and beside the mark."""
    random = np.random.default_rng(1)
    shape = (2, REPLICATES, LARGE)
    shared, own = random.exponential(size=shape) - 1 if skewed else random.normal(size=shape)
    effect = TRUTH + correlation * shared + np.sqrt(1 - correlation**2) * own
    gradient = 0.8 * shared + 0.1
    return hybrid_mean(effect[:, :N], gradient[:, :N], gradient, **options)


def coverage(estimate: HybridEstimate) -> float:
    return float(((estimate.low <= TRUTH) & (estimate.high >= TRUTH)).mean())


def test_by_hand():
    exact = 5 + 2 * GRADIENT + RESIDUAL
    # 48 more gradients: mean of all 64 = (16·0 + 24·(1 + 2)) / 64 = 1.125, squares 16 + 24·(1 + 4) = 136.
    everything = np.concatenate([GRADIENT, np.repeat([1.0, 2.0], 24)])
    found = hybrid_mean(exact, GRADIENT, everything)
    assert found.slope == pytest.approx(2)
    assert found.mean == pytest.approx(5 + 2 * 1.125)
    # Leverage 1/16 + 1/16; residual .5 left out: .5 / (7/8). Weights 1/16 ± 1.125/16, squared and summed.
    regression = 16 * (1 / 16**2) * (1 + 1.125**2) * (0.5 * 8 / 7) ** 2
    carried = 4 * (136 - 64 * 1.125**2) / 63 / 64
    assert found.std_error == pytest.approx((regression + carried) ** 0.5)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 14) * found.std_error)
    assert (found.n, found.n_gradient) == (16, 64)


def test_slope_one_by_hand():
    exact = 5 + 2 * GRADIENT + RESIDUAL
    everything = np.concatenate([GRADIENT, np.repeat([1.0, 2.0], 24)])
    found = hybrid_mean(exact, GRADIENT, everything, slope="one")
    assert found.mean == pytest.approx(5 + 1.125)
    # D - G - 5 is ±1 ± .5: mean square 1.25, left out /(15/16); its covariance with G is 16/15.
    plain = 1.25 * (16 / 15) ** 2 / 16
    carried = ((136 - 64 * 1.125**2) / 63 + 2 * 16 / 15) / 64
    assert found.std_error == pytest.approx((plain + carried) ** 0.5)


def test_a_gradient_that_does_not_help_is_left_out():
    """Pure noise in the gradient: the plain mean, whatever the other gradients are."""
    exact = 5 + RESIDUAL
    found = hybrid_mean(exact, GRADIENT, np.concatenate([GRADIENT, np.full(48, 100.0)]))
    assert found.slope == 0
    assert found.mean == 5
    assert found.std_error == pytest.approx(0.5 * 16 / 15 / 4)


def test_one_extreme_example_cannot_set_the_slope():
    """The line through a single distant point predicts nothing about it."""
    gradient, exact = np.zeros(16), RESIDUAL.copy()
    gradient[0], exact[0] = 50.0, 30.0
    assert hybrid_mean(exact, gradient, gradient).slope == 0


def test_constant_gradients_and_constant_effects():
    found = hybrid_mean(np.zeros((2, 16)), np.zeros((2, 16)), np.zeros((2, 32)))
    assert_allclose([found.mean, found.low, found.high, found.slope], 0)
    assert_allclose(found.p_value, 1)


def test_same_examples_give_the_plain_mean():
    exact = np.random.default_rng(0).normal(size=(3, 4, 20))
    gradient = exact + 0.1 * np.random.default_rng(1).normal(size=exact.shape)
    assert_allclose(hybrid_mean(exact, gradient, gradient).mean, exact.mean(axis=-1))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("slope", ["fitted", "one"])
def test_intervals_cover_the_truth(correlation: float, slope: str) -> None:
    """95 % intervals of 4,000 replicates: two standard errors of the coverage are .007."""
    found = simulated(correlation, skewed=False, slope=slope)
    assert 0.94 <= coverage(found) <= 0.98
    # The standard error is that of the estimates, not a bound far above it.
    assert np.sqrt((found.std_error**2).mean()) == pytest.approx(found.mean.std(), rel=0.08)


def test_skewed_effects_are_still_covered():
    assert coverage(simulated(0.97, skewed=True)) >= 0.94


def test_narrower_than_the_exact_examples_alone():
    # .0625·(1 - .97²)·(14-df inflation) + .97²/128 against 1/16.
    found = simulated(0.97, skewed=False)
    assert found.mean.std() < 0.45 * N**-0.5


@pytest.mark.parametrize("skewed", [False, True])
def test_slope_one_has_no_bias(skewed: bool) -> None:
    found = simulated(0.5, skewed, slope="one")
    assert abs(found.mean.mean() - TRUTH) < 3 * found.mean.std() / REPLICATES**0.5


def test_a_fitted_slope_has_some():
    """The reason why slope="one" exists: with skewed effects the fitted one leans, here by about 4 standard errors."""
    found = simulated(0.5, skewed=True)
    assert abs(found.mean.mean() - TRUTH) > 3 * found.mean.std() / REPLICATES**0.5


@pytest.mark.usefixtures("any_shapes")
def test_what_cannot_be_combined_is_refused():
    with pytest.raises(UsageError, match=r"\b16\b.*\bn = 15\b"):
        hybrid_mean(np.zeros(15), np.zeros(15), np.zeros(40))
    with pytest.raises(UsageError, match=r"\b16\b.*\b20\b"):
        hybrid_mean(np.zeros(20), np.zeros(20), np.zeros(16))
    with pytest.raises(UsageError, match="same examples"):
        hybrid_mean(np.zeros(16), np.zeros(17), np.zeros(40))
    with pytest.raises(UsageError, match="slope 'half'"):
        hybrid_mean(np.zeros(16), np.zeros(16), np.zeros(40), slope=cast(Any, "half"))
    with pytest.raises(UsageError, match=r"[Aa]ccuracy\b.*\bnll\b.*\bexact\b"):
        check_combinable("accuracy")
    check_combinable("nll")
