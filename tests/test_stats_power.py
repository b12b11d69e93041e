"""Power of the paired t-test: published sample sizes, a simulation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import examples_needed, mean_with_ci, minimum_detectable_effect
from cap_viz.stats.power import detectable_factor


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_sample_sizes_of_the_textbooks(effect: float, n: int) -> None:
    """Paired t-test, two-sided .05, power .8: the numbers G*Power and Cohen's tables give."""
    assert examples_needed(effect, 1.0) == n
    assert examples_needed(3 * effect, 3.0) == n


def test_large_n_is_the_normal_approximation():
    assert detectable_factor(100_000) == pytest.approx(1.959964 + 0.841621, abs=1e-3)
    assert detectable_factor(16) == pytest.approx(1.1 * 2.8, rel=0.03)


def test_an_effect_of_that_size_is_found_four_times_in_five():
    random = np.random.default_rng(0)
    effects = detectable_factor(16) / 4 + random.normal(size=(20_000, 16))
    assert (mean_with_ci(effects).p_value < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_per_head_and_for_a_planned_n():
    # Standard deviations 1 and 2 (ddof = 1 over -1, 1, -1, 1 is 2/√3).
    effects = np.array([[-1.0, 1, -1, 1], [-2, 2, -2, 2], [5, 5, 5, 5]])
    own = minimum_detectable_effect(effects)
    assert own == pytest.approx([detectable_factor(4) / 3**0.5, 2 * detectable_factor(4) / 3**0.5, 0])
    planned = minimum_detectable_effect(effects, n=400)
    assert planned[0] == pytest.approx(detectable_factor(400) * 2 / 3**0.5 / 20)
    strict = minimum_detectable_effect(effects, n=400, alpha=0.05 / 270)
    assert strict[0] > 1.5 * planned[0]


def test_what_is_refused():
    with pytest.raises(CapVizError, match="at least 2 examples, but there is 1"):
        minimum_detectable_effect(np.zeros((3, 1)))
    with pytest.raises(UsageError, match="n = 1"):
        minimum_detectable_effect(np.zeros((3, 4)), n=1)
    with pytest.raises(UsageError, match=r"alpha = 0\.9 and power = 0\.8"):
        minimum_detectable_effect(np.zeros((3, 4)), alpha=0.9)
    with pytest.raises(UsageError, match="both must be positive"):
        examples_needed(0.0, 1.0)
    with pytest.raises(UsageError, match="more than 1,000,000"):
        examples_needed(1e-6, 1.0)
