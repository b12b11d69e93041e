"""Wanda: in every output row, the weights with the smallest |W_ij| * ||X_j||_2 go (arXiv 2306.11695).

Sequential, as `prune_wanda` of https://github.com/locuslab/wanda (lib/prune.py, lib/layerwrapper.py):

1. Feed the calibration rows to block 0.
2. Run block i dense on its inputs and sum the squared inputs X_j of each matrix over all real tokens.
3. In each row of each matrix the lowest `int(C_in * sparsity)` scores go (10 % of 576 columns is 57, so 9.9 %
   is reached); of equal scores the left one first.
4. Run block i pruned on the same inputs: its outputs are the inputs of block i + 1. Back to 2.

One-shot is ours: the same score with every X taken from the dense model, so that any sparsity is a threshold.

Deviations: calibration is the task's examples (prompt and gold option) instead of 128 windows of C4, and the
reference divides the sum of squares by the number of sequences, which changes no order within a row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
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

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from cap_viz.engine.capture import BlockCall
    from cap_viz.engine.packing import PackedBatch
    from cap_viz.models import Matrix, ReasoningModel
    from cap_viz.tasks.base import Example

STEP_SECONDS = 0.5


def wanda_score(weight: Float[Tensor, "output input"], norm: Float[Tensor, " input"]) -> Float[Tensor, "output input"]:
    """|W_ij| * ||X_j||_2."""
    return weight.detach().float().abs().mul_(norm)


def keep_largest_per_row(score: Float[Tensor, "output input"], sparsity: float) -> Bool[Tensor, "output input"]:
    """All but the `int(columns * sparsity)` lowest scores of each row; of equal ones the left goes first."""
    n_zeros = int(score.shape[1] * sparsity)
    if n_zeros == 0:
        return score > -1
    keep = score > score.kthvalue(n_zeros, dim=-1, keepdim=True).values
    # The reference sorts every row. Selecting is four times faster and leaves only ties to a sort.
    for row in ((~keep).sum(dim=-1) > n_zeros).nonzero().reshape(-1).tolist():
        keep[row] = True
        keep[row, score[row].sort(stable=True).indices[:n_zeros]] = False
    return keep


def row_profile(matrices: Sequence[MatrixSize], sparsities: Sequence[float]) -> ZeroCounts:
    """Zeros per matrix at each sparsity; exact, and the same for both variants."""
    for sparsity in sparsities:
        check_sparsity(sparsity)
    zeros = [[matrix.rows * int(matrix.columns * sparsity) for matrix in matrices] for sparsity in sparsities]
    return zero_counts(sparsities, matrices, zeros)


@dataclass
class CalibrationBatch:
    """A batch on its way through the blocks: how each block is called, and the input of the next one."""

    packed: PackedBatch
    calls: tuple[BlockCall, ...]
    hidden: Float[Tensor, "row position d_model"]


def wanda_steps(model: ReasoningModel, request: MaskRequest) -> Steps[Mask]:
    """The sequential mask. Between steps every block is dense: block i is pruned only while it runs."""
    check_request(WANDA, request, model.shape)
    matrices = scoped_matrices(model, request.scope)
    sizes = tuple(matrix_size(matrix) for matrix in matrices)
    groups = layer_groups(matrices)
    total = len(groups) + 1
    batches = yield from first_inputs(model, request.calibration or (), total)
    keep: dict[str, Bool[Tensor, "output input"]] = {}
    for layer, group in enumerate(groups):
        progress = Progress(layer + 1, total, f"pruning block {layer + 1} of {len(groups)}")
        norms = yield from through_block(model, layer, batches, progress, measured=group, hand_on=False)
        with model.lease:
            pruned = keep_of_block(group, norms, request.sparsity)
            weights = model.pruned_weights(pruned)
        keep |= pruned
        yield progress
        if layer + 1 < len(groups):
            yield from through_block(model, layer, batches, progress, weights=weights, hand_on=True)
    return mask_from(criterion="wanda", sparsity=request.sparsity, scope=request.scope, matrices=sizes, keep=keep)


def first_inputs(model: ReasoningModel, examples: Sequence[Example], total: int) -> Steps[list[CalibrationBatch]]:
    """Step 1: the input of block 0, and with which further arguments the model calls each block."""
    import torch

    from cap_viz.pruning.activations import block_calls, plain_batch

    batches: list[CalibrationBatch] = []
    for rows in tokenised(model, examples):
        with model.lease, torch.no_grad():
            packed = plain_batch(model, rows)
            calls = block_calls(model, packed)
        batches.append(CalibrationBatch(packed=packed, calls=calls, hidden=calls[0].hidden))
        yield Progress(0, total, "reading the calibration examples")
    return batches


def tokenised(model: ReasoningModel, examples: Sequence[Example]) -> list[list[tuple[int, ...]]]:
    """The calibration rows in batches."""
    from cap_viz.pruning.activations import calibration_batches, calibration_rows

    with model.lease:
        return calibration_batches(calibration_rows(model, examples))


def through_block(
    model: ReasoningModel,
    layer: int,
    batches: Sequence[CalibrationBatch],
    progress: Progress,
    *,
    weights: Mapping[str, Tensor] | None = None,
    measured: Sequence[Matrix] = (),
    hand_on: bool,
) -> Steps[dict[str, Float[Tensor, " input"]]]:
    """Run a block on every batch, `weights` in place of its own; gives the input norms of `measured`.

    With `hand_on` the outputs become the batches' `hidden`, the inputs of the next block.
    """
    import torch

    from cap_viz.engine.replay import run_block
    from cap_viz.pruning.activations import InputSquares

    squares = InputSquares()
    waiting = deque(batches)
    while waiting:
        with model.swapped(weights or {}), torch.no_grad():
            deadline = monotonic() + STEP_SECONDS
            while waiting and monotonic() < deadline:
                batch = waiting.popleft()
                with squares.collected(measured, batch.packed):
                    output = run_block(model, layer, batch.calls[layer], batch.hidden)
                if hand_on:
                    batch.hidden = output
        yield progress
    return squares.norms()


@dataclass(frozen=True)
class OneShotRanking:
    """The norms of the dense model's activations; a score is a product away."""

    scope: Scope
    matrices: tuple[MatrixSize, ...]
    norms: Mapping[str, Float[Tensor, " input"]] = field(repr=False, compare=False)

    def profile(self, sparsities: Sequence[float]) -> ZeroCounts:
        """Zeros per matrix at each sparsity; exact."""
        return row_profile(self.matrices, sparsities)

    def mask_steps(self, model: ReasoningModel, sparsity: float) -> Steps[Mask]:
        """The mask at one sparsity."""
        check_sparsity(sparsity)
        keep: dict[str, Bool[Tensor, "output input"]] = {}
        groups = layer_groups(scoped_matrices(model, self.scope))
        for index, group in enumerate(groups):
            with model.lease:
                keep |= keep_of_block(group, self.norms, sparsity)
            yield Progress(index + 1, len(groups), "building the mask")
        return mask_from(
            criterion="wanda_oneshot", sparsity=sparsity, scope=self.scope, matrices=self.matrices, keep=keep
        )


