"""Suffix replay for models built like Llama, on the weights themselves and without TransformerLens in between.

`DirectModel` gives the results of `replay.OwnBlocks`; nearly all work besides the matrix products is saved:

1. In block l only z of one head differs, so the attention is computed once for all heads, and head h's residual
   stream is the dense one plus `(value_h - z_h) W_O[h]`.
2. Blocks after l run on all heads' versions at once; the residual sums are part of the matrix products, and the
   MLP runs in slices that fit in the processor's cache.
3. The last block is computed only at the positions where an answer is read (keys and values at all positions).

Families: blocks with RMS norms before attention and MLP, rotary positions, grouped queries, a SiLU-gated MLP (Llama,
Mistral, Qwen2, Qwen3). `attribution/forward/shortcut_checks.py` compares the result with the model's own blocks once
per loaded model, before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cap_viz.attribution.forward.dense_pass import DensePass, at_least_float32, loglik_sums
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.models.loading import ReasoningModel
from cap_viz.stats.joint import HeadSet

LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
# Activations of one slice of the MLP: gate and up together take 4 MB in float32.
MLP_VALUES = 1 << 19
# Vocabulary entries per slice of logits, one of which is in memory at a time, and stays in the cache of a core.
VOCABULARY_SLICE = 1024


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines at each position, for half of a head's dimensions (the other half repeats them)."""

    cos: Float[Tensor, "row position half"]
    sin: Float[Tensor, "row position half"]

    def at(self, index: Int[Tensor, "row query"]) -> Rotary:
        wide = index[:, :, None].expand(-1, -1, self.cos.shape[-1])
        return Rotary(self.cos.gather(1, wide), self.sin.gather(1, wide))


