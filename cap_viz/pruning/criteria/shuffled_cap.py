"""Shuffled CAP: CAP with the heads' importance permuted over the whole model.

The values of I stay, their assignment to heads is random: the part of CAP's result that remains is owed to the
spread of I, not to the choice of heads. One shuffle shows nothing; 19 draws allow p = .05 (rank of the true assignment
among 20).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from cap_viz.progress import Steps
from cap_viz.pruning.criteria.cap import importance, rank_regions, region_importance
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.selection.global_threshold import GlobalRanking

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel


def shuffled(values: Float[np.ndarray, "layer head"], draw: int) -> Float[np.ndarray, "layer head"]:
    """Permute the values over all heads of all layers; the same draw gives the same permutation."""
    return np.random.default_rng(draw).permutation(values.ravel()).reshape(values.shape)


def rank_shuffled_cap(model: ReasoningModel, request: MaskRequest) -> Steps[GlobalRanking]:
    """Rank by magnitude times the shuffled importance."""
    check_request(SHUFFLED_CAP, request, model.shape)
    assert request.effect is not None
    heads = shuffled(importance(request.effect), request.control_seed or 0)
    regions = region_importance(heads, model.shape.n_kv_heads, request.kv_combine)
    return rank_regions(model, "shuffled_cap", request, regions)


SHUFFLED_CAP = Criterion(
    name="shuffled_cap",
    title="Shuffled CAP",
    summary="CAP with the heads' importances dealt out at random, to show what their right places add.",
    source="control for CAP, arXiv 2606.19350",
    needs_scores=True,
    needs_calibration=False,
    threshold="global",
    rank=rank_shuffled_cap,
    steps=fixed_score_steps(rank_shuffled_cap),
    scales_importance=True,
    needs_seed=True,
)
