"""Local groups: prune the same share of every row, matrix or run of neighbours, lowest scores first.

A `LocalGroup` says which weights compete with each other. The zeros of a matrix then depend on that matrix alone, so
that a ranking needs no memory beyond its score, and the number of zeros at any sparsity follows from the sizes. An
`Allocation` may give every layer a sparsity of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from jaxtyping import Bool, Float, Int

from cap_viz.errors import UsageError
from cap_viz.models.loading import Matrix, ReasoningModel
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps
from cap_viz.pruning.calibration.activations import input_norm
from cap_viz.pruning.calibration.sequential import Prune, PrunedMatrix
from cap_viz.pruning.criterion import UNIFORM, Allocation, MaskRequest
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
from cap_viz.pruning.options import check_pattern_sparsity
from cap_viz.pruning.selection.global_threshold import Score, kept_above


class LocalGroup(Protocol):
    """Partition of a matrix into weights that compete for the lowest scores."""

    def keep(self, score: Float[Tensor, "output input"], sparsity: float) -> Bool[Tensor, "output input"]:
        """Build the keep mask of a matrix."""
        ...

    def zeros(self, matrix: MatrixSize, sparsity: float) -> int:
        """Return how many weights `keep` prunes from a matrix of this size."""
        ...


class OrderedGroup(LocalGroup, Protocol):
    """A group in which every weight has a rank that does not depend on the sparsity."""

    def places(self, score: Float[Tensor, "output input"]) -> Int[Tensor, "output input"]:
        """Rank of each weight among those it competes with, lowest score first."""
        ...

    def limit(self, matrix: MatrixSize, sparsity: float) -> int:
        """Cutoff rank: weights ranked below it are pruned."""
        ...


@dataclass(frozen=True)
class PerMatrix:
    """Prune the `int(size * sparsity)` lowest scores of the matrix; ties are spread evenly in row-major order."""

    def keep(self, score: Float[Tensor, "output input"], sparsity: float) -> Bool[Tensor, "output input"]:
        n_zeros = int(score.numel() * sparsity)
        if n_zeros == 0:
            return kept_above(score, -1.0, 0)
        threshold = float(score.reshape(-1).kthvalue(n_zeros).values)
        n_over = int((score <= threshold).count_nonzero()) - n_zeros
        return kept_above(score, threshold, n_over)

    def zeros(self, matrix: MatrixSize, sparsity: float) -> int:
        return int(matrix.size * sparsity)

    def places(self, score: Float[Tensor, "output input"]) -> Int[Tensor, "output input"]:
        return places_in_rows(score.reshape(1, -1)).reshape(score.shape)

    def limit(self, matrix: MatrixSize, sparsity: float) -> int:
        return self.zeros(matrix, sparsity)


@dataclass(frozen=True)
class PerRow:
    """Prune the `int(columns * sparsity)` lowest scores of each row; of equal ones, the leftmost first."""

    def keep(self, score: Float[Tensor, "output input"], sparsity: float) -> Bool[Tensor, "output input"]:
        n_zeros = int(score.shape[1] * sparsity)
        if n_zeros == 0:
            return score > -1
        keep = score > score.kthvalue(n_zeros, dim=-1, keepdim=True).values
        # Wanda's reference sorts every row. Selecting is four times faster and leaves only ties to a sort.
        for row in ((~keep).sum(dim=-1) > n_zeros).nonzero().reshape(-1).tolist():
            keep[row] = True
            keep[row, score[row].sort(stable=True).indices[:n_zeros]] = False
        return keep

    def zeros(self, matrix: MatrixSize, sparsity: float) -> int:
        return matrix.rows * self.limit(matrix, sparsity)

    def places(self, score: Float[Tensor, "output input"]) -> Int[Tensor, "output input"]:
        return places_in_rows(score)

    def limit(self, matrix: MatrixSize, sparsity: float) -> int:
        return int(matrix.columns * sparsity)


@dataclass(frozen=True)
class Pattern:
    """Prune `zeros_in` of every `length` neighbouring weights of a row ("2:4": 2 of 4), of equal ones the leftmost.

    Its sparsity is fixed: any other raises `UsageError`, and so do rows that do not divide evenly.
    """

    zeros_in: int
    length: int

    def keep(self, score: Float[Tensor, "output input"], sparsity: float) -> Bool[Tensor, "output input"]:
        import torch

        self.check(score.shape[1], sparsity)
        runs = score.reshape(-1, self.length)
        lowest = runs.sort(dim=-1, stable=True).indices[:, : self.zeros_in]
        return torch.ones_like(runs, dtype=torch.bool).scatter_(1, lowest, False).reshape(score.shape)

    def zeros(self, matrix: MatrixSize, sparsity: float) -> int:
        self.check(matrix.columns, sparsity)
        return matrix.size // self.length * self.zeros_in

    def places(self, score: Float[Tensor, "output input"]) -> Int[Tensor, "output input"]:
        return places_in_rows(score.reshape(-1, self.length)).reshape(score.shape)

    def limit(self, matrix: MatrixSize, sparsity: float) -> int:
        self.check(matrix.columns, sparsity)
        return self.zeros_in

    def check(self, columns: int, sparsity: float) -> None:
        check_pattern_sparsity(f"{self.zeros_in}:{self.length}", sparsity)
        if columns % self.length:
            raise UsageError(
                f"The pattern {self.zeros_in}:{self.length} needs rows of a multiple of {self.length} weights, and "
                f"a matrix of this model has {columns}."
            )


@dataclass(frozen=True)
class PerColumnBlock:
    """Prune the `int(size * sparsity)` lowest scores of every `width` columns, each block as in `PerMatrix`."""

    width: int

    def keep(self, score: Float[Tensor, "output input"], sparsity: float) -> Bool[Tensor, "output input"]:
        import torch

        return torch.cat([PER_MATRIX.keep(block, sparsity) for block in score.split(self.width, dim=1)], dim=1)

    def zeros(self, matrix: MatrixSize, sparsity: float) -> int:
        starts = range(0, matrix.columns, self.width)
        return sum(int(matrix.rows * min(self.width, matrix.columns - start) * sparsity) for start in starts)


PER_MATRIX, PER_ROW = PerMatrix(), PerRow()
ROWS_ROUNDED = "Takes a whole number of weights from every row, rounded down: it reaches slightly less than asked."
# Number of columns SparseGPT prunes at a time.
SPARSEGPT_COLUMNS = 128
LOCAL_GROUPS: dict[str, LocalGroup] = {
    "per matrix": PER_MATRIX,
    "per row": PER_ROW,
    "per column block": PerColumnBlock(SPARSEGPT_COLUMNS),
}


AnyGroup = TypeVar("AnyGroup", bound=LocalGroup)


def places_in_rows(score: Float[Tensor, "row column"]) -> Int[Tensor, "row column"]:
    """Rank of each score in its row, lowest first; of equal ones, the leftmost first."""
    return score.sort(dim=-1, stable=True).indices.argsort(dim=-1)


def group_for(pattern: str | None, otherwise: AnyGroup) -> AnyGroup | Pattern:
    """Return the group of a pattern such as "2:4" if one is given, else `otherwise`."""
    if pattern is None:
        return otherwise
    zeros_in, length = pattern.split(":")
    return Pattern(int(zeros_in), int(length))


def by_input_norm(group: LocalGroup, score: Callable[[Tensor, Tensor], Tensor]) -> Prune:
    """Prune a matrix within the group by a score of its weights and the norms of its inputs."""

    def prune(matrix: Matrix, sums: Float[Tensor, " input"], sparsity: float) -> PrunedMatrix:
        return PrunedMatrix(group.keep(score(matrix.weight, input_norm(sums)), sparsity))

    return prune


def local_profile(
    group: LocalGroup, matrices: Sequence[MatrixSize], sparsities: Sequence[float], allocation: Allocation = UNIFORM
) -> ZeroCounts:
    """Count zeros per matrix at each sparsity; exact, from the sizes alone."""
    for sparsity in sparsities:
        check_sparsity(sparsity)
    zeros = [
        [group.zeros(matrix, allocation.sparsity(matrix.layer, sparsity)) for matrix in matrices]
        for sparsity in sparsities
    ]
    return zero_counts(sparsities, matrices, zeros)


@dataclass(frozen=True)
class LocalRanking:
    """Score of every matrix, the group in which it is thresholded, and the spread of the sparsity over layers."""

    criterion: str
    scope: Scope
    matrices: tuple[MatrixSize, ...]
    group: OrderedGroup
    allocation: Allocation
    score: Score = field(repr=False, compare=False)

    def profile(self, sparsities: Sequence[float]) -> ZeroCounts:
        """Count zeros per matrix at each sparsity; exact."""
        return local_profile(self.group, self.matrices, sparsities, self.allocation)

    def rank_and_cutoffs(
        self, matrix: Matrix, sparsities: Sequence[float]
    ) -> tuple[Int[Tensor, "output input"], list[int]]:
        """Ranks within the group and cutoffs; equal scores of a whole matrix rank in row-major order."""
        shares = [self.allocation.sparsity(matrix.layer, sparsity) for sparsity in sparsities]
        size = matrix_size(matrix)
        return self.group.places(self.score(matrix)), [self.group.limit(size, share) for share in shares]

    def mask_steps(self, model: ReasoningModel, sparsity: float) -> Steps[Mask]:
        """Build the mask at one sparsity."""
        check_sparsity(sparsity)

        def kept(matrix: Matrix) -> Bool[Tensor, "output input"]:
            return self.group.keep(self.score(matrix), self.allocation.sparsity(matrix.layer, sparsity))

        keep = yield from each_matrix(model, self.scope, "building the mask", kept)
        return mask_from(
            criterion=self.criterion, sparsity=sparsity, scope=self.scope, matrices=self.matrices, keep=keep
        )


def local_ranking(
    model: ReasoningModel,
    request: MaskRequest,
    *,
    criterion: str,
    group: OrderedGroup,
    score: Score,
    allocation: Allocation = UNIFORM,
) -> LocalRanking:
    """Make the ranking of the scope's matrices by `score`."""
    sizes = tuple(matrix_size(matrix) for matrix in scoped_matrices(model, request.scope))
    return LocalRanking(
        criterion=criterion,
        scope=request.scope,
        matrices=sizes,
        group=group,
        allocation=allocation,
        score=score,
    )
