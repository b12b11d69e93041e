"""Whole heads: remove the heads with the lowest scores of the whole model, with all their rows and columns.

1. Sparsity is the share of heads: the `round(heads * sparsity)` heads with the lowest mean effect are removed; of
   equal ones, the first (layer by layer).
2. Removing a head zeroes its rows of W_Q and its columns of W_O, so that its output z contributes nothing, exactly as
   in zero ablation. Rows of W_K and W_V are zeroed when all query heads of their KV group are removed.

These zeros fill whole rows and columns: a model rebuilt without them computes the same with that many fewer weights.
Structured removal by head score as in Michel et al. 2019 (arXiv 1905.10650), who rank by a gradient score and prune
step by step; here all at once, by the given scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from cap_viz.errors import UsageError
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress, Steps
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.mask import (
    Mask,
    MatrixSize,
    Scope,
    ZeroCounts,
    check_sparsity,
    each_matrix,
    mask_from,
    matrix_size,
    scoped_matrices,
    zero_counts,
)

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel

HEAD_KINDS = ("q", "k", "v", "o")


@dataclass(frozen=True)
class HeadRanking:
    """Order in which heads are removed: `place[layer, head]` counts from 0."""

    scope: Scope
    matrices: tuple[MatrixSize, ...]
    n_kv_heads: int
    place: Int[np.ndarray, "layer head"] = field(repr=False, compare=False)

    def removed(self, sparsity: float) -> Bool[np.ndarray, "layer head"]:
        """Mark the heads that are removed."""
        return self.place < self.n_removed(sparsity)

    def n_removed(self, sparsity: float) -> int:
        """Number of heads that are removed."""
        check_sparsity(sparsity)
        return round(self.place.size * sparsity)

    def lines(self, kind: str, layer: int, sparsity: float) -> Bool[np.ndarray, " head"]:
        """Mark the heads removed from a matrix of this kind: query heads of q and o, KV heads of k and v, else none."""
        removed = self.removed(sparsity)[layer]
        if kind in ("k", "v"):
            return removed.reshape(self.n_kv_heads, -1).all(axis=1)
        return removed if kind in HEAD_KINDS else np.zeros(1, dtype=bool)

    def profile(self, sparsities: Sequence[float]) -> ZeroCounts:
        """Count zeros per matrix at each sparsity; exact."""
        zeros: list[list[int]] = []
        for sparsity in sparsities:
            lines = [self.lines(matrix.kind, matrix.layer, sparsity) for matrix in self.matrices]
            zeros.append(
                [matrix.size // len(gone) * int(gone.sum()) for matrix, gone in zip(self.matrices, lines, strict=True)]
            )
        return zero_counts(sparsities, self.matrices, zeros)

    def rank_and_cutoffs(
        self, matrix: Matrix, sparsities: Sequence[float]
    ) -> tuple[Int[Tensor, "output input"], list[int]]:
        """Rank of each weight of W_Q or W_O, which is its head's, and the number of removed heads per sparsity."""
        limits = [self.n_removed(sparsity) for sparsity in sparsities]
        return over_matrix(self.place[matrix.layer], matrix), limits

    def mask_steps(self, model: ReasoningModel, sparsity: float) -> Steps[Mask]:
        """Build the mask at one sparsity."""

        def kept(matrix: Matrix) -> Bool[Tensor, "output input"]:
            return over_matrix(~self.lines(matrix.kind, matrix.layer, sparsity), matrix).clone()

        keep = yield from each_matrix(model, self.scope, "building the mask", kept)
        return mask_from(
            criterion="head",
            sparsity=sparsity,
            scope=self.scope,
            matrices=self.matrices,
            keep=keep,
            structured=True,
        )


def over_matrix(per_head: np.ndarray, matrix: Matrix) -> Tensor:
    """Repeat one value per head over the head's rows, or its columns of W_O; a single value fills the matrix."""
    import torch

    values = torch.from_numpy(per_head).to(matrix.weight.device)
    side = 1 if matrix.kind == "o" else 0
    values = values.repeat_interleave(matrix.weight.shape[side] // len(values))
    return (values[None, :] if side else values[:, None]).expand(matrix.weight.shape)


def heads_in_order(effect: Float[np.ndarray, "layer head"]) -> Int[np.ndarray, "layer head"]:
    """Rank of each head, lowest effect first; of equal ones, the first."""
    order = np.argsort(effect.ravel(), kind="stable")
    place = np.empty(effect.size, dtype=np.int64)
    place[order] = np.arange(effect.size)
    return place.reshape(effect.shape)


def rank_heads_to_remove(model: ReasoningModel, request: MaskRequest) -> Steps[HeadRanking]:
    """Order the heads by the request's effects."""
    check_request(HEAD, request, model.shape)
    if request.scope == "mlp":
        raise UsageError("The criterion 'head' removes attention heads; choose the scope attention or both.")
    assert request.effect is not None
    sizes = tuple(matrix_size(matrix) for matrix in scoped_matrices(model, request.scope))
    yield Progress(1, 1, "ranking heads")
    return HeadRanking(
        scope=request.scope,
        matrices=sizes,
        n_kv_heads=model.shape.n_kv_heads,
        place=heads_in_order(request.effect),
    )


HEAD = Criterion(
    name="head",
    title="Whole heads",
    summary="The heads whose removal hurts least go entirely; sparsity is the share of heads, not of weights.",
    source="structured removal, after arXiv 1905.10650",
    needs_scores=True,
    needs_calibration=False,
    threshold="per head",
    rank=rank_heads_to_remove,
    steps=fixed_score_steps(rank_heads_to_remove),
    structured=True,
    counting="Counts heads, not weights: the share of weights that goes is the one reached, not the one asked.",
)
