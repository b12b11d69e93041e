"""Suffix replay for models built like Llama, on the weights themselves and without TransformerLens in between.

The result equals that of `replay.ablate_layer`; nearly all work besides the matrix products is saved:

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

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cap_viz.attribution.forward.dense_pass import DensePass, at_least_float32, loglik_sums
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.models.loading import ReasoningModel

LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
# Activations of one slice of the MLP: gate and up together take 4 MB in float32.
MLP_VALUES = 1 << 19
# Number of vocabulary entries per slice of logits, one slice being in memory at a time.
VOCABULARY_SLICE = 4096


@dataclass(frozen=True)
class DirectBlock:
    """The modules of one block. Weights are read when used, so that swapped-in (pruned) weights count."""

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


@dataclass(frozen=True)
class DirectModel:
    """The blocks and head shape of a model that can be run directly."""

    blocks: tuple[DirectBlock, ...]
    n_heads: int
    n_kv_heads: int
    d_head: int
    norm: Any
    unembed: Any


def direct_model(model: ReasoningModel) -> DirectModel | None:
    """Return the model's modules, or None for another family or activation, or an offloaded model."""
    layers = [block.original_component for block in model.blocks]
    if model.offloaded or any(type(layer).__name__ not in LAYERS for layer in layers):
        return None
    unembed = model.bridge.unembed.original_component
    if any(type(layer.mlp.original_component.act_fn).__name__ not in ("SiLU", "SiLUActivation") for layer in layers):
        return None
    return DirectModel(
        blocks=tuple(direct_block(layer) for layer in layers),
        n_heads=model.shape.n_heads,
        n_kv_heads=model.shape.n_kv_heads,
        d_head=model.shape.d_head,
        norm=model.bridge.ln_final.original_component,
        unembed=unembed,
    )


def direct_block(layer: Any) -> DirectBlock:
    attention, mlp = layer.self_attn.original_component, layer.mlp.original_component
    plain = partial(original, attention)
    return DirectBlock(
        norm_attention=original(layer, "input_layernorm"),
        q=plain("q_proj"),
        k=plain("k_proj"),
        v=plain("v_proj"),
        o=plain("o_proj"),
        norm_q=plain("q_norm"),
        norm_k=plain("k_norm"),
        norm_mlp=original(layer, "post_attention_layernorm"),
        gate=original(mlp, "gate_proj"),
        up=original(mlp, "up_proj"),
        down=original(mlp, "down_proj"),
    )


def original(owner: Any, name: str) -> Any:
    """Return the Hugging Face module of that name, without TransformerLens' wrapper; None where there is none."""
    module = getattr(owner, name, None)
    return getattr(module, "original_component", module)


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines at each position, for half of a head's dimensions (the other half repeats them)."""

    cos: Float[Tensor, "row position half"]
    sin: Float[Tensor, "row position half"]

    def at(self, index: Int[Tensor, "row query"]) -> Rotary:
        wide = index[:, :, None].expand(-1, -1, self.cos.shape[-1])
        return Rotary(self.cos.gather(1, wide), self.sin.gather(1, wide))


@dataclass(frozen=True)
class Queries:
    """Positions of each row where an answer is read, padded with position 0; `place[i]` is the flat index of read i."""

    index: Int[Tensor, "row query"]
    place: Int[Tensor, " read"]


def queries_of(batch: PackedBatch) -> Queries:
    n_rows, device = batch.tokens.shape[0], batch.tokens.device
    read_here = batch.read_row[:, None] == torch.arange(n_rows, device=device)
    width = int(read_here.sum(dim=0).max())
    # Number of earlier reads in the same row: the read's column.
    column = (read_here.cumsum(dim=0) - 1).gather(1, batch.read_row[:, None]).squeeze(1)
    index = torch.zeros(n_rows, width, dtype=torch.long, device=device)
    index[batch.read_row, column] = batch.read_position
    return Queries(index=index, place=batch.read_row * width + column)


def ablate_layer_direct(
    direct: DirectModel,
    batch: PackedBatch,
    dense: DensePass,
    layer: int,
    value: Float[Tensor, "#row #position head d_head"],
    heads: range | None = None,
) -> Float[Tensor, "ablated example option"]:
    """Ablate heads of `layer` in turn (all, or a range) by replacing z with `value`; return option log-likelihoods."""
    rotary, queries = rotary_of(direct, dense), queries_of(batch)
    chosen = range(direct.n_heads) if heads is None else heads
    block, before = direct.blocks[layer], dense.calls[layer].hidden
    hidden = ablated_attention(direct, block, before, rotary, batch.mask, value, chosen)
    if layer == len(direct.blocks) - 1:
        hidden = gathered(hidden, queries.index)
        add_mlp(direct.blocks[layer], hidden)
        return read_answers(direct, batch, hidden, queries)
    add_mlp(direct.blocks[layer], hidden)
    return rest(direct, batch, hidden, layer + 1, rotary, queries)


