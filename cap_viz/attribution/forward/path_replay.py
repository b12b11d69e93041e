"""Path replay: one receiver sees a sender's output replaced, and the network from that receiver on responds.

1. The residual stream before block l is a sum of writes, so a receiver in block l that alone sees a sender's output
   replaced reads the dense stream plus the change of that write; nothing between sender and receiver is run again.
2. The receiver is computed alone from what it reads: z of one head, or the output of an MLP.
3. That takes the place of its dense output, and the blocks from l on are replayed (`attribution/forward/replay.py`,
   `attribution/forward/llama_fast_path.py`), with the paths into one layer side by side.

Under grouped queries the changed keys and values belong to the receiving head alone: its siblings of the KV group go on
with the dense ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cap_viz.attribution.forward.dense_pass import DensePass, Hook, keeping
from cap_viz.attribution.forward.llama_fast_path import (
    DirectBlock,
    DirectModel,
    Rotary,
    attended,
    direct_model,
    gathered,
    rms_norm,
    rotated,
)
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.attribution.forward.patching import heads_site, mlp_site
from cap_viz.attribution.forward.replay import OwnBlocks, repeated, run_block
from cap_viz.models.loading import ReasoningModel

# Projections that a receiving head's z is computed from, by the ends of the hooks' names.
PROJECTIONS = ("q", "k", "v")


class PathRunner(Protocol):
    """A way to compute paths: by the model's own blocks, or by direct ones.

    Callers hold the lease, inside `torch.inference_mode`. Results are log-likelihoods of every option, NaN where an
    example does not have it.
    """

    def writes(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int],
    ) -> Float[Tensor, "sender row position d_model"]:
        """Compute what replacing z of each head by `value` changes in the residual stream after its attention."""
        ...

    def into_heads(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        changes: Float[Tensor, "path row position d_model"],
        heads: Sequence[int],
        parts: Sequence[str],
    ) -> Float[Tensor, "path example option"]:
        """Have head `heads[p]` of `layer` read the dense stream plus `changes[p]`.

        `parts[p]` names the projection that does: q, k or v, or all of them.
        """
        ...

    def into_mlp(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        changes: Float[Tensor, "path row position d_model"],
    ) -> Float[Tensor, "path example option"]:
        """Have the MLP of `layer` read the dense stream plus `changes[p]`."""
        ...


def side_by_side(model: ReasoningModel) -> bool:
    """Whether the family computes attention and MLP of a layer from the same input, so that neither reads the other."""
    return bool(getattr(model.bridge.cfg, "parallel_attn_mlp", False))


def path_runner(model: ReasoningModel, *, direct: bool) -> PathRunner:
    """Return the direct blocks if asked for and possible, else the model's own."""
    blocks = direct_model(model) if direct else None
    return OwnPaths(model) if blocks is None else DirectPaths(blocks)


@dataclass(frozen=True)
class DirectPaths:
    """Paths by direct blocks; its methods are those of `PathRunner`."""

    direct: DirectModel

    def writes(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int],
    ) -> Float[Tensor, "sender row position d_model"]:
        block, before = self.direct.blocks[layer], dense.calls[layer].hidden
        rotary = self.direct.rotary_at(before, batch.positions)
        z = block.z(before[None], rotary, batch.mask)[0].unflatten(-1, value.shape[2:])
        return torch.bmm(*block.written(value - z, heads)).unflatten(1, before.shape[:2])

    def into_heads(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        changes: Float[Tensor, "path row position d_model"],
        heads: Sequence[int],
        parts: Sequence[str],
    ) -> Float[Tensor, "path example option"]:
        block, before = self.direct.blocks[layer], dense.calls[layer].hidden
        layout = self.direct.laid_out(batch, before)
        qkv = block.qkv(before[None], layout.rotary)
        z = attended(*qkv, batch.mask)[0]
        changed = before.new_empty(len(heads), *before.shape[:2], block.d_head)
        # Paths into the same part of the same head are computed together.
        for head, part in dict.fromkeys(zip(heads, parts, strict=True)):
            members = [p for p, into in enumerate(zip(heads, parts, strict=True)) if into == (head, part)]
            own = changed_head(block, before + changes[members], layout.rotary, qkv, head, part)
            changed[members] = attended(*own, batch.mask)
        dense_z = z.unflatten(-1, (-1, block.d_head))[:, :, list(heads)].permute(2, 0, 1, 3)
        output = block.o.weight.view(before.shape[-1], -1, block.d_head)[:, list(heads)].permute(1, 2, 0)
        after = (before + block.o(z)).flatten(0, 1)[None]
        hidden = torch.baddbmm(after, (changed - dense_z).flatten(1, 2), output)
        return self.direct.after_attention(hidden.unflatten(1, before.shape[:2]), layer, layout)

    def into_mlp(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        changes: Float[Tensor, "path row position d_model"],
    ) -> Float[Tensor, "path example option"]:
        block, before = self.direct.blocks[layer], dense.calls[layer].hidden
        layout = self.direct.laid_out(batch, before)
        after = (before + block.o(block.z(before[None], layout.rotary, batch.mask)[0]))[None]
        is_last = layer == len(self.direct.blocks) - 1
        if is_last:
            after, changes = gathered(after, layout.index), gathered(changes, layout.index)
        hidden = after + changes
        block.add_mlp(hidden)
        # The MLP has read the change; the residual stream itself stays without it.
        hidden -= changes
        return self.direct.read_answers(hidden, layout) if is_last else self.direct.rest(hidden, layer + 1, layout)


