"""Sums of squared weight gradients of a loss, example by example, in bounded memory.

1. One forward and one backward pass per example (the gradients of different examples must not be summed before
   squaring), in float32 on the dense model.
2. Each matrix's gradient is squared, added and dropped as soon as autograd has it: besides the sums, memory never
   holds more than one matrix's gradient.
3. Sums are kept in float32 while they grow, for as many matrices at once as `SUM_BYTES` holds, then as roots in half
   precision with one scale per matrix: 2 bytes per weight.

Only the requested matrices collect gradients, and only while the lease is held: between steps every parameter is as
it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress, Steps
from cap_viz.pruning.calibration.activations import MAX_ROW_TOKENS, gold_tokens, plain_batch

if TYPE_CHECKING:
    import torch

    from cap_viz.models.loading import Matrix, ReasoningModel
    from cap_viz.tasks.base import Example

SUM_BYTES = 2 << 30


@dataclass(frozen=True)
class ScoredRow:
    """Token ids of one sequence; the loss is the mean cross-entropy of the tokens from `first` on."""

    tokens: tuple[int, ...]
    first: int


# Float32 sums by the matrix's name, and a function that adds what one row contributes.
Sums = dict[str, Tensor]
AddRow = Callable[["ReasoningModel", "Sequence[Matrix]", ScoredRow, Sums], None]


@dataclass(frozen=True)
class HalfMatrix:
    """A matrix in half precision: `values * scale`, with the largest value at 1."""

    values: Float[Tensor, "output input"]
    scale: float

    def full(self) -> Float[Tensor, "output input"]:
        """The matrix in float32."""
        return self.values.float().mul_(self.scale)


def answer_rows(model: ReasoningModel, examples: Sequence[Example]) -> list[ScoredRow]:
    """Rows of prompt and gold option, with the option's tokens scored: the metric nll.

    Raises `UsageError` when an answer lies beyond the 2,048 tokens a row is cut to.
    """
    rows: list[ScoredRow] = []
    for example in examples:
        tokens, first = gold_tokens(model, example)
        if first >= MAX_ROW_TOKENS:
            raise UsageError(
                f"Example {example.id!r} has {len(tokens)} tokens and is cut to {MAX_ROW_TOKENS}, which leaves "
                "nothing of its answer; leave it out."
            )
        rows.append(ScoredRow(tokens[:MAX_ROW_TOKENS], first))
    return rows


def whole_rows(model: ReasoningModel, examples: Sequence[Example]) -> list[ScoredRow]:
    """Rows of prompt and gold option as plain text, every token but the first scored: the language-modelling loss."""
    return [replace(row, first=1) for row in answer_rows(model, examples)]


def root_square_sums(
    model: ReasoningModel, matrices: Sequence[Matrix], rows: Sequence[ScoredRow]
) -> Steps[dict[str, HalfMatrix]]:
    """Compute the root of the summed squared gradients of each weight, one row per step."""
    return root_sums(model, matrices, rows, add_squares, "measuring gradients")


def root_sums(
    model: ReasoningModel, matrices: Sequence[Matrix], rows: Sequence[ScoredRow], add_row: AddRow, note: str
) -> Steps[dict[str, HalfMatrix]]:
    """Compute the roots of the sums that `add_row` adds up, one row per step.

    Raises `CapVizError` when a sum is not finite.
    """
    import torch

    portions = portions_of(matrices)
    found: dict[str, HalfMatrix] = {}
    for index, portion in enumerate(portions):
        sums = {matrix.name: torch.zeros_like(matrix.weight, dtype=torch.float32) for matrix in portion}
        for number, row in enumerate(rows):
            with model.lease:
                add_row(model, portion, row, sums)
            yield Progress(index + (number + 1) / len(rows), len(portions), note)
        if not all(bool(total.isfinite().all()) for total in sums.values()):
            raise CapVizError(
                f"{model.ref.id} gave gradients that are not finite; its weights or dtype are broken, run doctor."
            )
        for matrix in portion:
            found[matrix.name] = halved(sums.pop(matrix.name).sqrt_())
    return found


def portions_of(matrices: Sequence[Matrix]) -> list[list[Matrix]]:
    """Group consecutive matrices so that their float32 sums fit into `SUM_BYTES`; a larger one is alone."""
    portions: list[list[Matrix]] = []
    room = 0
    for matrix in matrices:
        size = 4 * matrix.weight.numel()
        if not portions or size > room:
            portions.append([])
            room = SUM_BYTES
        portions[-1].append(matrix)
        room -= size
    return portions


def add_squares(model: ReasoningModel, matrices: Sequence[Matrix], row: ScoredRow, sums: Sums) -> None:
    """Add the squared gradients of one forward and backward pass. Hold the lease."""
    import torch

    def add(matrix: Matrix, gradient: Tensor) -> None:
        sums[matrix.name] += gradient.float().square()

    with torch.enable_grad(), gradients_of(model, matrices, add):
        row_loss(model, row).backward()


def row_loss(model: ReasoningModel, row: ScoredRow) -> Float[Tensor, ""]:
    """Mean cross-entropy of the scored tokens, in nats. Hold the lease."""
    import torch

    from cap_viz.attribution.forward.dense_pass import dense_pass

    batch = plain_batch(model, [row.tokens])
    final = dense_pass(model, batch, keep_calls=False).final
    logits = model.bridge.unembed(model.bridge.ln_final(final[0, row.first - 1 : -1])).float()
    return torch.nn.functional.cross_entropy(logits, batch.tokens[0, row.first :])


@contextmanager
def gradients_of(
    model: ReasoningModel, matrices: Sequence[Matrix], add: Callable[[Matrix, Tensor], None]
) -> Iterator[None]:
    """While open, compute gradients of these weights and no other parameter; pass each to `add`, then drop it."""
    before = [(parameter, parameter.requires_grad) for parameter in model.bridge.parameters()]
    kept = {matrix.name: matrix.weight.grad for matrix in matrices}
    with ExitStack() as stack:
        try:
            for parameter, _ in before:
                parameter.requires_grad_(False)
            for matrix in matrices:
                matrix.weight.requires_grad_(True)
                matrix.weight.grad = None
                stack.callback(matrix.weight.register_post_accumulate_grad_hook(taker(matrix, add)).remove)
            yield
        finally:
            for matrix in matrices:
                matrix.weight.grad = kept[matrix.name]
            for parameter, required in before:
                parameter.requires_grad_(required)


def taker(matrix: Matrix, add: Callable[[Matrix, Tensor], None]) -> Callable[[torch.Tensor], None]:
    """Return a hook that passes a matrix's gradient to `add` and frees it."""

    def take(weight: torch.Tensor) -> None:
        assert weight.grad is not None
        add(matrix, weight.grad.detach())
        weight.grad = None

    return take


def halved(values: Float[Tensor, "output input"]) -> HalfMatrix:
    """Convert a matrix to half precision; a matrix of zeros has scale 1."""
    scale = float(values.max()) or 1.0
    return HalfMatrix((values / scale).half(), scale)


def gradient_steps(
    model: ReasoningModel,
    matrices: Sequence[Matrix],
    examples: Sequence[Example],
    rows_of: Callable[[ReasoningModel, Sequence[Example]], list[ScoredRow]],
) -> Steps[Mapping[str, HalfMatrix]]:
    """Tokenise the examples and compute the root of the summed squared gradients of each weight."""
    with model.lease:
        rows = rows_of(model, examples)
    return (yield from root_square_sums(model, matrices, rows))
