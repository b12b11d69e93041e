"""Suffix replay: the exact effect of every head of a layer, running only the blocks that can change.

1. Ablating a head of layer l leaves blocks < l unchanged, so restart at block l from its recorded call.
2. All heads of the layer run together: each example becomes H rows, row h with head h ablated.
3. `z` (hook_z, before the output projection) of that head is set to the ablation value at every position.

The result equals a full forward with the head's hook_z overwritten (tested against `run_with_hooks`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cap_viz.attribution.forward.dense_pass import (
    BlockCall,
    DensePass,
    Hook,
    first_tensor,
    keeping,
    option_logliks,
    read_logliks,
)
from cap_viz.attribution.forward.llama_fast_path import direct_model, put
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.attribution.forward.patching import heads_site, mlp_site
from cap_viz.models.loading import ReasoningModel
from cap_viz.stats.joint import HeadSet


class BlockRunner(Protocol):
    """A way to run the blocks of a model: its own, or direct ones (`attribution/forward/llama_fast_path.py`).

    Callers hold the lease, inside `torch.inference_mode`. Results are log-likelihoods of every option, NaN where an
    example does not have it.
    """

    def dense_logliks(self, batch: PackedBatch) -> Float[Tensor, "example option"]:
        """Run the model with its current weights."""
        ...

    def ablate_heads(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int] | None = None,
        where: Bool[Tensor, "ablated row position"] | None = None,
    ) -> Float[Tensor, "ablated example option"]:
        """Ablate heads of `layer` in turn (all, or some) by replacing their z with `value`, everywhere or `where`.

        With `where`, a head may be named more than once.
        """
        ...

    def ablate_blocks(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        z: Float[Tensor, "#row #position head d_head"],
        mlp: Float[Tensor, "#row #position d_model"],
    ) -> Float[Tensor, "2 example option"]:
        """Replace z of all heads of `layer` by `z`, then its MLP's output by `mlp`."""
        ...

    def ablate_writes(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int] | None = None,
        *,
        frozen_norm: bool = False,
    ) -> Float[Tensor, "ablated example option"]:
        """As `ablate_heads`, but change only what each head adds to the last residual stream.

        With `frozen_norm` the final norm keeps the scale of the dense pass.
        """
        ...

    def ablate_sets(
        self,
        batch: PackedBatch,
        dense: DensePass,
        sets: Sequence[HeadSet],
        values: Float[Tensor, "layer #row #position head d_head"],
    ) -> Float[Tensor, "set example option"]:
        """Ablate whole sets of heads, the first of which are all in the same layer, by replacing their z."""
        ...


def block_runner(model: ReasoningModel, *, direct: bool) -> BlockRunner:
    """Return the direct blocks if asked for and possible, else the model's own."""
    blocks = direct_model(model) if direct else None
    return OwnBlocks(model) if blocks is None else blocks


