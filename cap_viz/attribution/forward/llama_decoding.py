"""Greedy decoding for models built like Llama, on the weights themselves: `greedy.greedy_steps` without its copies.

Most of a decoding step on the model's own blocks is copying keys and values: the cache is written anew for every
token, and expanded for every query head and row. Here

1. keys and values of the tokens all prompts begin with are kept once and read by all rows in one matrix product;
2. memory for the keys and values of a row's own tokens is allocated beforehand;
3. the queries of a group share keys and values without copies.

Softmax over both parts together is exact. `attribution/forward/shortcut_checks.py` compares the result with the model
itself once per loaded model, before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from cap_viz.attribution.forward.greedy import Rows, left_padded
from cap_viz.attribution.forward.llama_fast_path import (
    DirectBlock,
    DirectModel,
    Rotary,
    add_linear,
    add_mlp,
    embedded,
    rms_norm,
    rotary_at,
    rotated,
    split_heads,
)
from cap_viz.attribution.forward.packing import shared_length
from cap_viz.models.loading import ReasoningModel

# Attention weights computed at a time: rows that fit in the processor's cache (4 MB in float32); at least one row.
ATTENTION_VALUES = 1 << 20


@dataclass
class Memory:
    """Keys and values of one block: of the shared beginning, and of each row's own tokens (room for all of them)."""

    shared_k: Float[Tensor, "kv_head d_head shared"]
    shared_v: Float[Tensor, "kv_head shared d_head"]
    k: Float[Tensor, "row kv_head place d_head"]
    v: Float[Tensor, "row kv_head place d_head"]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.k, self.v = self.k[rows], self.v[rows]


def direct_greedy_steps(
    model: ReasoningModel,
    direct: DirectModel,
    prompts: Sequence[Sequence[int]],
    most: int,
    *,
    changed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Generator[Int[Tensor, " row"], Rows | None, None]:
    """Yield the most likely next token of every row, at most `most` times; see `greedy_steps`."""
    with model.lease, torch.inference_mode(), changed():
        tokens, real, memories = opened(model, direct, prompts, most)
    filled = 0
    for _ in range(most):
        with model.lease, torch.inference_mode(), changed():
            hidden = read_own(model, direct, tokens, real, memories, filled)
            chosen = next_logits(direct, hidden[:, -1]).argmax(dim=-1)
        filled += tokens.shape[1]
        kept = yield chosen
        if kept is not None and list(kept) != list(range(len(chosen))):
            rows = torch.tensor(kept, device=model.device)
            for memory in memories:
                memory.keep(rows)
            chosen, real = chosen[rows], real[rows]
        tokens = chosen[:, None]
        real = torch.cat([real, torch.ones_like(tokens, dtype=torch.bool)], dim=1)


def first_logits(
    model: ReasoningModel, direct: DirectModel, prompts: Sequence[Sequence[int]]
) -> Float[Tensor, "row vocabulary"]:
    """Next-token logits after each prompt, as in the first step of `direct_greedy_steps`."""
    tokens, real, memories = opened(model, direct, prompts, 0)
    return next_logits(direct, read_own(model, direct, tokens, real, memories, 0)[:, -1])


def opened(
    model: ReasoningModel, direct: DirectModel, prompts: Sequence[Sequence[int]], most: int
) -> tuple[Int[Tensor, "row position"], Bool[Tensor, "row position"], list[Memory]]:
    """Read the common beginning; return the rest of each prompt, and memories with room for `most` more tokens."""
    shared = shared_length(prompts)
    tokens, real = left_padded([prompt[shared:] for prompt in prompts], model.device)
    return tokens, real, memories_of(model, direct, prompts[0][:shared], len(prompts), tokens.shape[1] + most)


def memories_of(
    model: ReasoningModel, direct: DirectModel, beginning: Sequence[int], n_rows: int, places: int
) -> list[Memory]:
    """Read the beginning once, as a single row, and allocate room for `places` own tokens of every row."""
    tokens = torch.tensor([beginning], dtype=torch.long, device=model.device)
    n_tokens = tokens.shape[1]
    hidden, memories = embedded(model, tokens), []
    positions = torch.arange(n_tokens, device=model.device)[None]
    causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=model.device).tril()[None]
    rotary = rotary_at(model, hidden, positions) if n_tokens else None
    for block in direct.blocks:
        shape = (direct.n_kv_heads, direct.d_head, 0)
        memory = Memory(
            shared_k=hidden.new_empty(shape),
            shared_v=hidden.new_empty(shape).transpose(1, 2),
            k=hidden.new_zeros(1, direct.n_kv_heads, n_tokens, direct.d_head),
            v=hidden.new_zeros(1, direct.n_kv_heads, n_tokens, direct.d_head),
        )
        if rotary is not None:
            add_attention(direct, block, hidden, rotary, memory, 0, causal)
            add_mlp(block, hidden)
        room = (n_rows, direct.n_kv_heads, places, direct.d_head)
        memories.append(
            Memory(
                shared_k=memory.k[0].transpose(1, 2).contiguous(),
                shared_v=memory.v[0],
                k=hidden.new_zeros(room),
                v=hidden.new_zeros(room),
            )
        )
    return memories