def ablate_blocks_direct(
    direct: DirectModel,
    batch: PackedBatch,
    dense: DensePass,
    layer: int,
    z: Float[Tensor, "#row #position head d_head"],
    mlp: Float[Tensor, "#row #position d_model"],
) -> Float[Tensor, "2 example option"]:
    """Option log-likelihoods with z of all heads of `layer` replaced by `z`, then with its MLP's output by `mlp`."""
    rotary, queries = rotary_of(direct, dense), queries_of(batch)
    block, before = direct.blocks[layer], dense.calls[layer].hidden
    without_attention = before + block.o(z.flatten(-2))
    add_mlp(block, without_attention[None])
    without_mlp = before + block.o(heads_output(direct, block, before[None], rotary, batch.mask)[0]) + mlp
    hidden = torch.stack([without_attention, without_mlp])
    if layer == len(direct.blocks) - 1:
        return read_answers(direct, batch, gathered(hidden, queries.index), queries)
    return rest(direct, batch, hidden, layer + 1, rotary, queries)


def dense_logliks_direct(
    model: ReasoningModel, direct: DirectModel, batch: PackedBatch
) -> Float[Tensor, "example option"]:
    """Option log-likelihoods with the current weights, by the direct blocks alone.

    Padding takes part in the attention only; the other products, most of the work, run on real tokens alone.
    """
    padded = embedded(model, batch.tokens)
    rotary, queries = rotary_at(model, padded, batch.positions), queries_of(batch)
    real, flat = batch.is_real.flatten().nonzero().squeeze(1), padded.view(-1, padded.shape[-1])
    hidden = flat[real]
    for block in direct.blocks[:-1]:
        z = heads_output(direct, block, padded[None], rotary, batch.mask)[0].flatten(0, 1)
        add_linear(block.o, z[real], hidden)
        add_mlp(block, hidden)
        flat.index_copy_(0, real, hidden)
    chosen = last_block(direct, padded[None], rotary, batch.mask, queries.index)
    return read_answers(direct, batch, chosen, queries)[0]


def embedded(model: ReasoningModel, tokens: Int[Tensor, "row position"]) -> Float[Tensor, "row position d_model"]:
    # A copy, since the residual stream is added to in place.
    return model.bridge.embed.original_component(tokens).clone()


def rotary_at(
    model: ReasoningModel, hidden: Float[Tensor, "row position d_model"], positions: Int[Tensor, "row position"]
) -> Rotary:
    """Rotary factors at the positions, from the model's own module."""
    cos, sin = model.bridge.rotary_emb.original_component(hidden, positions)
    half = cos.shape[-1] // 2
    return Rotary(cos[..., :half], sin[..., :half])


def rest(
    direct: DirectModel,
    batch: PackedBatch,
    hidden: Float[Tensor, "version row position d_model"],
    start: int,
    rotary: Rotary,
    queries: Queries,
) -> Float[Tensor, "version example option"]:
    """Run the blocks from `start` on, overwriting `hidden`, and return option log-likelihoods."""
    for block in direct.blocks[start:-1]:
        add_linear(block.o, heads_output(direct, block, hidden, rotary, batch.mask), hidden)
        add_mlp(block, hidden)
    chosen = last_block(direct, hidden, rotary, batch.mask, queries.index)
    return read_answers(direct, batch, chosen, queries)


def read_answers(
    direct: DirectModel, batch: PackedBatch, chosen: Float[Tensor, "version row query d_model"], queries: Queries
) -> Float[Tensor, "version example option"]:
    return answer_logliks(direct, batch, chosen.flatten(1, 2)[:, queries.place].transpose(0, 1))


def rotary_of(direct: DirectModel, dense: DensePass) -> Rotary:
    """Rotary factors of this batch, as recorded in the dense pass."""
    cos, sin = dense.calls[0].kwargs["position_embeddings"]
    half = direct.d_head // 2
    return Rotary(cos[..., :half], sin[..., :half])


