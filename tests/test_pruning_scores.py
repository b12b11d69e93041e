"""Scores and cuts worked by hand on small matrices."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from cap_viz.errors import UsageError
from cap_viz.pruning import CRITERIA, check_sparsity, importance, region_importance
from cap_viz.pruning.criteria.cap import RegionImportance, cap_score
from cap_viz.pruning.criteria.wanda import wanda_score
from cap_viz.pruning.mask import MatrixSize, zero_counts
from cap_viz.pruning.selection.global_threshold import kept_above, split
from cap_viz.pruning.selection.local_groups import PER_MATRIX, PER_ROW, local_profile

WEIGHT = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0], [7.0, 0.5, -0.25]])


def test_importance_by_hand():
    # min -1, max 3: I = 1 + 9 (d + 1) / 4.
    effect = np.array([[-1.0, 3.0], [1.0, 0.0]])
    np.testing.assert_allclose(importance(effect), [[1.0, 10.0], [5.5, 3.25]])


def test_equal_effects_have_importance_one():
    np.testing.assert_array_equal(importance(np.full((2, 3), -0.7)), np.ones((2, 3)))


def test_regions_combine_query_heads_by_group_and_layer():
    heads = np.array([[1.0, 3.0, 10.0, 2.0], [4.0, 4.0, 1.0, 7.0]])
    mean, largest = region_importance(heads, 2, "mean"), region_importance(heads, 2, "max")
    np.testing.assert_allclose(mean.key_value, [[2.0, 6.0], [4.0, 4.0]])
    np.testing.assert_allclose(largest.key_value, [[3.0, 10.0], [4.0, 7.0]])
    np.testing.assert_allclose(mean.mlp, [4.0, 4.0])
    np.testing.assert_allclose(largest.query, heads)


REGIONS = RegionImportance(query=np.array([[1.0, 2.0, 4.0]]), key_value=np.array([[3.0]]), mlp=np.array([2.5]))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("q", [[1, 2, 3], [8, 10, 12], [28, 2, 1]]),
        ("o", [[1, 4, 12], [4, 10, 24], [7, 1, 1]]),
        ("k", [[3, 6, 9], [12, 15, 18], [21, 1.5, 0.75]]),
        ("v", [[3, 6, 9], [12, 15, 18], [21, 1.5, 0.75]]),
        ("up", [[2.5, 5, 7.5], [10, 12.5, 15], [17.5, 1.25, 0.625]]),
    ],
)
def test_cap_score_by_hand(kind: str, expected: list[list[float]]):
    before = WEIGHT.clone()
    torch.testing.assert_close(cap_score(WEIGHT, kind, 0, REGIONS), torch.tensor(expected).float())
    assert torch.equal(WEIGHT, before)


def test_cap_score_gives_each_head_its_rows_and_columns():
    weight = torch.ones(6, 6)
    by_row = torch.tensor([1.0, 1, 2, 2, 4, 4])
    assert torch.equal(cap_score(weight, "q", 0, REGIONS), by_row[:, None].expand(6, 6))
    assert torch.equal(cap_score(weight, "o", 0, REGIONS), by_row[None, :].expand(6, 6))


def test_wanda_by_hand():
    # ||X|| = 10, 1, 2 turns row 0 into 10, 2, 6, row 1 into 40, 5, 12, row 2 into 70, .5, .5: a tie, left goes.
    score = wanda_score(WEIGHT, torch.tensor([10.0, 1.0, 2.0]))
    torch.testing.assert_close(score, torch.tensor([[10.0, 2, 6], [40, 5, 12], [70, 0.5, 0.5]]))
    keep = PER_ROW.keep(score, 0.4)  # int(3 * 0.4) = 1
    assert keep.tolist() == [[True, False, True], [True, False, True], [True, False, True]]
    keep = PER_ROW.keep(score, 0.7)  # int(3 * 0.7) = 2
    assert keep.tolist() == [[True, False, False]] * 3
    assert PER_ROW.keep(score, 0.3).all()  # int(3 * 0.3) = 0


def test_wanda_selection_equals_a_stable_sort_with_many_ties():
    score = torch.randint(0, 4, (40, 30), generator=torch.Generator().manual_seed(0)).float()
    for sparsity in (0.0, 0.1, 0.5, 0.77, 0.99):
        expected = torch.ones_like(score, dtype=torch.bool)
        lowest = torch.sort(score, dim=-1, stable=True).indices[:, : int(30 * sparsity)]
        expected.scatter_(1, lowest, False)
        assert torch.equal(PER_ROW.keep(score, sparsity), expected)


def test_magnitude_by_hand():
    keep = PER_MATRIX.keep(WEIGHT.abs(), 0.5)  # int(9 * 0.5) = 4: 0.25, 0.5, 1, 2
    assert keep.tolist() == [[False, False, True], [True, True, True], [True, False, False]]
    assert PER_MATRIX.keep(WEIGHT.abs(), 0.0).all()


def test_ties_are_spread_evenly():
    keep = kept_above(torch.full((2, 4), 3.0), 3.0, spared=4)
    assert keep.tolist() == [[True, False, True, False], [True, False, True, False]]
    assert split(5, np.array([2, 0, 4, 4])).tolist() == [1, 0, 2, 2]
    assert split(10, np.array([2, 0, 4, 4])).tolist() == [2, 0, 4, 4]
    huge = split(3 * 10**12, np.array([2 * 10**12, 2 * 10**12]))
    assert huge.tolist() == [15 * 10**11, 15 * 10**11]


def test_zero_counts_add_up_by_matrix_and_layer():
    q, up = MatrixSize(0, "q", "attention", 2, 5), MatrixSize(1, "up", "mlp", 3, 10)
    counts = zero_counts([0.2, 0.5], [q, up], [[4, 4], [5, 15]])
    np.testing.assert_allclose(counts.share, [[0.4, 4 / 30], [0.5, 0.5]])
    np.testing.assert_allclose(counts.reached, [0.2, 0.5])
    np.testing.assert_allclose(counts.by_layer(), [[0.4, 4 / 30], [0.5, 0.5]])
    np.testing.assert_allclose(counts.by_layer("mlp"), [[np.nan, 4 / 30], [np.nan, 0.5]])


def test_row_profile_floors_like_the_reference():
    # 10 % of 576 columns is 57.6: 57 go, 9.9 %.
    counts = local_profile(PER_ROW, [MatrixSize(0, "q", "attention", 576, 576)], [0.1])
    assert counts.zeros.tolist() == [[576 * 57]]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 20.0, float("nan"), float("inf")])
def test_a_sparsity_out_of_range_is_named(sparsity: float):
    with pytest.raises(UsageError, match=f"The sparsity is {sparsity:g}; give a share"):
        check_sparsity(sparsity)


def test_criteria_describe_themselves():
    local = ["magnitude", "wanda", "wanda_oneshot", "ria", "sparsegpt"]
    others = ["taylor", "gblm", "shuffled_cap", "random", "head"]
    assert list(CRITERIA) == ["cap", "cap_fine", "global_magnitude", *local, *others]
    for name, criterion in CRITERIA.items():
        assert criterion.name == name
        assert criterion.summary.endswith(".")
        assert criterion.fixed_score == (name not in ("wanda", "ria", "sparsegpt", "gblm"))


def test_importing_the_criteria_needs_no_torch():
    code = "import sys, cap_viz.pruning; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
