"""Suffix replay: the exact effect of every head of a layer from the blocks that can change, and no others.

1. Ablating a head of layer l leaves blocks < l as they were, so restart at block l from its recorded call.
2. All heads of the layer go through together: each example becomes H rows, row h with head h ablated.
3. `z` (hook_z, before the output projection) of that head is set to the ablation value at every position.

The result equals a full forward with the head's hook_z overwritten (tested against `run_with_hooks`).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.engine.capture import BlockCall, DensePass, first_tensor, read_logliks
from cap_viz.engine.packing import PackedBatch
from cap_viz.models import ReasoningModel


def ablate_layer(
    model: ReasoningModel,
    batch: PackedBatch,
    dense: DensePass,
    layer: int,
    value: Float[Tensor, "head d_head"],
) -> Float[Tensor, "head example option"]:
    """Option log-likelihoods with each head of `layer` ablated in turn: `value[h]` replaces z of head h."""
    n_heads = model.shape.n_heads
    n_rows, n_positions, d_model = dense.calls[layer].hidden.shape

    def ablate(z: Tensor, hook: Any) -> Tensor:
        # Rows are example-major: row e * H + h is example e with head h ablated.
        shape = z.shape
        z = z.reshape(n_rows, n_heads, n_positions, n_heads, -1)
        heads = torch.arange(n_heads, device=z.device)
        z[:, heads, :, heads] = value[:, None, None]
        return z.reshape(shape)

    calls = [repeated(call, n_rows, n_heads) for call in dense.calls[layer:]]
    with model.bridge.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", ablate)]):
        hidden = run_block(model, layer, calls[0], calls[0].hidden)
    for offset, call in enumerate(calls[1:], start=1):
        hidden = run_block(model, layer + offset, call, hidden)
    return read_logliks(model, batch, hidden.reshape(n_rows, n_heads, n_positions, d_model))


def replay_dense(model: ReasoningModel, dense: DensePass) -> Float[Tensor, "row position d_model"]:
    """The last residual stream from the recorded calls alone: equals `dense.final` if replaying is valid."""
    hidden = dense.calls[0].hidden
    for layer, call in enumerate(dense.calls):
        hidden = run_block(model, layer, call, hidden)
    return hidden


def run_block(model: ReasoningModel, layer: int, call: BlockCall, hidden: Tensor) -> Tensor:
    return first_tensor(model.blocks[layer](hidden, *call.args, **call.kwargs))


def repeated(call: BlockCall, n_rows: int, times: int) -> BlockCall:
    """The call with every batch-sized tensor repeated, copies of a row side by side."""

    def repeat(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == n_rows:
            return value.repeat_interleave(times, dim=0)
        if isinstance(value, tuple):
            return tuple(repeat(part) for part in value)
        return value

    return BlockCall(
        hidden=repeat(call.hidden),
        args=tuple(repeat(value) for value in call.args),
        kwargs={name: repeat(value) for name, value in call.kwargs.items()},
    )