@dataclass(frozen=True)
class OwnBlocks:
    """The blocks of the model itself, with hooks; its methods are those of `BlockRunner`."""

    model: ReasoningModel

    def dense_logliks(self, batch: PackedBatch) -> Float[Tensor, "example option"]:
        return option_logliks(self.model, batch)

    def ablate_heads(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int] | None = None,
        where: Bool[Tensor, "ablated row position"] | None = None,
    ) -> Float[Tensor, "ablated example option"]:
        (n_rows, n_positions), n_heads = batch.tokens.shape, self.model.shape.n_heads
        ablated = torch.tensor(range(n_heads) if heads is None else list(heads), device=value.device)
        versions = torch.arange(len(ablated), device=value.device)

        def ablate(z: Tensor, hook: Any) -> Tensor:
            # Rows are example-major: row e * V + v is example e with the v-th of the heads ablated.
            by_version = z.reshape(n_rows, len(versions), n_positions, n_heads, -1)
            new = value[:, :, ablated].permute(2, 0, 1, 3)
            if where is not None:
                new = torch.where(where[..., None], new, by_version[:, versions, :, ablated])
            by_version[:, versions, :, ablated] = new
            return by_version.reshape(z.shape)

        return self.replayed(batch, dense, layer, len(versions), [(heads_site(self.model.shape).name(layer), ablate)])

    def ablate_blocks(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        z: Float[Tensor, "#row #position head d_head"],
        mlp: Float[Tensor, "#row #position d_model"],
    ) -> Float[Tensor, "2 example option"]:
        def replacing(version: int, value: Tensor) -> Callable[[Tensor, Any], Tensor]:
            def replace(output: Tensor, hook: Any) -> Tensor:
                by_version = output.reshape(len(batch.tokens), 2, batch.tokens.shape[1], *value.shape[2:]).clone()
                by_version[:, version] = value
                return by_version.reshape(output.shape)

            return replace

        sites = (heads_site(self.model.shape), z), (mlp_site(self.model.shape), mlp)
        hooks = [(site.name(layer), replacing(version, value)) for version, (site, value) in enumerate(sites)]
        return self.replayed(batch, dense, layer, 2, hooks)

    def ablate_writes(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int] | None = None,
        *,
        frozen_norm: bool = False,
    ) -> Float[Tensor, "ablated example option"]:
        changed = dense.final[:, None] + self.writes(batch, dense, layer, value, heads)
        return read_logliks(self.model, batch, changed, scale_of=dense.final if frozen_norm else None)

    def writes(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int] | None = None,
    ) -> Float[Tensor, "row ablated position d_model"]:
        """Compute what replacing z of each head by `value` changes in the residual stream after its attention."""
        n_heads, call = self.model.shape.n_heads, dense.calls[layer]
        ablated = list(range(n_heads) if heads is None else heads)
        name = heads_site(self.model.shape).name(layer)
        with keeping(self.model, [name]) as kept:
            run_block(self.model, layer, call, call.hidden)
        z = kept[name].reshape(*batch.tokens.shape, n_heads, -1)
        versions = z[:, None].repeat(1, len(ablated), 1, 1, 1)
        for version, head in enumerate(ablated):
            versions[:, version, :, head] = value[:, :, head]
        return written(self.model, layer, versions) - written(self.model, layer, z)[:, None]

    def ablate_sets(
        self,
        batch: PackedBatch,
        dense: DensePass,
        sets: Sequence[HeadSet],
        values: Float[Tensor, "layer #row #position head d_head"],
    ) -> Float[Tensor, "set example option"]:
        def replacing(layer: int) -> Callable[[Tensor, Any], Tensor]:
            def replace(z: Tensor, hook: Any) -> Tensor:
                # Rows are example-major, as in `ablate_heads`.
                by_set = z.reshape(len(batch.tokens), len(sets), batch.tokens.shape[1], *values.shape[3:]).clone()
                put(by_set.transpose(0, 1), layer, sets, values[layer])
                return by_set.reshape(z.shape)

            return replace

        layers = sorted({layer for heads in sets for layer, _ in heads})
        hooks = [(heads_site(self.model.shape).name(layer), replacing(layer)) for layer in layers]
        return self.replayed(batch, dense, layers[0], len(sets), hooks)

    def replayed(
        self, batch: PackedBatch, dense: DensePass, layer: int, versions: int, hooks: Sequence[Hook]
    ) -> Float[Tensor, "version example option"]:
        """Run the blocks from `layer` on with the hooks, on `versions` copies of each row."""
        n_rows, n_positions, d_model = dense.calls[layer].hidden.shape
        first, *later = (repeated(call, n_rows, versions) for call in dense.calls[layer:])
        with self.model.bridge.hooks(fwd_hooks=list(hooks)):
            hidden = run_block(self.model, layer, first, first.hidden)
            for number, call in enumerate(later, start=layer + 1):
                hidden = run_block(self.model, number, call, hidden)
        return read_logliks(self.model, batch, hidden.reshape(n_rows, versions, n_positions, d_model))


def replay_dense(model: ReasoningModel, dense: DensePass) -> Float[Tensor, "row position d_model"]:
    """Recompute the last residual stream from the recorded calls alone: equals `dense.final` if replay is valid."""
    hidden = dense.calls[0].hidden
    for layer, call in enumerate(dense.calls):
        hidden = run_block(model, layer, call, hidden)
    return hidden


def written(model: ReasoningModel, layer: int, z: Float[Tensor, "*at head d_head"]) -> Float[Tensor, "*at d_model"]:
    """Return what the attention of a layer adds to the residual stream for the given z of its heads."""
    block = model.blocks[layer]
    output = first_tensor(block.attn.o(z.flatten(-2)))
    # Some families (Gemma 3) norm the output before they add it.
    return block.ln1_post(output) if hasattr(block, "ln1_post") else output


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
