"""Agreement of rankings, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import rank_stability

ZERO = np.array([[5.0, 4.0], [3.0, 1.0]])
MEAN = np.array([[4.0, 5.0], [1.0, 3.0]])


def test_by_hand():
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6·4 / (4·15) = .6; the top two are the same, the top one is not.
    found = rank_stability({"zero": ZERO, "mean": MEAN}, top=2)
    assert found.names == ("zero", "mean")
    assert_allclose(found.spearman, [[1, 0.6], [0.6, 1]])
    assert_allclose(found.overlap, 1)
    assert found.overlap_by_chance == 0.5
    assert_allclose(rank_stability({"zero": ZERO, "mean": MEAN}, top=1).overlap, [[1, 0], [0, 1]])


def test_reversed_ranking_and_three_sets():
    found = rank_stability({"zero": ZERO, "mean": MEAN, "resample": -ZERO}, top=1)
    assert_allclose(found.spearman[0], [1, 0.6, -1])
    assert found.overlap.shape == (3, 3)


def test_a_tenth_of_the_heads_by_default_and_chance():
    random = np.random.default_rng(0)
    found = rank_stability({str(i): random.normal(size=(20, 10)) for i in range(40)})
    assert found.top == 20
    # 780 pairs of unrelated rankings.
    others = found.overlap[~np.eye(40, dtype=bool)]
    assert others.mean() == pytest.approx(found.overlap_by_chance, abs=0.01)


def test_equal_heads_have_no_ranking():
    assert np.isnan(rank_stability({"a": ZERO, "b": np.ones((2, 2))}, top=1).spearman[0, 1])


def test_what_is_refused():
    with pytest.raises(CapVizError, match=r"\b2 rankings\b.*\b1\b"):
        rank_stability({"zero": ZERO})
    with pytest.raises(CapVizError, match="different shapes"):
        rank_stability({"zero": ZERO, "mean": MEAN[:1]})
    with pytest.raises(UsageError, match="top 5 of 4 heads"):
        rank_stability({"zero": ZERO, "mean": MEAN}, top=5)
