"""One global threshold over all matrices, exact, without ever holding all scores at once.

Non-negative float32 numbers are ordered like their bit patterns read as integers, so the k-th smallest score
is found by radix selection:

1. Rank: per matrix, a histogram over the high 16 bits below the sign (exponent and 8 bits of mantissa).
2. The summed histogram says in which bin the k-th score lies, k = round(sparsity * weights). A second pass
   makes a histogram over the low 15 bits inside that bin, which gives the threshold exactly.
3. A third pass builds the mask: scores up to the threshold are pruned.

Ties: always exactly k weights are pruned. Zeros among scores equal to the threshold are divided over the matrices
in proportion to their number there, and spread evenly inside a matrix in row-major order, so that a coarsely
quantised model does not lose its ties in the first layers only. Every score below the threshold is pruned.

Extra memory: the scores of one matrix, and while ranking 256 KB per matrix (55 MB for 210 matrices).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from cap_viz.errors import CapVizError
from cap_viz.models.loading import Matrix, ReasoningModel
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps, portion
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
)

Score = Callable[[Matrix], Float[Tensor, "output input"]]

LOW_BITS = 15
N_BINS = 1 << 16
N_LOW = 1 << LOW_BITS
INFINITY_BITS = 0x7F800000


@dataclass(frozen=True)
class GlobalCut:
    """Exact cut: prune scores below `threshold`, and `tie_zeros[m]` of the `ties[m]` equal to it in matrix m.

    `zeros` is the number pruned from each matrix, ties included. `threshold` is -1 when nothing is pruned.
    """

    threshold: float
    zeros: Int[np.ndarray, " matrix"]
    ties: Int[np.ndarray, " matrix"]
    tie_zeros: Int[np.ndarray, " matrix"]


@dataclass(frozen=True)
class GlobalRanking:
    """Histogram of the scores: `histogram[m, i]` scores of matrix m have `bins[i]` as their high 16 bits."""

    criterion: str
    scope: Scope
    matrices: tuple[MatrixSize, ...]
    score: Score = field(repr=False, compare=False)
    bins: Int[np.ndarray, " bin"] = field(repr=False, compare=False)
    histogram: Int[np.ndarray, "matrix bin"] = field(repr=False, compare=False)

    @property
    def total(self) -> int:
        """Number of weights in the scope."""
        return sum(matrix.size for matrix in self.matrices)

    @cached_property
    def before(self) -> Int[np.ndarray, "matrix bin"]:
        """Number of scores of each matrix in the bins before each bin."""
        return counted_before(self.histogram)

    def profile(self, sparsities: Sequence[float]) -> ZeroCounts:
        """Estimate zeros per matrix at each sparsity, from the histogram alone.

        Their sum is exact. The bin that is cut is 0.4 % of a score wide and divided in proportion: for SmolLM2, a
        matrix's sparsity differs by at most 0.05 percentage points from its mask's (0.01 on average).
        """
        zeros = np.zeros((len(sparsities), len(self.matrices)), dtype=np.int64)
        for row, sparsity in enumerate(sparsities):
            check_sparsity(sparsity)
            wanted = round(sparsity * self.total)
            at, below = locate(self.before, wanted)
            zeros[row] = below + split(wanted - int(below.sum()), self.histogram[:, at])
        return ZeroCounts(sparsities=np.asarray(sparsities, dtype=np.float64), matrices=self.matrices, zeros=zeros)

    def mask_steps(self, model: ReasoningModel, sparsity: float) -> Steps[Mask]:
        """Build the mask at one sparsity: one pass refines the threshold, one compares."""
        cut = yield from portion(self.cut_steps(model, sparsity), 0, 2)
        spared = dict(zip((matrix.name for matrix in self.matrices), (cut.ties - cut.tie_zeros).tolist(), strict=True))

        def kept(matrix: Matrix) -> Bool[Tensor, "output input"]:
            return kept_above(self.score(matrix), cut.threshold, spared[matrix.name])

        keep = yield from portion(each_matrix(model, self.scope, "building the mask", kept), 1, 2)
        return mask_from(
            criterion=self.criterion, sparsity=sparsity, scope=self.scope, matrices=self.matrices, keep=keep
        )

    def rank_and_cutoffs(
        self, matrix: Matrix, sparsities: Sequence[float]
    ) -> tuple[Int[Tensor, "output input"], list[int]]:
        """Bit patterns of the scores, and of the threshold per sparsity, interpolated inside the bin that is cut."""
        limits: list[int] = []
        for sparsity in sparsities:
            check_sparsity(sparsity)
            wanted = round(sparsity * self.total)
            at, below = locate(self.before, wanted)
            inside = ((wanted - int(below.sum())) << LOW_BITS) // int(self.histogram[:, at].sum())
            limits.append((int(self.bins[at]) << LOW_BITS) + inside)
        return score_bits(self.score(matrix)).reshape(matrix.weight.shape), limits

    def cut_steps(self, model: ReasoningModel, sparsity: float) -> Steps[GlobalCut]:
        """Find the exact threshold for `round(sparsity * total)` zeros, and how many of them each matrix gets."""
        check_sparsity(sparsity)
        wanted = round(sparsity * self.total)
        if wanted == 0:
            none = np.zeros(len(self.matrices), dtype=np.int64)
            return GlobalCut(threshold=-1.0, zeros=none, ties=none, tie_zeros=none)
        at, below = locate(self.before, wanted)
        high = int(self.bins[at])

        def count(matrix: Matrix) -> Int[np.ndarray, " low"]:
            return low_histogram(self.score(matrix), high)

        rows = yield from each_matrix(model, self.scope, "finding the threshold", count)
        inside = np.stack(list(rows.values()))
        low, more = locate(counted_before(inside), wanted - int(below.sum()))
        below = below + more
        ties = inside[:, low].astype(np.int64)
        tie_zeros = split(wanted - int(below.sum()), ties)
        threshold = float(np.array((high << LOW_BITS) | low, dtype=np.int32).view(np.float32))
        return GlobalCut(threshold=threshold, zeros=below + tie_zeros, ties=ties, tie_zeros=tie_zeros)


def rank_steps(model: ReasoningModel, *, criterion: str, scope: Scope, score: Score) -> Steps[GlobalRanking]:
    """Rank the weights of the scope by a non-negative float32 score of each matrix."""
    sizes = tuple(matrix_size(matrix) for matrix in scoped_matrices(model, scope))
    rows = yield from each_matrix(model, scope, "ranking weights", lambda matrix: high_histogram(score(matrix)))
    histogram = np.stack(list(rows.values()))
    bins = np.flatnonzero(histogram.any(axis=0))
    if bins[-1] >= INFINITY_BITS >> LOW_BITS:
        raise CapVizError(f"Some weights have a {criterion} score that is not a finite number; check its inputs.")
    return GlobalRanking(
        criterion=criterion,
        scope=scope,
        matrices=sizes,
        score=score,
        bins=bins,
        histogram=histogram[:, bins],
    )


def score_bits(score: Float[Tensor, "output input"]) -> Int[Tensor, " weight"]:
    """The scores' bit patterns in row-major order: integers in the same order as the scores."""
    import torch

    return score.detach().to(torch.float32).contiguous().view(torch.int32).reshape(-1)


