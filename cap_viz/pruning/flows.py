"""What flows into every matrix, and how the answer depends on what comes out: sums over calibration tokens.

For a matrix W let x_t be its input at token t and d_t the gradient of the answer loss (metric nll) with respect to its
output there, so that the gradient of W is the sum of d_t x_t^T over tokens. One forward and one backward pass for each
example give three vectors for each matrix, in float64, and a matrix in float32:

inputs     sum of x_tj^2: what Wanda's norm is the root of
slopes     sum of d_ti^2: with `inputs` the diagonal of a Kronecker-factored Fisher matrix (Martens and Grosse,
           arXiv 1503.05671), the gradient's size if inputs and slopes were independent
weighted   sum of |d_t|^2 x_tj^2: inputs, with each token counting as much as the answer depends on the output there
products   sum of d_ti^2 x_tj^2: the squared gradients if tokens were examples of their own
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from cap_viz.progress import Progress
from cap_viz.pruning.base import Steps
from cap_viz.pruning.gradients import ScoredRow, check_gradients, row_loss

if TYPE_CHECKING:
    from torch import Tensor

    from cap_viz.models import Matrix, ReasoningModel


@dataclass
class Flow:
    """The sums of one matrix over `tokens` tokens."""

    inputs: Float[Tensor, " input"]
    slopes: Float[Tensor, " output"]
    weighted: Float[Tensor, " input"]
    products: Float[Tensor, "output input"]
    tokens: int = 0

    def add(self, inputs: Float[Tensor, "token input"], slopes: Float[Tensor, "token output"]) -> None:
        x, d = inputs.double().square(), slopes.double().square()
        self.inputs += x.sum(dim=0)
        self.slopes += d.sum(dim=0)
        self.weighted += d.sum(dim=1) @ x
        self.products += d.T.float() @ x.float()
        self.tokens += len(x)


def flow_steps(model: ReasoningModel, matrices: Sequence[Matrix], rows: Sequence[ScoredRow]) -> Steps[dict[str, Flow]]:
    """The sums of every matrix, by its name; a row a step. Raises `CapVizError` when one is not finite."""
    with model.lease:
        flows = {matrix.name: empty_flow(matrix) for matrix in matrices}
    for number, row in enumerate(rows):
        with model.lease:
            add_row(model, matrices, row, flows)
        yield Progress(number + 1, len(rows), "measuring inputs and output gradients")
    check_gradients(model, (flow.weighted for flow in flows.values()))
    return flows


def empty_flow(matrix: Matrix) -> Flow:
    import torch

    outputs, inputs = matrix.weight.shape

    def zeros(size: int) -> Tensor:
        return torch.zeros(size, dtype=torch.float64, device=matrix.weight.device)

    products = torch.zeros(outputs, inputs, device=matrix.weight.device)
    return Flow(inputs=zeros(inputs), slopes=zeros(outputs), weighted=zeros(inputs), products=products)


def add_row(model: ReasoningModel, matrices: Sequence[Matrix], row: ScoredRow, flows: dict[str, Flow]) -> None:
    """One forward and one backward pass without gradients of weights. Hold the lease."""
    import torch

    from cap_viz.engine.capture import removed
    from cap_viz.engine.gradient import start_of_graph, weights_frozen

    with torch.enable_grad(), weights_frozen(model), ExitStack() as stack:
        stack.enter_context(removed(model.blocks[0].register_forward_pre_hook(start_of_graph, with_kwargs=True)))
        for matrix in matrices:
            stack.enter_context(removed(matrix.module.register_forward_hook(watching(flows[matrix.name]))))
        row_loss(model, row).backward()


def watching(flow: Flow) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
    """A forward hook that adds inputs and output gradients once the backward pass has the latter."""

    def watch(module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs = args[0].detach().flatten(0, -2)
        output.register_hook(lambda slope: flow.add(inputs, slope.flatten(0, -2)))

    return watch
