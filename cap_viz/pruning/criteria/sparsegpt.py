"""SparseGPT: prune and repair, column by column, with second-order information (arXiv 2301.00774).

For each matrix, block by block of the model, behind pruned and repaired blocks (`pruning/calibration/sequential.py`):

1. H = sum over all real tokens of x x^T, with 1 % of its mean diagonal added to the diagonal; U is the upper Cholesky
   factor of H^-1 (H^-1 = U^T U).
2. In every 128 columns, prune the `int(size * sparsity)` lowest scores `w^2 / U_jj^2`, in whatever row. With an n:m
   pattern, prune the lowest n of every m neighbours, chosen when their first column is reached.
3. Column by column, subtract the error (`w / U_jj` where w is pruned) times row j of U from the columns to the right:
   within the 128 columns at once, in the rest after them.

Source: `fasterprune` of https://github.com/IST-DASLab/sparsegpt (sparsegpt.py), block order as in its llama.py.
Deviations: the reference also prunes the weight at the last rank and its ties (one weight more per 128 columns, and one
even at sparsity 0), here exactly that many are pruned, ties spread evenly; Cholesky factors are computed in float64;
the reference scales H by 2 / sequences, which cancels; calibration is the task's examples instead of 128 windows of C4.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float

from cap_viz.errors import CapVizError
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps
from cap_viz.pruning.calibration.activations import products
from cap_viz.pruning.calibration.sequential import PrunedMatrix, sequential_steps
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request
from cap_viz.pruning.mask import Mask
from cap_viz.pruning.selection.local_groups import PER_MATRIX, SPARSEGPT_COLUMNS, Pattern, group_for
from cap_viz.pruning.selection.owl import allocated

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel

DAMPING = 0.01

# Prune a block of columns, given its slice, weights and factor: returns the error to propagate and the keep mask.
PruneColumns = Callable[[slice, Tensor, Tensor], tuple[Tensor, Tensor]]


def sparsegpt(
    weight: Float[Tensor, "output input"],
    moments: Float[Tensor, "input input"],
    sparsity: float,
    pattern: Pattern | None = None,
) -> PrunedMatrix:
    """Prune and repair one matrix, given the sum of x x^T of its inputs.

    Weights of inputs that are always 0 become 0, as in the reference. Raises `CapVizError` when H has no inverse.
    """
    if pattern is not None:
        pattern.check(weight.shape[1], sparsity)
    return in_blocks(weight, moments, lambda here, block, factor: prune_columns(block, factor, sparsity, pattern))


def repaired(
    weight: Float[Tensor, "output input"],
    moments: Float[Tensor, "input input"],
    keep: Bool[Tensor, "output input"],
) -> Float[Tensor, "output input"]:
    """Repair a matrix with a given keep mask (steps 1 and 3): the kept weights compensate for the pruned ones."""

    def repair(here: slice, block: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        return repair_columns(block, factor, keep[:, here]), keep[:, here]

    updated = in_blocks(weight, moments, repair).updated
    assert updated is not None
    return updated


def in_blocks(weight: Tensor, moments: Tensor, prune: PruneColumns) -> PrunedMatrix:
    """Prune blocks of columns from left to right, subtracting each block's propagated error from all later columns."""
    import torch

    weight, moments = weight.detach().float().clone(), moments.clone()
    dead = moments.diagonal() == 0
    moments[dead, dead] = 1
    weight[:, dead] = 0
    factor = inverse_factor(moments)
    keep = torch.ones_like(weight, dtype=torch.bool)
    for start in range(0, weight.shape[1], SPARSEGPT_COLUMNS):
        here = slice(start, start + SPARSEGPT_COLUMNS)
        rest = slice(start + SPARSEGPT_COLUMNS, None)
        errors, keep[:, here] = prune(here, weight[:, here], factor[here, here])
        weight[:, rest] -= errors @ factor[here, rest]
    return PrunedMatrix(keep, weight)


def inverse_factor(moments: Float[Tensor, "input input"]) -> Float[Tensor, "input input"]:
    """Upper Cholesky factor of the damped inverse, in float32."""
    import torch

    damped = moments.double()
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    factor, failed = torch.linalg.cholesky_ex(damped)
    upper, failed_again = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
    if int(failed) or int(failed_again):
        raise CapVizError(
            "SparseGPT cannot invert the second moments of some inputs; give other calibration examples or more."
        )
    return upper.float()


def prune_columns(
    block: Float[Tensor, "output column"],
    factor: Float[Tensor, "column column"],
    sparsity: float,
    pattern: Pattern | None,
) -> tuple[Float[Tensor, "output column"], Bool[Tensor, "output column"]]:
    """Prune and repair a block of columns in place; return the error to propagate and the keep mask."""
    import torch

    scale = factor.diagonal().square()
    if pattern is None:
        keep = PER_MATRIX.keep(block.square() / scale, sparsity)
        return repair_columns(block, factor, keep), keep
    keep = torch.ones_like(block, dtype=torch.bool)

    def choose(place: int, columns: Float[Tensor, "column output"]) -> None:
        if place % pattern.length == 0:
            run = slice(place, place + pattern.length)
            keep[:, run] = pattern.keep(columns[run].T.square() / scale[run], sparsity)

    return repair_columns(block, factor, keep, choose), keep


def repair_columns(
    block: Float[Tensor, "output column"],
    factor: Float[Tensor, "column column"],
    keep: Bool[Tensor, "output column"],
    choose: Callable[[int, Tensor], None] | None = None,
) -> Float[Tensor, "output column"]:
    """Repair a block of columns in place; return the error to propagate to the columns on its right.

    `choose` is called before each column with the current columns, and may still change `keep` from there on.
    """
    import torch

    # Transposed, so that updates touch neighbours in memory, which is several times faster.
    columns = block.T.contiguous()
    lost = torch.zeros_like(columns)
    for place in range(len(columns)):
        if choose is not None:
            choose(place, columns)
        lost[place] = (columns[place] / factor[place, place]).masked_fill_(keep[:, place], 0)
        columns[place:].addr_(factor[place, place:], lost[place], alpha=-1)
    block.copy_(columns.T).masked_fill_(~keep, 0)
    return lost.T


def sparsegpt_steps(model: ReasoningModel, request: MaskRequest) -> Steps[Mask]:
    """Build the sequential mask with its updated weights."""
    check_request(SPARSEGPT, request, model.shape)
    pattern = group_for(request.pattern, PER_MATRIX)

    def prune(matrix: Matrix, moments: Float[Tensor, "input input"], sparsity: float) -> PrunedMatrix:
        return sparsegpt(matrix.weight, moments, sparsity, pattern if isinstance(pattern, Pattern) else None)

    pruned = partial(sequential_steps, model, request, criterion="sparsegpt", measure=products, prune=prune)
    return (yield from allocated(model, request, pruned))


SPARSEGPT = Criterion(
    name="sparsegpt",
    title="SparseGPT",
    summary="Second-order scores in blocks of 128 columns; the weights that stay are adjusted to make up for the rest.",
    source="SparseGPT, arXiv 2301.00774; IST-DASLab/sparsegpt, fasterprune",
    needs_scores=False,
    needs_calibration=True,
    threshold="per column block",
    steps=sparsegpt_steps,
    allocations=True,
    patterns=True,
)
