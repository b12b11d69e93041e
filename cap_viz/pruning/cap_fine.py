"""CAP fine: causal attribution down to single weights, to first order, at every token; one global threshold.

CAP measures what removing a head does and spreads it over the weights of its layer. Here the weight itself is removed:

1. Rows are the task's calibration examples (prompt and gold option as plain text) and passages of running text. A row's
   loss is the mean cross-entropy of its tokens but the first.
2. One forward and one backward pass a row give, for every matrix W and token t, the input x_t and the gradient d_t of
   the loss with respect to the output.
3. Without W_ij the output i at token t is smaller by W_ij x_tj, which changes the loss, to first order, by
   -W_ij x_tj d_ti: the effect of the weight at that token.
4. The score is the root of the summed squared effects, S_ij = |W_ij| * sqrt(sum over tokens of d_ti^2 x_tj^2).
5. The lowest scores of all matrices go, whatever matrix they are in.

Steps 3 to 5 are Taylor pruning (Molchanov et al., arXiv 1906.10771) with tokens in place of batches. How this recipe
was chosen among twenty, and what it is worth, is written down in docs/research_log.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.pruning.base import Criterion, MaskRequest, Steps, check_request, fixed_score_steps, portion
from cap_viz.pruning.gradients import whole_rows
from cap_viz.pruning.masks import scoped_matrices
from cap_viz.pruning.taylor import taylor_score
from cap_viz.pruning.threshold import GlobalRanking, rank_steps
from cap_viz.pruning.token_gradients import root_token_squares

if TYPE_CHECKING:
    from torch import Tensor

    from cap_viz.models import Matrix, ReasoningModel


def rank_cap_fine(model: ReasoningModel, request: MaskRequest) -> Steps[GlobalRanking]:
    """Rank by the first-order effects of single weights."""
    check_request(CAP_FINE, request, model.shape)
    matrices = scoped_matrices(model, request.scope)
    with model.lease:
        rows = whole_rows(model, (*(request.calibration or ()), *(request.text or ())))
    roots = yield from portion(root_token_squares(model, matrices, rows), 0, 2)

    def score(matrix: Matrix) -> Float[Tensor, "output input"]:
        return taylor_score(matrix.weight, roots[matrix.name].full())

    return (yield from portion(rank_steps(model, criterion="cap_fine", scope=request.scope, score=score), 1, 2))


CAP_FINE = Criterion(
    name="cap_fine",
    title="CAP fine",
    summary="First-order effect of every single weight at every token of the task and of running text; one global "
    "threshold.",
    source="this project, docs/research_log.md",
    needs_scores=False,
    needs_calibration=True,
    needs_text=True,
    threshold="global",
    rank=rank_cap_fine,
    steps=fixed_score_steps(rank_cap_fine),
)
