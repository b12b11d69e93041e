"""Suffix replay: the exact effect of every head of a layer, running only the blocks that can change.

1. Ablating a head of layer l leaves blocks < l unchanged, so restart at block l from its recorded call.
2. All heads of the layer run together: each example becomes H rows, row h with head h ablated.
3. `z` (hook_z, before the output projection) of that head is set to the ablation value at every position.

The result equals a full forward with the head's hook_z overwritten (tested against `run_with_hooks`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.forward.dense_pass import BlockCall, DensePass, first_tensor, read_logliks
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.attribution.forward.patching import heads_site, mlp_site
from cap_viz.models.loading import ReasoningModel


def ablate_layer(
    model: ReasoningModel,
    batch: PackedBatch,
    dense: DensePass,
    layer: int,
    value: Float[Tensor, "#row #position head d_head"],
    heads: range | None = None,
) -> Float[Tensor, "ablated example option"]:
    """Ablate heads of `layer` in turn (all, or a range) by replacing z with `value`; return option log-likelihoods."""
    n_rows, n_positions = batch.tokens.shape
    ablated = torch.arange(model.shape.n_heads, device=value.device)
    ablated = ablated if heads is None else ablated[heads.start : heads.stop]
    versions = torch.arange(len(ablated), device=value.device)

    def ablate(z: Tensor, hook: Any) -> Tensor:
        # Rows are example-major: row e * V + v is example e with the v-th of the heads ablated.
        shape = z.shape
        z = z.reshape(n_rows, len(versions), n_positions, model.shape.n_heads, -1)
        z[:, versions, :, ablated] = value[:, :, ablated].permute(2, 0, 1, 3)
        return z.reshape(shape)

    return replayed(model, batch, dense, layer, len(versions), [(heads_site(model.shape).name(layer), ablate)])


def ablate_blocks(
    model: ReasoningModel,
    batch: PackedBatch,
    dense: DensePass,
    layer: int,
    z: Float[Tensor, "#row #position head d_head"],
    mlp: Float[Tensor, "#row #position d_model"],
) -> Float[Tensor, "2 example option"]:
    """Option log-likelihoods with z of all heads of `layer` replaced by `z`, then with its MLP's output by `mlp`."""

    def replacing(version: int, value: Tensor) -> Callable[[Tensor, Any], Tensor]:
        def replace(output: Tensor, hook: Any) -> Tensor:
            by_version = output.reshape(len(batch.tokens), 2, batch.tokens.shape[1], *value.shape[2:]).clone()
            by_version[:, version] = value
            return by_version.reshape(output.shape)

        return replace

    sites = (heads_site(model.shape), z), (mlp_site(model.shape), mlp)
    hooks = [(site.name(layer), replacing(version, value)) for version, (site, value) in enumerate(sites)]
    return replayed(model, batch, dense, layer, 2, hooks)


def replayed(
    model: ReasoningModel,
    batch: PackedBatch,
    dense: DensePass,
    layer: int,
    versions: int,
    hooks: list[tuple[str, Callable[[Tensor, Any], Tensor]]],
) -> Float[Tensor, "version example option"]:
    """Run block `layer` with the hooks and the later ones without, on `versions` copies of each row."""
    n_rows, n_positions, d_model = dense.calls[layer].hidden.shape
    calls = [repeated(call, n_rows, versions) for call in dense.calls[layer:]]
    with model.bridge.hooks(fwd_hooks=hooks):
        hidden = run_block(model, layer, calls[0], calls[0].hidden)
    for offset, call in enumerate(calls[1:], start=1):
        hidden = run_block(model, layer + offset, call, hidden)
    return read_logliks(model, batch, hidden.reshape(n_rows, versions, n_positions, d_model))


def replay_dense(model: ReasoningModel, dense: DensePass) -> Float[Tensor, "row position d_model"]:
    """Recompute the last residual stream from the recorded calls alone: equals `dense.final` if replay is valid."""
    hidden = dense.calls[0].hidden
    for layer, call in enumerate(dense.calls):
        hidden = run_block(model, layer, call, hidden)
    return hidden


def run_block(model: ReasoningModel, layer: int, call: BlockCall, hidden: Tensor) -> Tensor:
    return first_tensor(model.blocks[layer](hidden, *call.args, **call.kwargs))


def repeated(call: BlockCall, n_rows: int, times: int) -> BlockCall:
    """Repeat every batch-sized tensor of the call, copies of a row side by side."""

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