Heads = Float[Tensor, "_version row position _head d_head"]


def changed_head(
    block: DirectBlock,
    reading: Float[Tensor, "path row position d_model"],
    rotary: Rotary,
    dense: tuple[Heads, Heads, Heads],
    head: int,
    part: str,
) -> tuple[Heads, Heads, Heads]:
    """Queries, keys and values of one head: those of `part` computed from `reading`, the others dense."""
    group = head * dense[1].shape[3] // dense[0].shape[3]
    normed = rms_norm(block.norm_attention, reading)

    def own(name: str, whole: Heads, number: int) -> Heads:
        if part not in ("all", name):
            return whole[:, :, :, number : number + 1].expand(len(reading), -1, -1, -1, -1)
        linear, rows = getattr(block, name), slice(number * block.d_head, (number + 1) * block.d_head)
        bias = None if linear.bias is None else linear.bias[rows]
        norm = {"q": block.norm_q, "k": block.norm_k}.get(name)
        projected = block.by_head(F.linear(normed, linear.weight[rows], bias), norm)
        return projected if name == "v" else rotated(projected, rotary)

    return own("q", dense[0], head), own("k", dense[1], group), own("v", dense[2], group)


@dataclass(frozen=True)
class OwnPaths:
    """Paths by the blocks of the model itself, with hooks; its methods are those of `PathRunner`."""

    model: ReasoningModel

    def writes(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int],
    ) -> Float[Tensor, "sender row position d_model"]:
        return OwnBlocks(self.model).writes(batch, dense, layer, value, heads).transpose(0, 1)

    def into_heads(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        changes: Float[Tensor, "path row position d_model"],
        heads: Sequence[int],
        parts: Sequence[str],
    ) -> Float[Tensor, "path example option"]:
        n_rows, call, name = len(batch.tokens), dense.calls[layer], heads_site(self.model.shape).name(layer)
        kept = self.dense_outputs(dense, layer, [f"blocks.{layer}.attn.hook_{each}" for each in PROJECTIONS])
        restoring: list[Hook] = []
        for (hook, output), projection in zip(kept.items(), PROJECTIONS, strict=True):
            untouched = [p for p, part in enumerate(parts) if part not in ("all", projection)]
            restoring.append((hook, replacing(n_rows, untouched, output)))
        reading = repeated(call, n_rows, len(changes))
        with keeping(self.model, [name]) as found, self.model.bridge.hooks(fwd_hooks=restoring):
            run_block(self.model, layer, reading, reading.hidden + changes.transpose(0, 1).flatten(0, 1))
        by_path = found[name].reshape(n_rows, len(changes), batch.tokens.shape[1], self.model.shape.n_heads, -1)
        chosen = torch.arange(len(changes), device=by_path.device), torch.tensor(heads, device=by_path.device)
        z = by_path[:, chosen[0], :, chosen[1]]

        def put_in(output: Tensor, hook: Any) -> Tensor:
            own = output.reshape(by_path.shape).clone()
            own[:, chosen[0], :, chosen[1]] = z
            return own.reshape(output.shape)

        return OwnBlocks(self.model).replayed(batch, dense, layer, len(changes), [(name, put_in)])

    def into_mlp(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        changes: Float[Tensor, "path row position d_model"],
    ) -> Float[Tensor, "path example option"]:
        n_rows, every = len(batch.tokens), range(len(changes))
        z_name, mlp_name = (site(self.model.shape).name(layer) for site in (heads_site, mlp_site))
        z = self.dense_outputs(dense, layer, [z_name])[z_name]
        reading = repeated(dense.calls[layer], n_rows, len(changes))
        frozen = [(z_name, replacing(n_rows, every, z))]
        with keeping(self.model, [mlp_name]) as found, self.model.bridge.hooks(fwd_hooks=frozen):
            run_block(self.model, layer, reading, reading.hidden + changes.transpose(0, 1).flatten(0, 1))
        put_in: Hook = (mlp_name, lambda output, hook: found[mlp_name].reshape(output.shape))
        return OwnBlocks(self.model).replayed(batch, dense, layer, len(changes), [put_in])

    def dense_outputs(self, dense: DensePass, layer: int, names: Sequence[str]) -> dict[str, Tensor]:
        """Outputs of the block's dense call at the named hooks."""
        call = dense.calls[layer]
        with keeping(self.model, names) as kept:
            run_block(self.model, layer, call, call.hidden)
        return {name: kept[name] for name in names}


def replacing(n_rows: int, versions: Sequence[int], value: Float[Tensor, "row ..."]) -> Any:
    """Hook that replaces the output of some versions of every row (example-major) by `value`."""

    def replace(output: Tensor, hook: Any) -> Tensor:
        by_version = output.reshape(n_rows, -1, *value.shape[1:]).clone()
        by_version[:, list(versions)] = value[:, None]
        return by_version.reshape(output.shape)

    return replace
