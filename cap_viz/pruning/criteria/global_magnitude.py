"""Global magnitude: prune the smallest weights of the whole model. Equals CAP with I = 1, by the same code.

The difference between the two shows what the head scores add.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cap_viz.progress import Steps
from cap_viz.pruning.criteria.cap import LOWEST, rank_regions, region_importance
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.selection.global_threshold import GlobalRanking

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel


def rank_global_magnitude(model: ReasoningModel, request: MaskRequest) -> Steps[GlobalRanking]:
    """Rank with every importance at 1."""
    check_request(GLOBAL_MAGNITUDE, request, model.shape)
    ones = np.full((model.shape.n_layers, model.shape.n_heads), LOWEST)
    return rank_regions(model, "global_magnitude", request, region_importance(ones, model.shape.n_kv_heads))


GLOBAL_MAGNITUDE = Criterion(
    name="global_magnitude",
    title="Global magnitude",
    summary="Magnitude with one global threshold: CAP with equal importance, to show what head scores add.",
    source="control for CAP, arXiv 2606.19350",
    needs_scores=False,
    needs_calibration=False,
    threshold="global",
    rank=rank_global_magnitude,
    steps=fixed_score_steps(rank_global_magnitude),
)
