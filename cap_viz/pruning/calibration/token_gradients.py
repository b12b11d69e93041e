"""Per-token inputs and output gradients of every matrix, one backward pass per row.

For a matrix W let x_t be its input at token t and d_t the gradient of the row's loss with respect to its output there;
the gradient of W is the sum of d_t x_t^T over the tokens of the row. If tokens were examples of their own, the squared
gradients would sum to `sum over t of d_ti^2 x_tj^2`, one product of two matrices. `root_token_squares` computes the
root of this sum: thousands of samples, where gradients of whole rows (`gradients.py`) give one per row, and no weight
gradient is ever formed.

Sums are kept in float32 for as many matrices at once as `gradients.SUM_BYTES` holds, then as roots in half precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps
from cap_viz.pruning.calibration.gradients import HalfMatrix, ScoredRow, Sums, root_sums, row_loss

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel

# Callback for the inputs [token, input] of a matrix and the gradients [token, output] of its outputs.
Take = Callable[[Tensor, Tensor], None]


def root_token_squares(
    model: ReasoningModel, matrices: Sequence[Matrix], rows: Sequence[ScoredRow]
) -> Steps[dict[str, HalfMatrix]]:
    """Compute the root of the sum over all tokens of `d_i^2 x_j^2` for each weight, one row per step.

    Raises `CapVizError` when a sum is not finite.
    """

    def add_row(model: ReasoningModel, portion: Sequence[Matrix], row: ScoredRow, sums: Sums) -> None:
        take_row(model, portion, row, {name: adding(total) for name, total in sums.items()})

    return root_sums(model, matrices, rows, add_row, "measuring gradients at every token")


def adding(total: Float[Tensor, "output input"]) -> Take:
    """Return a callback that adds the squared weight gradients of each token to `total`."""

    def add(inputs: Float[Tensor, "token input"], slopes: Float[Tensor, "token output"]) -> None:
        total.addmm_(slopes.float().square().T, inputs.float().square())

    return add


def take_row(model: ReasoningModel, matrices: Sequence[Matrix], row: ScoredRow, takers: Mapping[str, Take]) -> None:
    """Run one forward and one backward pass without weight gradients. Hold the lease."""
    import torch

    from cap_viz.attribution.forward.backward import start_of_graph, weights_frozen

    with torch.enable_grad(), weights_frozen(model), ExitStack() as stack:
        stack.enter_context(model.blocks[0].register_forward_pre_hook(start_of_graph, with_kwargs=True))
        for matrix in matrices:
            stack.enter_context(matrix.module.register_forward_hook(watching(takers[matrix.name])))
        row_loss(model, row).backward()


def watching(take: Take) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
    """Return a forward hook that passes inputs and output gradients to `take` during the backward pass."""

    def watch(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = args[0].detach().flatten(0, -2)

        def hand_on(slope: Tensor) -> None:
            take(inputs, slope.flatten(0, -2))

        output.register_hook(hand_on)

    return watch
