"""Zeros per head: by hand, and equal to what the masks take from each head's rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import CRITERIA, prune_mask, rank_weights
from cap_viz.pruning.head_sparsity import HeadZeros, counted, head_profile_steps, mask_head_zeros
from cap_viz.pruning.selection.local_groups import PER_MATRIX, PER_ROW, Pattern
from tests.tiny import tiny_examples

EFFECT = np.random.default_rng(0).normal(size=(3, 4))
EXAMPLES = tiny_examples(2)
SPARSITIES = (0.0, 0.001, 0.1, 0.333, 0.5, 0.9)
FIXED = [name for name, criterion in CRITERIA.items() if criterion.fixed_score]


def test_places_below_a_limit_by_hand() -> None:
    places = torch.tensor([[0, 3, 5], [1, 2, 2]])
    assert counted(places, [0, 1, 3, 9]).tolist() == [[0, 1, 1, 3], [0, 0, 3, 3]]


def test_places_by_hand() -> None:
    score = torch.tensor([[3.0, 1.0, 2.0, 1.0], [0.0, 9.0, 0.5, 4.0]])
    assert PER_ROW.places(score).tolist() == [[3, 0, 2, 1], [0, 3, 1, 2]]
    assert PER_MATRIX.places(score).tolist() == [[5, 2, 4, 3], [0, 7, 1, 6]]
    assert Pattern(1, 2).places(score).tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]


@pytest.mark.parametrize("name", FIXED)
def test_a_profile_counts_what_the_masks_take(tiny_model: ReasoningModel, name: str) -> None:
    inputs: dict[str, Any] = {"effect": EFFECT, "calibration": EXAMPLES[:1], "text": EXAMPLES[1:]}
    ranking = rank_weights(tiny_model, name, **inputs)
    profile = finish(head_profile_steps(tiny_model, ranking, "both", SPARSITIES))
    for row, sparsity in enumerate(SPARSITIES):
        mask = prune_mask(tiny_model, name, sparsity=sparsity, **inputs)
        found = mask_head_zeros(tiny_model, mask)
        q, o = (torch.stack([~mask.keep[f"{layer}.{kind}"] for layer in range(3)]) for kind in "qo")
        slow = [
            [int(q[layer, 8 * h : 8 * h + 8].sum() + o[layer, :, 8 * h : 8 * h + 8].sum()) for h in range(4)]
            for layer in range(3)
        ]
        assert found.zeros[0].tolist() == slow
        # Inside the bin that is cut a global threshold is interpolated: a head has 512 weights of its own.
        allowed = 3 if CRITERIA[name].threshold == "global" else 0
        assert np.abs(profile.zeros[row] - found.zeros[0]).max() <= allowed


def test_without_attention_there_is_nothing_to_count(tiny_model: ReasoningModel) -> None:
    mask = prune_mask(tiny_model, "magnitude", sparsity=0.5, scope="mlp")
    with pytest.raises(UsageError, match="choose the scope attention or both"):
        mask_head_zeros(tiny_model, mask)


def test_the_table_gives_back_what_was_counted(tiny_model: ReasoningModel) -> None:
    ranking = rank_weights(tiny_model, "cap", effect=EFFECT)
    profile = finish(head_profile_steps(tiny_model, ranking, "both", SPARSITIES))
    again = HeadZeros.from_tables(profile.to_tables())
    np.testing.assert_array_equal(again.zeros, profile.zeros)
    np.testing.assert_array_equal(again.sparsities, profile.sparsities)
    assert (again.size, again.share.max()) == (512, profile.zeros.max() / 512)
