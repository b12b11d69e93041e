"""Removal orders, faithfulness, CPR and CMD, Michel's score: numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cap_viz.errors import CapVizError
from cap_viz.stats.circuits import all_but_first, circuit_areas, faithfulness, first, michel_scores, order_of


def test_order_and_its_two_ends() -> None:
    order = order_of(np.array([[0.1, 0.7], [0.7, -0.2]]))
    assert order == ((0, 1), (1, 0), (0, 0), (1, 1))
    assert first(order, 3) == ((0, 0), (0, 1), (1, 0))
    assert all_but_first(order, 3) == ((1, 1),)
    assert set(first(order, 2)) | set(all_but_first(order, 2)) == set(order)


def test_faithfulness_is_the_share_of_what_all_heads_do() -> None:
    found = faithfulness(np.array([9.0, 5.0, 3.0, 2.0]), dense=3.0, empty=9.0)
    np.testing.assert_allclose(found, [0, 4 / 6, 1, 7 / 6])
    with pytest.raises(CapVizError, match="there is nothing to be faithful to"):
        faithfulness(np.array([1.0]), dense=2.0, empty=2.0)


def test_areas_by_hand() -> None:
    """Trapezoids .1 x .25 and .4 x .75 and .5 x 1.25 under the curve; above it .075 and .1, beyond 1 .125."""
    areas = circuit_areas(np.array([0.0, 0.1, 0.5, 1.0]), np.array([0.0, 0.5, 1.0, 1.5]))
    assert areas.cpr == pytest.approx(0.025 + 0.3 + 0.625)
    assert areas.cmd == pytest.approx(0.075 + 0.1 + 0.125)
    whole = circuit_areas(np.array([0.01, 1.0]), np.array([1.0, 1.0]))
    assert (whole.cpr, whole.cmd) == (pytest.approx(0.99), 0)
    with pytest.raises(CapVizError, match="ascending shares"):
        circuit_areas(np.array([0.5, 0.1]), np.array([0.0, 1.0]))


def test_michel_by_hand() -> None:
    """Signs do not cancel, and each layer has length 1."""
    gradient = np.array([[[3.0, -3.0], [4.0, 4.0]], [[0.0, 0.0], [-2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_allclose(michel_scores(gradient), [[0.6, 0.8], [0, 1], [0, 0]])
