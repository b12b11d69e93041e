"""Block-by-block calibration: each block's inputs are measured behind earlier blocks that are dense or pruned.

1. Feed the calibration rows to block 0.
2. Run block i dense on its inputs and sum a statistic of each matrix's inputs over all real tokens.
3. Prune the matrices of block i by these sums, as the criterion says.
4. Run block i pruned on the same inputs: its outputs are the inputs of block i + 1. Back to 2.

`dense_sums` leaves out 3 and 4: every block is measured behind dense ones, for scores that are thresholded later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress, Steps
from cap_viz.pruning.calibration.activations import (
    InputSums,
    Measure,
    block_calls,
    calibration_batches,
    calibration_rows,
    plain_batch,
)
from cap_viz.pruning.criterion import UNIFORM, Allocation, MaskRequest
from cap_viz.pruning.mask import Mask, layer_groups, mask_from, matrix_size, scoped_matrices

if TYPE_CHECKING:
    from cap_viz.attribution.forward.dense_pass import BlockCall
    from cap_viz.attribution.forward.packing import PackedBatch
    from cap_viz.models.loading import Matrix, ReasoningModel
    from cap_viz.tasks.base import Example

STEP_SECONDS = 0.5


@dataclass(frozen=True)
class PrunedMatrix:
    """Keep mask of a matrix, and its new weights where the criterion updates them."""

    keep: Bool[Tensor, "output input"]
    updated: Float[Tensor, "output input"] | None = None


# Choose what to prune in one matrix, given its summed activation statistic and the sparsity.
Prune = Callable[["Matrix", Tensor, float], PrunedMatrix]


@dataclass
class CalibrationBatch:
    """A batch on its way through the blocks: the call of each block, and the input of the next one."""

    packed: PackedBatch
    calls: tuple[BlockCall, ...]
    hidden: Float[Tensor, "row position d_model"]


def sequential_steps(
    model: ReasoningModel,
    request: MaskRequest,
    allocation: Allocation = UNIFORM,
    *,
    criterion: str,
    measure: Measure,
    prune: Prune,
) -> Steps[Mask]:
    """Build the sequential mask. Between steps every block is dense: block i is pruned only while it runs."""
    matrices = scoped_matrices(model, request.scope)
    sizes = tuple(matrix_size(matrix) for matrix in matrices)
    groups = layer_groups(matrices)
    total = len(groups) + 1
    batches = yield from first_inputs(model, request.calibration or (), total)
    keep: dict[str, Bool[Tensor, "output input"]] = {}
    updated: dict[str, Float[Tensor, "output input"]] = {}
    for layer, group in enumerate(groups):
        progress = Progress(layer + 1, total, f"pruning block {layer + 1} of {len(groups)}")
        sums = yield from measured_block(model, layer, batches, progress, group, measure, hand_on=False)
        pruned: dict[str, PrunedMatrix] = {}
        for matrix in group:
            with model.lease:
                share = allocation.sparsity(matrix.layer, request.sparsity)
                pruned[matrix.name] = prune(matrix, sums.pop(matrix.name), share)
            yield progress
        keep_here = {name: one.keep for name, one in pruned.items()}
        updated_here = {name: one.updated for name, one in pruned.items() if one.updated is not None}
        if layer + 1 < len(groups):
            with model.lease:
                weights = model.pruned_weights(keep_here, updated_here)
            yield from measured_block(model, layer, batches, progress, (), measure, weights=weights, hand_on=True)
        keep |= keep_here
        updated |= updated_here
    return mask_from(
        criterion=criterion,
        sparsity=request.sparsity,
        scope=request.scope,
        matrices=sizes,
        keep=keep,
        updated=updated,
    )


def dense_sums(model: ReasoningModel, request: MaskRequest, measure: Measure) -> Steps[dict[str, Tensor]]:
    """Sum a statistic of the inputs of every matrix of the scope, in one pass of the dense model."""
    groups = layer_groups(scoped_matrices(model, request.scope))
    total = len(groups) + 1
    batches = yield from first_inputs(model, request.calibration or (), total)
    sums: dict[str, Tensor] = {}
    for layer, group in enumerate(groups):
        progress = Progress(layer + 1, total, f"measuring block {layer + 1} of {len(groups)}")
        sums |= yield from measured_block(model, layer, batches, progress, group, measure, hand_on=True)
    return sums


def first_inputs(model: ReasoningModel, examples: Sequence[Example], total: int) -> Steps[list[CalibrationBatch]]:
    """Prepare the calibration batches: the input of block 0, and the other arguments of each block's call."""
    import torch

    batches: list[CalibrationBatch] = []
    for rows in tokenised(model, examples):
        with model.lease, torch.no_grad():
            packed = plain_batch(model, rows)
            calls = block_calls(model, packed)
        batches.append(CalibrationBatch(packed=packed, calls=calls, hidden=calls[0].hidden))
        yield Progress(0, total, "reading the calibration examples")
    return batches


def tokenised(model: ReasoningModel, examples: Sequence[Example]) -> list[list[tuple[int, ...]]]:
    """Tokenise the examples into batches of calibration rows."""
    with model.lease:
        return calibration_batches(calibration_rows(model, examples))


def measured_block(
    model: ReasoningModel,
    layer: int,
    batches: Sequence[CalibrationBatch],
    progress: Progress,
    matrices: Sequence[Matrix],
    measure: Measure,
    *,
    weights: Mapping[str, Tensor] | None = None,
    hand_on: bool,
) -> Steps[dict[str, Tensor]]:
    """Run a block on every batch, with `weights` in place of its own; return the sums of `measure` for `matrices`.

    With `hand_on`, the outputs become the batches' `hidden`, the inputs of the next block.
    """
    import torch

    from cap_viz.attribution.forward.replay import run_block

    sums = InputSums(measure)
    waiting = deque(batches)
    while waiting:
        with model.swapped(weights or {}), torch.no_grad():
            deadline = monotonic() + STEP_SECONDS
            while waiting and monotonic() < deadline:
                batch = waiting.popleft()
                with sums.collected(matrices, batch.packed):
                    output = run_block(model, layer, batch.calls[layer], batch.hidden)
                if hand_on:
                    batch.hidden = output
        yield progress
    return sums.sums