def read_own(
    model: ReasoningModel,
    direct: DirectModel,
    tokens: Int[Tensor, "row position"],
    real: Bool[Tensor, "row place"],
    memories: Sequence[Memory],
    filled: int,
) -> Float[Tensor, "row position d_model"]:
    """Residual stream after the last block at `tokens`, which follow `filled` own places already in memory."""
    n_tokens = tokens.shape[1]
    # Own positions count from the end of the shared beginning; padding takes the position of the first own token.
    own = (real.long().cumsum(dim=1) - 1).clamp(min=0)[:, -n_tokens:]
    hidden = embedded(model, tokens)
    rotary = rotary_at(model, hidden, own + memories[0].shared_k.shape[-1])
    place = torch.arange(real.shape[1], device=real.device)
    seen = (place <= place[-n_tokens:, None])[None] & real[:, None]
    for block, memory in zip(direct.blocks, memories, strict=True):
        add_attention(direct, block, hidden, rotary, memory, filled, seen)
        add_mlp(block, hidden)
    return hidden


def add_attention(
    direct: DirectModel,
    block: DirectBlock,
    hidden: Float[Tensor, "row position d_model"],
    rotary: Rotary,
    memory: Memory,
    filled: int,
    seen: Bool[Tensor, "row position place"],
) -> None:
    """Add the attention's output to the residual stream, and store the keys and values at places from `filled` on."""
    normed = rms_norm(block.norm_attention, hidden)[None]
    q = rotated(split_heads(block.q(normed), direct.d_head, block.norm_q), rotary)[0]
    k = rotated(split_heads(block.k(normed), direct.d_head, block.norm_k), rotary)[0]
    v = split_heads(block.v(normed), direct.d_head, None)[0]
    end = filled + hidden.shape[1]
    memory.k[:, :, filled:end], memory.v[:, :, filled:end] = k.transpose(1, 2), v.transpose(1, 2)
    step = max(1, ATTENTION_VALUES // (q[0].numel() // direct.d_head * (memory.shared_k.shape[-1] + end)))
    parts = [slice(start, start + step) for start in range(0, len(q), step)]
    k, v = memory.k[:, :, :end], memory.v[:, :, :end]
    z = torch.cat([attended(direct, q[part], memory, k[part], v[part], seen[part]) for part in parts])
    add_linear(block.o, z, hidden)


def attended(
    direct: DirectModel,
    q: Float[Tensor, "row position head d_head"],
    memory: Memory,
    k: Float[Tensor, "row kv_head place d_head"],
    v: Float[Tensor, "row kv_head place d_head"],
    seen: Bool[Tensor, "row position place"],
) -> Float[Tensor, "row position width"]:
    """Softmax attention over the shared beginning and the visible own places."""
    n_rows, n_tokens, n_heads, d_head = q.shape
    n_kv, group = direct.n_kv_heads, n_heads // direct.n_kv_heads
    # [kv_head, row, group and position, d_head]: the queries of a group share keys and values.
    q = q.unflatten(2, (n_kv, group)).permute(2, 0, 3, 1, 4).reshape(n_kv, n_rows, group * n_tokens, d_head)
    own = torch.matmul(q.transpose(0, 1), k.transpose(2, 3))
    own = own.unflatten(2, (group, n_tokens)).masked_fill(~seen[:, None, None], float("-inf")).flatten(2, 3)
    shared = torch.matmul(q.flatten(1, 2), memory.shared_k).unflatten(1, (n_rows, -1)).transpose(0, 1)
    n_shared = shared.shape[-1]
    weights = torch.cat([shared, own], dim=-1).mul_(d_head**-0.5).float().softmax(dim=-1).to(q.dtype)
    z = torch.matmul(weights[..., n_shared:], v)
    if n_shared:
        by_head = weights[..., :n_shared].transpose(0, 1).flatten(1, 2)
        z = z + torch.matmul(by_head, memory.shared_v).unflatten(1, (n_rows, -1)).transpose(0, 1)
    return z.unflatten(2, (group, n_tokens)).permute(0, 3, 1, 2, 4).reshape(n_rows, n_tokens, -1)


def next_logits(direct: DirectModel, last: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocabulary"]:
    return F.linear(rms_norm(direct.norm, last), direct.unembed.weight, direct.unembed.bias)
