"""CAP fine: first-order causal attribution of single weights, with an update of the remaining weights.

CAP measures the effect of removing a head and spreads it over the weights of its layer. Here the effect of removing
each single weight is estimated:

1. Rows are the task's calibration examples as plain text (prompt and gold option, every token but the first scored)
   and passages of running text (scored after their opening). A row's loss is the mean cross-entropy of its
   scored tokens.
2. One forward and one backward pass a row give, for every matrix W and token t, the input x_t and the gradient d_t of
   the loss with respect to the output.
3. Without W_ij the output i at token t is smaller by W_ij x_tj, which changes the loss, to first order, by
   -W_ij x_tj d_ti: the effect of the weight at that token.
4. The score is the root of the summed squared effects, S_ij = |W_ij| * sqrt(sum over tokens of d_ti^2 x_tj^2).
5. The lowest scores over all matrices together are pruned.
6. Block by block, behind blocks already pruned and repaired, the remaining weights of each matrix row are adjusted so
   that its outputs on the rows of step 1 change least: SparseGPT's update (`sparsegpt.repaired`).

Steps 3 to 5 are Taylor pruning (Molchanov et al., arXiv 1906.10771) with tokens in place of batches, step 6 is Frantar
and Alistarh, arXiv 2301.00774. docs/research_log.md records how this recipe was chosen among twenty, the contribution
of each part, and its results on held-out questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float, Int

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps, portion
from cap_viz.pruning.calibration.activations import products
from cap_viz.pruning.calibration.gradients import answer_rows, whole_rows
from cap_viz.pruning.calibration.sequential import PrunedMatrix, sequential_steps
from cap_viz.pruning.calibration.token_gradients import root_token_squares
from cap_viz.pruning.criteria.sparsegpt import repaired
from cap_viz.pruning.criteria.taylor import taylor_score
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.mask import Mask, ZeroCounts, scoped_matrices
from cap_viz.pruning.selection.global_threshold import GlobalRanking, rank_steps

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel
    from cap_viz.tasks.base import Example


@dataclass(frozen=True)
class RepairedRanking:
    """Weights ranked once; a mask is a threshold on the ranking and new values for the kept weights."""

    ranking: GlobalRanking
    examples: tuple[Example, ...]

    def profile(self, sparsities: Sequence[float]) -> ZeroCounts:
        return self.ranking.profile(sparsities)

    def rank_and_cutoffs(
        self, matrix: Matrix, sparsities: Sequence[float]
    ) -> tuple[Int[Tensor, "output input"], list[int]]:
        return self.ranking.rank_and_cutoffs(matrix, sparsities)

    def mask_steps(self, model: ReasoningModel, sparsity: float) -> Steps[Mask]:
        """Threshold the ranking and update the kept weights: steps 5 and 6."""
        chosen = yield from portion(self.ranking.mask_steps(model, sparsity), 0, 2)

        def prune(matrix: Matrix, moments: Float[Tensor, "input input"], share: float) -> PrunedMatrix:
            keep = chosen.keep[matrix.name]
            return PrunedMatrix(keep, repaired(matrix.weight, moments, keep))

        request = MaskRequest(sparsity, scope=self.ranking.scope, calibration=self.examples)
        steps = sequential_steps(model, request, criterion="cap_fine", measure=products, prune=prune)
        return (yield from portion(steps, 1, 2))


def rank_cap_fine(model: ReasoningModel, request: MaskRequest) -> Steps[RepairedRanking]:
    """Rank by the first-order effects of single weights: steps 1 to 4."""
    check_request(CAP_FINE, request, model.shape)
    task, text = request.calibration or (), request.text or ()
    matrices = scoped_matrices(model, request.scope)
    with model.lease:
        rows = [*answer_rows(model, text), *whole_rows(model, task)]
    roots = yield from portion(root_token_squares(model, matrices, rows), 0, 2)

    def score(matrix: Matrix) -> Float[Tensor, "output input"]:
        return taylor_score(matrix.weight, roots[matrix.name].full())

    ranked = yield from portion(rank_steps(model, criterion="cap_fine", scope=request.scope, score=score), 1, 2)
    return RepairedRanking(ranked, (*text, *task))


CAP_FINE = Criterion(
    name="cap_fine",
    title="CAP fine",
    summary="First-order effect of every single weight at every token of the task and of running text, one global "
    "threshold; the weights that stay are adjusted to make up for the rest.",
    source="this project, docs/research_log.md",
    needs_scores=False,
    needs_calibration=True,
    needs_text=True,
    threshold="global",
    rank=rank_cap_fine,
    steps=fixed_score_steps(rank_cap_fine),
)
