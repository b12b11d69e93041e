"""Random: prune weights at random, the same share of every matrix. The control every other criterion must beat.

Each matrix draws uniform scores from its own generator, seeded by the draw and the matrix's name: masks of one draw
are nested over sparsities, and do not depend on the scope or on the order of the matrices.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress, Steps
from cap_viz.pruning.criterion import Allocation, Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.selection.local_groups import PER_MATRIX, LocalRanking, local_ranking
from cap_viz.pruning.selection.owl import allocated

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel


def random_score(matrix: Matrix, draw: int) -> Float[Tensor, "output input"]:
    """Draw uniform scores in [0, 1), the same on every call."""
    import torch

    digest = hashlib.sha256(f"{draw} {matrix.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.rand(matrix.weight.shape, generator=generator).to(matrix.weight.device)


def rank_random(model: ReasoningModel, request: MaskRequest) -> Steps[LocalRanking]:
    """Rank by random scores, drawn when they are needed; only an allocation needs measuring."""
    check_request(RANDOM, request, model.shape)

    def score(matrix: Matrix) -> Float[Tensor, "output input"]:
        return random_score(matrix, request.control_seed or 0)

    def ranked(allocation: Allocation) -> Steps[LocalRanking]:
        yield Progress(1, 1, "drawing weights")
        return local_ranking(model, request, criterion="random", group=PER_MATRIX, score=score, allocation=allocation)

    return (yield from allocated(model, request, ranked))


RANDOM = Criterion(
    name="random",
    title="Random",
    summary="Weights drawn by chance, the same share of every matrix: what any criterion must beat.",
    source="control",
    needs_scores=False,
    needs_calibration=False,
    threshold="per matrix",
    rank=rank_random,
    steps=fixed_score_steps(rank_random),
    needs_seed=True,
    allocations=True,
)