def keep_of_block(
    group: Sequence[Matrix], norms: Mapping[str, Float[Tensor, " input"]], sparsity: float
) -> dict[str, Bool[Tensor, "output input"]]:
    """What stays of each matrix of a block."""
    return {
        matrix.name: keep_largest_per_row(wanda_score(matrix.weight, norms[matrix.name]), sparsity) for matrix in group
    }


def rank_oneshot(model: ReasoningModel, request: MaskRequest) -> Steps[OneShotRanking]:
    """Input norms of every matrix from one pass of the dense model."""
    check_request(WANDA_ONESHOT, request, model.shape)
    matrices = scoped_matrices(model, request.scope)
    sizes = tuple(matrix_size(matrix) for matrix in matrices)
    groups = layer_groups(matrices)
    total = len(groups) + 1
    batches = yield from first_inputs(model, request.calibration or (), total)
    norms: dict[str, Float[Tensor, " input"]] = {}
    for layer, group in enumerate(groups):
        progress = Progress(layer + 1, total, f"measuring block {layer + 1} of {len(groups)}")
        norms |= yield from through_block(model, layer, batches, progress, measured=group, hand_on=True)
    return OneShotRanking(scope=request.scope, matrices=sizes, norms=norms)


WANDA = Criterion(
    name="wanda",
    title="Wanda",
    summary="Magnitude times input norm, the same share in each row; blocks measured behind pruned ones.",
    source="Wanda, arXiv 2306.11695; locuslab/wanda, prune_wanda",
    needs_scores=False,
    needs_calibration=True,
    threshold="per row",
    steps=wanda_steps,
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
)
