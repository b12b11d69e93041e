"""LAMP: magnitude relative to the weights of the same matrix that are not smaller, one threshold for the whole model.

Source: Lee et al. 2021, arXiv 2010.07611, equation 3. Ties get the sum of the first of them in sorted order.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from cap_viz.models.loading import Matrix, ReasoningModel
from cap_viz.pruning.criterion import Criterion, MaskRequest, Steps, check_request, fixed_score_steps
from cap_viz.pruning.selection.global_threshold import GlobalRanking, rank_steps


def lamp(matrix: Matrix) -> Float[Tensor, "output input"]:
    """w² over the sum of the squares that are at least w², within the matrix."""
    squares, order = matrix.weight.detach().double().square().reshape(-1).sort()
    at_least = squares.flip(0).cumsum(0).flip(0)
    scores = (squares / at_least.clamp(min=1e-300)).float()
    return scores.new_empty(scores.shape).scatter_(0, order, scores).reshape(matrix.weight.shape)


def rank_lamp(model: ReasoningModel, request: MaskRequest) -> Steps[GlobalRanking]:
    check_request(LAMP, request, model.shape)
    return rank_steps(model, criterion="lamp", scope=request.scope, score=lamp)


LAMP = Criterion(
    name="lamp",
    title="LAMP",
    summary="Magnitude relative to the larger weights of its matrix; one global threshold.",
    source="LAMP, arXiv 2010.07611",
    needs_scores=False,
    needs_calibration=False,
    threshold="global",
    rank=rank_lamp,
    steps=fixed_score_steps(rank_lamp),
)
