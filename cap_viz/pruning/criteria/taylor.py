"""Taylor: |W| times the root mean square gradient of the loss, with one global threshold.

`S = |W_ij| * sqrt(mean over examples of (dm/dW_ij)^2)`, with m the metric nll: the mean cross-entropy of the gold
answer. It estimates, to first order, how much the loss changes when the weight is set to zero.

Source: the first-order importance (g w)^2 of Molchanov et al., "Importance Estimation for Neural Network Pruning"
(arXiv 1906.10771; NVlabs/Taylor_pruning), there summed over a filter; here for single weights, and its root.
Deviations: squares are averaged over examples instead of minibatches, without training in between; gradients are kept
in half precision (`pruning/calibration/gradients.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps, portion
from cap_viz.pruning.calibration.gradients import answer_rows, gradient_steps
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.mask import scoped_matrices
from cap_viz.pruning.selection.global_threshold import GlobalRanking, rank_steps

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel


def rank_taylor(model: ReasoningModel, request: MaskRequest) -> Steps[GlobalRanking]:
    """Rank by magnitude times the root mean square of the gradient."""
    check_request(TAYLOR, request, model.shape)
    examples = request.calibration or ()
    matrices = scoped_matrices(model, request.scope)
    roots = yield from portion(gradient_steps(model, matrices, examples, answer_rows), 0, 2)

    def score(matrix: Matrix) -> Float[Tensor, "output input"]:
        return taylor_score(matrix.weight, roots[matrix.name].full().div_(len(examples) ** 0.5))

    return (yield from portion(rank_steps(model, criterion="taylor", scope=request.scope, score=score), 1, 2))


def taylor_score(
    weight: Float[Tensor, "output input"], rms: Float[Tensor, "output input"]
) -> Float[Tensor, "output input"]:
    """|W_ij| times the root mean square gradient."""
    return weight.detach().float().abs().mul_(rms)


TAYLOR = Criterion(
    name="taylor",
    title="Taylor",
    summary="Magnitude times the root mean square gradient of the answer's loss; one global threshold.",
    source="first-order importance, arXiv 1906.10771",
    needs_scores=False,
    needs_calibration=True,
    threshold="global",
    rank=rank_taylor,
    steps=fixed_score_steps(rank_taylor),
)
