"""Calibration rows, and statistics of every matrix's inputs when the model reads them.

A row is prompt and gold option as one plain sequence: causal attention, every token fed, including the last.
Rows are padded on the right, and padding is left out of the statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from cap_viz.models.tensors import Tensor

if TYPE_CHECKING:
    import torch

    from cap_viz.attribution.forward.dense_pass import BlockCall
    from cap_viz.attribution.forward.packing import PackedBatch
    from cap_viz.models.loading import Matrix, ReasoningModel
    from cap_viz.tasks.base import Example

# Enough rows for efficient products; a block takes some hundredths of a second for this many on a CPU.
BATCH_TOKENS = 512
MAX_ROW_TOKENS = 2048


def gold_tokens(model: ReasoningModel, example: Example) -> tuple[tuple[int, ...], int]:
    """Return the token ids of prompt and gold option, and where the option starts (1 at least).

    Raises `UsageError` if they exceed the context.
    """
    from cap_viz.attribution.forward.packing import encode

    gold_only = replace(example, options=(example.options[example.gold],), gold=0)
    encoded = encode(model.tokenizer, gold_only, model.shape.n_ctx)
    tokens = (*encoded.prefix, *encoded.branches[0])
    return tokens, max(1, len(tokens) - encoded.answer_lengths[0])


def calibration_rows(model: ReasoningModel, examples: Sequence[Example]) -> list[tuple[int, ...]]:
    """Return token ids of prompt and gold option, cut to 2,048. Raises `UsageError` if they exceed the context."""
    return [gold_tokens(model, example)[0][:MAX_ROW_TOKENS] for example in examples]


def calibration_batches(rows: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Group rows of similar length, at most `BATCH_TOKENS` per batch with padding (or one long row)."""
    batches: list[list[tuple[int, ...]]] = []
    for row in sorted(rows, key=len, reverse=True):
        # The first row of a batch is its longest.
        if batches and len(batches[-1][0]) * (len(batches[-1]) + 1) <= BATCH_TOKENS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def plain_batch(model: ReasoningModel, rows: Sequence[tuple[int, ...]]) -> PackedBatch:
    """Lay out the rows as ordinary padded ones. Packing never feeds a branch's last token, so add a dummy there."""
    from cap_viz.attribution.forward.packing import EncodedExample, lay_out, packed_rows

    plain = [EncodedExample(prefix=row, branches=((0,),), answer_lengths=(1,)) for row in rows]
    return lay_out(packed_rows(plain), model.device, model.dtype)


def block_calls(model: ReasoningModel, batch: PackedBatch) -> tuple[BlockCall, ...]:
    """Record how the model calls each block on this batch; `hidden` is only right for block 0. Hold the lease.

    Masks and positions do not depend on the residual stream, so the later blocks need not run: they return
    block 0's output, which keeps the family's return type and saves a forward pass.
    """
    from cap_viz.attribution.forward.dense_pass import dense_pass

    first, *others = model.blocks
    returned: list[Any] = []

    def record(module: torch.nn.Module, args: Any, output: Any) -> None:
        returned.append(output)

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        return returned[0]

    with ExitStack() as stack:
        stack.enter_context(first.register_forward_hook(record))
        for block in others:
            # Not setattr: a bridge passes attributes on to the module it wraps.
            vars(block)["forward"] = hand_on
            stack.callback(vars(block).pop, "forward")
        return dense_pass(model, batch).calls


# Statistic summed over tokens, in float64: inputs of a matrix [token, input] → [input] or [input, input].
Measure = Callable[[Float[Tensor, "token input"]], Tensor]


def squares(inputs: Float[Tensor, "token input"]) -> Float[Tensor, " input"]:
    """Sum of squares of each input feature."""
    import torch

    # float64 only where it counts, in the sum over tokens.
    return inputs.float().square().sum(dim=0, dtype=torch.float64)


def products(inputs: Float[Tensor, "token input"]) -> Float[Tensor, "input input"]:
    """Sum over tokens of x x^T, the inputs' second moments."""
    inputs = inputs.float()
    return (inputs.T @ inputs).double()


class InputSums:
    """Statistic of each matrix's inputs, summed over all real tokens, by the matrix's name."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure
        self.sums: dict[str, Tensor] = {}

    @contextmanager
    def collected(self, matrices: Sequence[Matrix], batch: PackedBatch) -> Iterator[None]:
        """While open, add the inputs of every forward of `batch`. Hold the lease."""

        real = batch.is_real.bool()
        with ExitStack() as stack:
            for matrix in matrices:
                hook = self.hook(matrix.name, real)
                stack.enter_context(matrix.module.register_forward_pre_hook(hook))
            yield

    def hook(self, name: str, real: Tensor) -> Any:
        """Return a forward pre-hook that adds the matrix's inputs at real tokens."""

        def add(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
            inputs = args[0].detach()
            measured = self.measure(inputs.reshape(*real.shape, inputs.shape[-1])[real])
            self.sums[name] = self.sums[name] + measured if name in self.sums else measured

        return add


def input_norm(squares: Float[Tensor, " input"]) -> Float[Tensor, " input"]:
    """L2 norm of each input feature over all tokens, in float32, from its sum of squares."""
    return squares.sqrt().float()


def wanda_score(weight: Float[Tensor, "output input"], norm: Float[Tensor, " input"]) -> Float[Tensor, "output input"]:
    """|W_ij| * ||X_j||_2."""
    return weight.detach().float().abs().mul_(norm)
