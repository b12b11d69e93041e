"""Magnitude: in every matrix, the `int(size * sparsity)` weights smallest in magnitude go.

Source: `prune_magnitude` of https://github.com/locuslab/wanda (lib/prune.py). Deviation: there the weight at
that rank and its ties go as well (one weight per matrix more, and one even at sparsity 0); here exactly that
many, ties spread evenly in row-major order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.progress import Progress
from cap_viz.pruning.base import Criterion, MaskRequest, Steps, check_request, fixed_score_steps
from cap_viz.pruning.masks import (
    Mask,
    MatrixSize,
    Scope,
    ZeroCounts,
    check_sparsity,
    layer_groups,
    mask_from,
    matrix_size,
    scoped_matrices,
    zero_counts,
)
from cap_viz.pruning.threshold import kept_above

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from cap_viz.models import ReasoningModel


@dataclass(frozen=True)
class MagnitudeRanking:
    """Nothing needs to be remembered: each matrix is cut on its own."""

    scope: Scope
    matrices: tuple[MatrixSize, ...]

    def profile(self, sparsities: Sequence[float]) -> ZeroCounts:
        """Zeros per matrix at each sparsity; exact."""
        for sparsity in sparsities:
            check_sparsity(sparsity)
        zeros = [[int(matrix.size * sparsity) for matrix in self.matrices] for sparsity in sparsities]
        return zero_counts(sparsities, self.matrices, zeros)

    def mask_steps(self, model: ReasoningModel, sparsity: float) -> Steps[Mask]:
        """The mask at one sparsity, from the weights themselves."""
        check_sparsity(sparsity)
        keep: dict[str, Bool[Tensor, "output input"]] = {}
        groups = layer_groups(scoped_matrices(model, self.scope))
        for index, group in enumerate(groups):
            with model.lease:
                for matrix in group:
                    keep[matrix.name] = keep_largest(matrix.weight.detach().float().abs(), sparsity)
            yield Progress(index + 1, len(groups), "building the mask")
        return mask_from(criterion="magnitude", sparsity=sparsity, scope=self.scope, matrices=self.matrices, keep=keep)


def keep_largest(score: Float[Tensor, "output input"], sparsity: float) -> Bool[Tensor, "output input"]:
    """All but the `int(size * sparsity)` lowest scores of the matrix."""
    n_zeros = int(score.numel() * sparsity)
    if n_zeros == 0:
        return kept_above(score, -1.0, 0)
    threshold = float(score.reshape(-1).kthvalue(n_zeros).values)
    n_over = int((score <= threshold).count_nonzero()) - n_zeros
    return kept_above(score, threshold, n_over)


def rank_magnitude(model: ReasoningModel, request: MaskRequest) -> Steps[MagnitudeRanking]:
    """Only the matrices' sizes: the weights are their own scores."""
    check_request(MAGNITUDE, request, model.shape)
    sizes = tuple(matrix_size(matrix) for matrix in scoped_matrices(model, request.scope))
    yield Progress(1, 1, "ranking weights")
    return MagnitudeRanking(scope=request.scope, matrices=sizes)


MAGNITUDE = Criterion(
    name="magnitude",
    title="Magnitude",
    summary="The smallest weights of every matrix, the same share in each.",
    source="locuslab/wanda, prune_magnitude",
    needs_scores=False,
    needs_calibration=False,
    threshold="per matrix",
    rank=rank_magnitude,
    steps=fixed_score_steps(rank_magnitude),
)
