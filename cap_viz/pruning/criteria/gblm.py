"""GBLM: prune the lowest |W_ij| * (||X_j||_2 + alpha * G_ij) of each row, Wanda plus gradient (arXiv 2311.04902).

Source: `prune_gblm` (lib/prune.py) and `gradient_computation.py` of https://github.com/VILA-Lab/GBLM-Pruner, with its
scaling: `G = sqrt(sum over sequences of g^2)` of the language-modelling loss of the dense model, `alpha = 100`, and
`||X_j||` the root of the sum of squares over all tokens divided by the number of sequences. Activations are measured
block by block behind pruned blocks, as in Wanda; of equal scores the leftmost is pruned first.

Deviations: calibration is the task's examples (prompt and gold option) instead of 128 windows of C4; gradients are
taken in float32 with the model in evaluation mode, and kept in half precision (as there, but scaled per matrix).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps, portion
from cap_viz.pruning.calibration.activations import squares
from cap_viz.pruning.calibration.gradients import gradient_steps, whole_rows
from cap_viz.pruning.calibration.sequential import PrunedMatrix, sequential_steps
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request
from cap_viz.pruning.mask import Mask, scoped_matrices
from cap_viz.pruning.selection.local_groups import PER_ROW, ROWS_ROUNDED
from cap_viz.pruning.selection.owl import allocated

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel

ALPHA = 100.0


def gblm_score(
    weight: Float[Tensor, "output input"],
    norm: Float[Tensor, " input"],
    gradient: Float[Tensor, "output input"],
) -> Float[Tensor, "output input"]:
    """|W_ij| * (||X_j|| + alpha * G_ij)."""
    return weight.detach().float().abs() * (norm + ALPHA * gradient)


def gblm_steps(model: ReasoningModel, request: MaskRequest) -> Steps[Mask]:
    """Measure the gradients of the dense model, then prune block by block."""
    check_request(GBLM, request, model.shape)
    examples = request.calibration or ()
    matrices = scoped_matrices(model, request.scope)
    gradients = yield from portion(gradient_steps(model, matrices, examples, whole_rows), 0, 2)

    def prune(matrix: Matrix, sums: Float[Tensor, " input"], sparsity: float) -> PrunedMatrix:
        norm = (sums / len(examples)).sqrt().float()
        score = gblm_score(matrix.weight, norm, gradients[matrix.name].full())
        return PrunedMatrix(PER_ROW.keep(score, sparsity))

    pruned = partial(sequential_steps, model, request, criterion="gblm", measure=squares, prune=prune)
    return (yield from portion(allocated(model, request, pruned), 1, 2))


GBLM = Criterion(
    name="gblm",
    title="GBLM",
    summary="Wanda's score plus magnitude times gradient, the same share in each row; blocks behind pruned ones.",
    source="GBLM-Pruner, arXiv 2311.04902; VILA-Lab/GBLM-Pruner, prune_gblm",
    needs_scores=False,
    needs_calibration=True,
    threshold="per row",
    steps=gblm_steps,
    counting=ROWS_ROUNDED,
    allocations=True,
)