def high_histogram(score: Float[Tensor, "output input"]) -> Int[np.ndarray, " bin"]:
    """Count the scores with each pattern of high bits."""
    return (score_bits(score) >> LOW_BITS).bincount(minlength=N_BINS).cpu().numpy().astype(np.int32)


def low_histogram(score: Float[Tensor, "output input"], high: int) -> Int[np.ndarray, " low"]:
    """Count the scores with these high bits and each pattern of low bits."""
    bits = score_bits(score)
    inside = bits[(bits >> LOW_BITS) == high] & (N_LOW - 1)
    return inside.bincount(minlength=N_LOW).cpu().numpy().astype(np.int32)


def kept_above(score: Float[Tensor, "output input"], threshold: float, spared: int) -> Bool[Tensor, "output input"]:
    """Keep scores above the threshold, and `spared` of those equal to it, spread evenly in row-major order."""
    import torch

    keep = score > threshold
    if spared:
        tied = (score.reshape(-1) == threshold).nonzero().reshape(-1)
        chosen = torch.arange(spared, device=tied.device) * len(tied) // spared
        keep.view(-1)[tied[chosen]] = True
    return keep


def counted_before(histogram: Int[np.ndarray, "matrix bin"]) -> Int[np.ndarray, "matrix bin"]:
    """Sum, per matrix, over the bins before each bin."""
    before = np.zeros(histogram.shape, dtype=np.int64)
    np.cumsum(histogram[:, :-1], axis=1, out=before[:, 1:])
    return before


def locate(before: Int[np.ndarray, "matrix bin"], wanted: int) -> tuple[int, Int[np.ndarray, " matrix"]]:
    """Find the bin of the `wanted`-th lowest score, and how many scores of each matrix lie before that bin."""
    at = max(int(np.searchsorted(before.sum(axis=0), wanted)) - 1, 0)
    return at, before[:, at]


def split(wanted: int, counts: Int[np.ndarray, " matrix"]) -> Int[np.ndarray, " matrix"]:
    """Divide `wanted` <= sum(counts) in proportion to `counts`, into whole numbers, none above its count."""
    # Python's integers: the product passes 64 bits when billions of weights share one score.
    total, edge, before = int(counts.sum()), 0, 0
    parts: list[int] = []
    for count in counts.tolist():
        edge += count
        after = wanted * edge // max(total, 1)
        parts.append(after - before)
        before = after
    return np.array(parts, dtype=np.int64)
