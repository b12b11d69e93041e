"""Magnitude: prune the `int(size * sparsity)` weights of smallest magnitude in every matrix.

Source: `prune_magnitude` of https://github.com/locuslab/wanda (lib/prune.py). Deviation: the reference also prunes
the weight at that rank and its ties (one weight more per matrix, and one even at sparsity 0); here exactly that
many are pruned, ties spread evenly in row-major order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress, Steps
from cap_viz.pruning.criterion import Allocation, Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.selection.local_groups import PER_MATRIX, LocalRanking, group_for, local_ranking
from cap_viz.pruning.selection.owl import allocated

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel


def magnitude(matrix: Matrix) -> Float[Tensor, "output input"]:
    """|W| in float32."""
    return matrix.weight.detach().float().abs()


def rank_magnitude(model: ReasoningModel, request: MaskRequest) -> Steps[LocalRanking]:
    """Rank by |W|; only an allocation needs measuring."""
    check_request(MAGNITUDE, request, model.shape)
    group = group_for(request.pattern, PER_MATRIX)

    def ranked(allocation: Allocation) -> Steps[LocalRanking]:
        yield Progress(1, 1, "ranking weights")
        return local_ranking(model, request, criterion="magnitude", group=group, score=magnitude, allocation=allocation)

    return (yield from allocated(model, request, ranked))


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
    allocations=True,
    patterns=True,
)