@dataclass(frozen=True)
class DirectBlock:
    """The modules of one block. Weights are read when used, so that swapped-in (pruned) weights count."""

    d_head: int
    norm_attention: Any
    q: Any
    k: Any
    v: Any
    o: Any
    norm_q: Any
    norm_k: Any
    norm_mlp: Any
    gate: Any
    up: Any
    down: Any

    def qkv(
        self,
        hidden: Float[Tensor, "version row position d_model"],
        rotary: Rotary,
        index: Int[Tensor, "row query"] | None = None,
    ) -> tuple[
        Float[Tensor, "version row query head d_head"],
        Float[Tensor, "version row position kv_head d_head"],
        Float[Tensor, "version row position kv_head d_head"],
    ]:
        """Queries (at all positions or those of `index`), keys and values of the block's input, positions applied."""
        normed = rms_norm(self.norm_attention, hidden)
        asking, asking_rotary = (normed, rotary) if index is None else (gathered(normed, index), rotary.at(index))
        q = rotated(self.by_head(self.q(asking), self.norm_q), asking_rotary)
        k = rotated(self.by_head(self.k(normed), self.norm_k), rotary)
        return q, k, self.by_head(self.v(normed), None)

    def by_head(self, x: Float[Tensor, "version row position width"], norm: Any) -> Tensor:
        heads = x.unflatten(-1, (-1, self.d_head))
        return heads if norm is None else rms_norm(norm, heads)

    def z(
        self,
        hidden: Float[Tensor, "version row position d_model"],
        rotary: Rotary,
        mask: Float[Tensor, "row 1 position position"],
        index: Int[Tensor, "row query"] | None = None,
    ) -> Float[Tensor, "version row query width"]:
        """z of all heads, concatenated (hook_z), at all positions or those of `index`."""
        if index is not None:
            mask = mask.gather(2, index[:, None, :, None].expand(-1, -1, -1, mask.shape[-1]))
        return attended(*self.qkv(hidden, rotary, index), mask)

    def written(
        self, change: Float[Tensor, "row query head d_head"], heads: Sequence[int] | None
    ) -> tuple[Float[Tensor, "ablated place d_head"], Float[Tensor, "ablated d_head d_model"]]:
        """Factors of what a change of each head's z (of all, or some) adds to the residual stream."""
        part: Any = slice(None) if heads is None else list(heads)
        if isinstance(heads, range):
            part = slice(heads.start, heads.stop)  # A view, where a list would copy the weights.
        output = self.o.weight.view(-1, *change.shape[2:])
        return change[:, :, part].permute(2, 0, 1, 3).flatten(1, 2), output[:, part].permute(1, 2, 0)

    def add_mlp(self, hidden: Float[Tensor, "... d_model"]) -> None:
        """Add the MLP's output to the residual stream, in slices that fit in the processor's cache."""
        flat = hidden.view(-1, hidden.shape[-1])
        # Equal slices, since a short last one would read all the weights for little work.
        slices = -(-len(flat) * self.gate.weight.shape[0] // MLP_VALUES)
        for part in flat.chunk(max(1, slices)):
            normed = rms_norm(self.norm_mlp, part)
            gate = F.silu(self.gate(normed), inplace=True)
            add_linear(self.down, gate.mul_(self.up(normed)), part)


@dataclass(frozen=True)
class DirectLayout:
    """A batch with its rotary factors and the positions where answers are read.

    `index` holds these positions of each row, padded with position 0; `place[i]` is the flat index of read i in it.
    """

    batch: PackedBatch
    rotary: Rotary
    index: Int[Tensor, "row query"]
    place: Int[Tensor, " read"]


@dataclass(frozen=True)
class DirectModel:
    """A model that can be run directly. Callers hold the lease, inside `torch.inference_mode`."""

    embed: Any
    rotary: Any
    blocks: tuple[DirectBlock, ...]
    norm: Any
    unembed: Any

    def dense_logliks(self, batch: PackedBatch) -> Float[Tensor, "example option"]:
        """Option log-likelihoods with the current weights.

        Padding takes part in the attention only; the other products, most of the work, run on real tokens alone.
        """
        padded = self.embedded(batch.tokens)
        layout = self.laid_out(batch, padded)
        real, flat = batch.is_real.flatten().nonzero().squeeze(1), padded.view(-1, padded.shape[-1])
        hidden = flat[real]
        for block in self.blocks[:-1]:
            z = block.z(padded[None], layout.rotary, batch.mask)[0].flatten(0, 1)
            add_linear(block.o, z[real], hidden)
            block.add_mlp(hidden)
            flat.index_copy_(0, real, hidden)
        return self.rest(padded[None], len(self.blocks) - 1, layout)[0]

    def ablate_heads(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        value: Float[Tensor, "#row #position head d_head"],
        heads: Sequence[int] | None = None,
        where: Bool[Tensor, "ablated row position"] | None = None,
    ) -> Float[Tensor, "ablated example option"]:
        """Ablate heads of `layer` in turn; see `BlockRunner`."""
        block, before = self.blocks[layer], dense.calls[layer].hidden
        layout, by_head = self.laid_out(batch, before), value.shape[2:]
        z = block.z(before[None], layout.rotary, batch.mask)[0]
        after = before + block.o(z)
        change, weights = block.written(value - z.unflatten(-1, by_head), heads)
        if where is not None:
            change = change.masked_fill(~where.flatten(1)[..., None], 0)
        hidden = torch.baddbmm(after.flatten(0, 1)[None], change, weights).unflatten(1, after.shape[:2])
        return self.after_attention(hidden, layer, layout)

    def ablate_blocks(
        self,
        batch: PackedBatch,
        dense: DensePass,
        layer: int,
        z: Float[Tensor, "#row #position head d_head"],
        mlp: Float[Tensor, "#row #position d_model"],
    ) -> Float[Tensor, "2 example option"]:
        """Ablate the attention of `layer`, then its MLP; see `BlockRunner`."""
        block, before = self.blocks[layer], dense.calls[layer].hidden
        layout = self.laid_out(batch, before)
        without_attention = before + block.o(z.flatten(-2))
        block.add_mlp(without_attention)
        without_mlp = before + block.o(block.z(before[None], layout.rotary, batch.mask)[0]) + mlp
        hidden = torch.stack([without_attention, without_mlp])
        if layer == len(self.blocks) - 1:
            return self.read_answers(gathered(hidden, layout.index), layout)
        return self.rest(hidden, layer + 1, layout)

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
        """Change what each head adds to the last residual stream, where answers are read; see `BlockRunner`."""
        block, before, by_head = self.blocks[layer], dense.calls[layer].hidden, value.shape[2:]
        layout = self.laid_out(batch, before)
        z = block.z(before[None], layout.rotary, batch.mask, layout.index)[0].unflatten(-1, by_head)
        chosen = gathered(dense.final[None], layout.index)
        hidden = torch.baddbmm(chosen.flatten(1, 2), *block.written(value_read(value, layout) - z, heads))
        scale_of = chosen if frozen_norm else None
        return self.read_answers(hidden.unflatten(1, chosen.shape[1:3]), layout, scale_of=scale_of)

    def ablate_sets(
        self,
        batch: PackedBatch,
        dense: DensePass,
        sets: Sequence[HeadSet],
        values: Float[Tensor, "layer #row #position head d_head"],
    ) -> Float[Tensor, "set example option"]:
        """Ablate whole sets of heads that begin in the same layer; see `BlockRunner`.

        Sets that begin with the same heads are one version until the layer in which they differ.
        """
        start, last = min(sets[0])[0], len(self.blocks) - 1
        by_head, hidden = values.shape[3:], dense.calls[start].hidden[None].clone()
        layout = self.laid_out(batch, hidden[0])
        versions: list[HeadSet] = [()]
        for layer, block in enumerate(self.blocks[start:], start):
            index, value, asking = None, values[layer], hidden
            if layer == last:
                index, hidden = layout.index, gathered(hidden, layout.index)
                value = value_read(value, layout)
            z = block.z(asking, layout.rotary, batch.mask, index)
            former, versions = versions, list(dict.fromkeys(heads_until(layer, heads) for heads in sets))
            if len(versions) > len(former):
                parents = [former.index(heads_until(layer - 1, heads)) for heads in versions]
                z, hidden = z[parents], hidden[parents]
            put(z.unflatten(-1, by_head), layer, versions, value)
            add_linear(block.o, z, hidden)
            block.add_mlp(hidden)
        return self.read_answers(hidden, layout)[[versions.index(heads_until(last, heads)) for heads in sets]]

    def embedded(self, tokens: Int[Tensor, "row position"]) -> Float[Tensor, "row position d_model"]:
        # A copy, since the residual stream is added to in place.
        return self.embed(tokens).clone()

    def rotary_at(
        self, hidden: Float[Tensor, "row position d_model"], positions: Int[Tensor, "row position"]
    ) -> Rotary:
        """Rotary factors at the positions, from the model's own module."""
        cos, sin = self.rotary(hidden, positions)
        half = cos.shape[-1] // 2
        return Rotary(cos[..., :half], sin[..., :half])

    def laid_out(self, batch: PackedBatch, hidden: Float[Tensor, "row position d_model"]) -> DirectLayout:
        n_rows, device = batch.tokens.shape[0], batch.tokens.device
        read_here = batch.read_row[:, None] == torch.arange(n_rows, device=device)
        width = int(read_here.sum(dim=0).max())
        # Number of earlier reads in the same row: the read's column.
        column = (read_here.cumsum(dim=0) - 1).gather(1, batch.read_row[:, None]).squeeze(1)
        index = torch.zeros(n_rows, width, dtype=torch.long, device=device)
        index[batch.read_row, column] = batch.read_position
        return DirectLayout(batch, self.rotary_at(hidden, batch.positions), index, batch.read_row * width + column)

    def after_attention(
        self, hidden: Float[Tensor, "version row position d_model"], layer: int, layout: DirectLayout
    ) -> Float[Tensor, "version example option"]:
        """Run the MLP of `layer` and the blocks after it, overwriting `hidden`."""
        if layer < len(self.blocks) - 1:
            self.blocks[layer].add_mlp(hidden)
            return self.rest(hidden, layer + 1, layout)
        chosen = gathered(hidden, layout.index)
        self.blocks[layer].add_mlp(chosen)
        return self.read_answers(chosen, layout)

    def rest(
        self, hidden: Float[Tensor, "version row position d_model"], start: int, layout: DirectLayout
    ) -> Float[Tensor, "version example option"]:
        """Run the blocks from `start` on, overwriting `hidden`, the last one only where answers are read."""
        rotary, mask = layout.rotary, layout.batch.mask
        for block in self.blocks[start:-1]:
            add_linear(block.o, block.z(hidden, rotary, mask), hidden)
            block.add_mlp(hidden)
        last, chosen = self.blocks[-1], gathered(hidden, layout.index)
        add_linear(last.o, last.z(hidden, rotary, mask, layout.index), chosen)
        last.add_mlp(chosen)
        return self.read_answers(chosen, layout)

    def read_answers(
        self,
        chosen: Float[Tensor, "version row query d_model"],
        layout: DirectLayout,
        *,
        scale_of: Float[Tensor, "1 row query d_model"] | None = None,
    ) -> Float[Tensor, "version example option"]:
        """Summed log-likelihood of each option, from vocabulary logits computed one slice at a time.

        With `scale_of`, the final norm divides by the scale of that residual stream.
        """
        batch = layout.batch
        read = at_reads(chosen, layout)
        read = rms_norm(self.norm, read) if scale_of is None else scaled_as(self.norm, read, at_reads(scale_of, layout))
        weight, bias = self.unembed.weight, self.unembed.bias
        flat = read.reshape(-1, read.shape[-1])
        sums = []
        for start in range(0, weight.shape[0], VOCABULARY_SLICE):
            part = slice(start, start + VOCABULARY_SLICE)
            logits = at_least_float32(F.linear(flat, weight[part], None if bias is None else bias[part]))
            highest = logits.amax(dim=-1, keepdim=True)
            sums.append(highest.squeeze(-1) + logits.sub_(highest).exp_().sum(dim=-1).log())
        log_norm = torch.stack(sums).logsumexp(dim=0).view(read.shape[:2])
        picked = (at_least_float32(read[batch.answer_read]) * weight[batch.answer_token][:, None]).sum(dim=-1)
        if bias is not None:
            picked += bias[batch.answer_token][:, None]
        return loglik_sums(batch, picked - log_norm[batch.answer_read])

    def next_logits(self, last: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocabulary"]:
        return F.linear(rms_norm(self.norm, last), self.unembed.weight, self.unembed.bias)


def direct_model(model: ReasoningModel) -> DirectModel | None:
    """Return the model's modules, or None for another family or activation, or an offloaded model."""
    layers = [block.original_component for block in model.blocks]
    if model.offloaded or any(type(layer).__name__ not in LAYERS for layer in layers):
        return None
    if any(type(layer.mlp.original_component.act_fn).__name__ not in ("SiLU", "SiLUActivation") for layer in layers):
        return None
    return DirectModel(
        embed=model.bridge.embed.original_component,
        rotary=model.bridge.rotary_emb.original_component,
        blocks=tuple(direct_block(layer, model.shape.d_head) for layer in layers),
        norm=model.bridge.ln_final.original_component,
        unembed=model.bridge.unembed.original_component,
    )


def direct_block(layer: Any, d_head: int) -> DirectBlock:
    attention, mlp = layer.self_attn.original_component, layer.mlp.original_component
    return DirectBlock(
        d_head=d_head,
        norm_attention=original(layer, "input_layernorm"),
        q=original(attention, "q_proj"),
        k=original(attention, "k_proj"),
        v=original(attention, "v_proj"),
        o=original(attention, "o_proj"),
        norm_q=original(attention, "q_norm"),
        norm_k=original(attention, "k_norm"),
        norm_mlp=original(layer, "post_attention_layernorm"),
        gate=original(mlp, "gate_proj"),
        up=original(mlp, "up_proj"),
        down=original(mlp, "down_proj"),
    )


def heads_until(layer: int, heads: HeadSet) -> HeadSet:
    """Return the heads of a set up to a layer, in their order."""
    return tuple(sorted(head for head in heads if head[0] <= layer))


def value_read(
    value: Float[Tensor, "#row #position head d_head"], layout: DirectLayout
) -> Float[Tensor, "row query head d_head"]:
    """Return the values that replace z where answers are read."""
    everywhere = value.flatten(-2).expand(*layout.batch.tokens.shape, -1)
    return gathered(everywhere[None], layout.index)[0].unflatten(-1, value.shape[2:])


def put(
    z: Float[Tensor, "set row query head d_head"],
    layer: int,
    sets: Sequence[HeadSet],
    value: Float[Tensor, "#row #query head d_head"],
) -> None:
    """Overwrite z of the heads that each set has in a layer."""
    for number, heads in enumerate(sets):
        here = [head for at, head in heads if at == layer]
        if here:
            z[number, :, :, here] = value[:, :, here]


def original(owner: Any, name: str) -> Any:
    """Return the Hugging Face module of that name, without TransformerLens' wrapper; None where there is none."""
    module = getattr(owner, name, None)
    return getattr(module, "original_component", module)


def rotated(x: Float[Tensor, "version row position head d_head"], rotary: Rotary) -> Tensor:
    """Apply rotary positions: turn each pair (i, i + d_head / 2) by its angle (Su et al. 2021)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotary.cos[:, :, None], rotary.sin[:, :, None]
    turned = torch.empty_like(x)
    left, right = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return turned


def attended(
    q: Float[Tensor, "version row query head d_head"],
    k: Float[Tensor, "version row position kv_head d_head"],
    v: Float[Tensor, "version row position kv_head d_head"],
    mask: Float[Tensor, "row 1 query position"],
) -> Float[Tensor, "version row query width"]:
    """z of the heads, concatenated."""
    versions, rows = q.shape[:2]
    # One row's mask serves all versions without a copy.
    masks = mask if rows == 1 else mask.repeat(versions, 1, 1, 1)
    q, k, v = (each.flatten(0, 1).transpose(1, 2) for each in (q, k, v))
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=masks, enable_gqa=True)
    return z.transpose(1, 2).flatten(2).unflatten(0, (versions, rows))


def add_linear(linear: Any, x: Tensor, total: Tensor) -> None:
    """`total += linear(x)` as one matrix product."""
    flat = total.view(-1, total.shape[-1])
    flat.addmm_(x.reshape(-1, x.shape[-1]), linear.weight.T)
    if linear.bias is not None:
        flat += linear.bias


def rms_norm(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def at_reads(
    chosen: Float[Tensor, "version row query d_model"], layout: DirectLayout
) -> Float[Tensor, "read version d_model"]:
    return chosen.flatten(1, 2)[:, layout.place].transpose(0, 1)


def scaled_as(norm: Any, x: Tensor, other: Tensor) -> Tensor:
    """As `rms_norm` of `x`, but divided by the root mean square of `other`."""
    squares = at_least_float32(other).square().mean(dim=-1, keepdim=True)
    return norm.weight * (x * (squares + norm.variance_epsilon).rsqrt()).to(x.dtype)


def gathered(
    hidden: Float[Tensor, "version row position d_model"], index: Int[Tensor, "row query"]
) -> Float[Tensor, "version row query d_model"]:
    rows = torch.arange(index.shape[0], device=index.device)[:, None]
    return hidden[:, rows, index]