def ablated_attention(
    direct: DirectModel,
    block: DirectBlock,
    hidden: Float[Tensor, "row position d_model"],
    rotary: Rotary,
    mask: Tensor,
    value: Float[Tensor, "#row #position head d_head"],
    heads: range,
) -> Float[Tensor, "ablated row position d_model"]:
    """Residual stream after the attention of `block`, one version per ablated head."""
    part = slice(heads.start, heads.stop)
    z = heads_output(direct, block, hidden[None], rotary, mask)[0]
    dense = hidden + block.o(z)
    change = (value - z.unflatten(-1, (direct.n_heads, direct.d_head)))[:, :, part].permute(2, 0, 1, 3).flatten(1, 2)
    output = block.o.weight.view(-1, direct.n_heads, direct.d_head)[:, part].permute(1, 2, 0)
    return torch.baddbmm(dense.flatten(0, 1)[None], change, output).view(len(heads), *dense.shape)


def last_block(
    direct: DirectModel,
    hidden: Float[Tensor, "version row position d_model"],
    rotary: Rotary,
    mask: Tensor,
    index: Int[Tensor, "row query"],
) -> Float[Tensor, "version row query d_model"]:
    """Residual stream after the last block, at the chosen positions only."""
    block, chosen = direct.blocks[-1], gathered(hidden, index)
    add_linear(block.o, heads_output(direct, block, hidden, rotary, mask, index), chosen)
    add_mlp(block, chosen)
    return chosen


def heads_output(
    direct: DirectModel,
    block: DirectBlock,
    hidden: Float[Tensor, "version row position d_model"],
    rotary: Rotary,
    mask: Float[Tensor, "row 1 position position"],
    index: Int[Tensor, "row query"] | None = None,
) -> Float[Tensor, "version row query width"]:
    """z of all heads, concatenated (hook_z), at all positions or those of `index`."""
    normed = rms_norm(block.norm_attention, hidden)
    asking, asking_rotary = normed, rotary
    if index is not None:
        asking, asking_rotary = gathered(normed, index), rotary.at(index)
        mask = mask.gather(2, index[:, None, :, None].expand(-1, -1, -1, mask.shape[-1]))
    q = rotated(split_heads(block.q(asking), direct.d_head, block.norm_q), asking_rotary)
    k = rotated(split_heads(block.k(normed), direct.d_head, block.norm_k), rotary)
    v = split_heads(block.v(normed), direct.d_head, None)
    versions, rows = q.shape[:2]
    # One row's mask serves all versions without a copy.
    masks = mask if rows == 1 else mask.repeat(versions, 1, 1, 1)
    q, k, v = (each.flatten(0, 1).transpose(1, 2) for each in (q, k, v))
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=masks, enable_gqa=True)
    return z.transpose(1, 2).flatten(2).unflatten(0, (versions, rows))


def split_heads(x: Float[Tensor, "version row position width"], d_head: int, norm: Any) -> Tensor:
    heads = x.unflatten(-1, (-1, d_head))
    return heads if norm is None else rms_norm(norm, heads)


def rotated(x: Float[Tensor, "version row position head d_head"], rotary: Rotary) -> Tensor:
    """Apply rotary positions: turn each pair (i, i + d_head / 2) by its angle (Su et al. 2021)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotary.cos[:, :, None], rotary.sin[:, :, None]
    turned = torch.empty_like(x)
    left, right = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return turned


def add_mlp(block: DirectBlock, hidden: Float[Tensor, "... d_model"]) -> None:
    """Add the MLP's output to the residual stream, in slices that fit in the processor's cache."""
    flat = hidden.view(-1, hidden.shape[-1])
    # Equal slices, since a short last one would read all the weights for little work.
    slices = -(-len(flat) * block.gate.weight.shape[0] // MLP_VALUES)
    for part in flat.chunk(max(1, slices)):
        normed = rms_norm(block.norm_mlp, part)
        gate = F.silu(block.gate(normed), inplace=True)
        add_linear(block.down, gate.mul_(block.up(normed)), part)


def add_linear(linear: Any, x: Tensor, total: Tensor) -> None:
    """`total += linear(x)` as one matrix product."""
    flat = total.view(-1, total.shape[-1])
    flat.addmm_(x.reshape(-1, x.shape[-1]), linear.weight.T)
    if linear.bias is not None:
        flat += linear.bias


def rms_norm(norm: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.variance_epsilon)


def gathered(
    hidden: Float[Tensor, "version row position d_model"], index: Int[Tensor, "row query"]
) -> Float[Tensor, "version row query d_model"]:
    rows = torch.arange(index.shape[0], device=index.device)[:, None]
    return hidden[:, rows, index]


def answer_logliks(
    direct: DirectModel, batch: PackedBatch, read: Float[Tensor, "read version d_model"]
) -> Float[Tensor, "version example option"]:
    """Summed log-likelihood of each option, from vocabulary logits computed one slice at a time."""
    read = rms_norm(direct.norm, read)
    weight, bias = direct.unembed.weight, direct.unembed.bias
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
