"""Wanda: prune the weights with the smallest |W_ij| * ||X_j||_2 of every output row (arXiv 2306.11695).

Sequential, as `prune_wanda` of https://github.com/locuslab/wanda (lib/prune.py, lib/layerwrapper.py): block by
block (`pruning/calibration/sequential.py`), ||X_j|| over all real tokens. In each row of each matrix the lowest
`int(C_in * sparsity)` scores are pruned (10 % of 576 columns is 57, so 9.9 % is reached), of equal ones the leftmost.

n:m patterns prune the lowest n of every m neighbours in a row (the reference uses `topk`, which leaves ties open).

The one-shot variant is ours: the same score with every X from the dense model, so that any sparsity is a threshold.

Deviations: calibration is the task's examples (prompt and gold option) instead of 128 windows of C4, and the
reference divides the sum of squares by the number of sequences, which changes no order within a row.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps
from cap_viz.pruning.calibration.activations import input_norm, squares, wanda_score
from cap_viz.pruning.calibration.sequential import dense_sums, sequential_steps
from cap_viz.pruning.criterion import Allocation, Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.mask import Mask
from cap_viz.pruning.selection.local_groups import (
    PER_ROW,
    ROWS_ROUNDED,
    LocalRanking,
    by_input_norm,
    group_for,
    local_ranking,
)
from cap_viz.pruning.selection.owl import allocated

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel


def wanda_steps(model: ReasoningModel, request: MaskRequest) -> Steps[Mask]:
    """Build the sequential mask."""
    check_request(WANDA, request, model.shape)
    prune = by_input_norm(group_for(request.pattern, PER_ROW), wanda_score)
    pruned = partial(sequential_steps, model, request, criterion="wanda", measure=squares, prune=prune)
    return (yield from allocated(model, request, pruned))


def rank_oneshot(model: ReasoningModel, request: MaskRequest) -> Steps[LocalRanking]:
    """Rank by Wanda's score, with the input norms of every matrix from one pass of the dense model."""
    check_request(WANDA_ONESHOT, request, model.shape)
    group = group_for(request.pattern, PER_ROW)

    def ranked(allocation: Allocation) -> Steps[LocalRanking]:
        sums = yield from dense_sums(model, request, squares)
        norms = {name: input_norm(total) for name, total in sums.items()}

        def score(matrix: Matrix) -> Float[Tensor, "output input"]:
            return wanda_score(matrix.weight, norms[matrix.name])

        return local_ranking(model, request, criterion="wanda_oneshot", group=group, score=score, allocation=allocation)

    return (yield from allocated(model, request, ranked))


WANDA = Criterion(
    name="wanda",
    title="Wanda",
    summary="Magnitude times input norm, the same share in each row; blocks measured behind pruned ones.",
    source="Wanda, arXiv 2306.11695; locuslab/wanda, prune_wanda",
    needs_scores=False,
    needs_calibration=True,
    threshold="per row",
    steps=wanda_steps,
    counting=ROWS_ROUNDED,
    allocations=True,
    patterns=True,
)

WANDA_ONESHOT = Criterion(
    name="wanda_oneshot",
    title="Wanda, one-shot",
    summary="Wanda's score with all activations from the dense model: ranked once, cut at any sparsity.",
    source="variant of Wanda, arXiv 2306.11695",
    needs_scores=False,
    needs_calibration=True,
    threshold="per row",
    rank=rank_oneshot,
    steps=fixed_score_steps(rank_oneshot),
    counting=ROWS_ROUNDED,
    allocations=True,
    patterns=True,
)
