"""Shuffled CAP: CAP with the heads' importance permuted over the whole model.

The same values of I, on other heads: what is left of CAP's result is owed to the spread of I, not to which head has
it. One shuffle shows nothing; 19 draws allow p = .05 (rank of the true assignment among 20).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from cap_viz.pruning.criteria.cap import importance, rank_regions, region_importance
from cap_viz.pruning.criterion import Criterion, MaskRequest, Steps, check_request, fixed_score_steps
from cap_viz.pruning.selection.global_threshold import GlobalRanking

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel


def shuffled(values: Float[np.ndarray, "layer head"], draw: int) -> Float[np.ndarray, "layer head"]:
    """The values permuted over all heads of all layers, the same for the same draw."""
    return np.random.default_rng(draw).permutation(values.ravel()).reshape(values.shape)


def rank_shuffled_cap(model: ReasoningModel, request: MaskRequest) -> Steps[GlobalRanking]:
    """Rank by the shuffled importance."""
    check_request(SHUFFLED_CAP, request, model.shape)
    assert request.effect is not None
    heads = shuffled(importance(request.effect), request.control_seed)
    regions = region_importance(heads, model.shape.n_kv_heads, request.kv_combine)
    return rank_regions(model, "shuffled_cap", request, regions)


SHUFFLED_CAP = Criterion(
    name="shuffled_cap",
    title="Shuffled CAP",
    summary="CAP with the heads' importance dealt out at random: what it owes to which head has which importance.",
    source="control for CAP, arXiv 2606.19350",
    needs_scores=True,
    needs_calibration=False,
    threshold="global",
    rank=rank_shuffled_cap,
    steps=fixed_score_steps(rank_shuffled_cap),
    scales_importance=True,
    needs_seed=True,
)
