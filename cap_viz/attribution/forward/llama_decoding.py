"""Decoding for models built like Llama, on the weights themselves: `greedy.OwnDecoder` without its copies.

Most of a decoding step on the model's own blocks is copying keys and values: the cache is written anew for every
token, and expanded for every query head and row. Here

1. keys and values of the tokens all prompts begin with are kept once and read by all rows in one matrix product;
2. memory for the keys and values of a row's own tokens is allocated beforehand;
3. the queries of a group share keys and values without copies.

Softmax over both parts together is exact. `attribution/forward/shortcut_checks.py` compares the result with the model
itself once per loaded model, before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cap_viz.attribution.forward.llama_fast_path import DirectBlock, DirectModel, Rotary, add_linear

# Attention weights computed at a time: rows that fit in the processor's cache (4 MB in float32); at least one row.
ATTENTION_VALUES = 1 << 20


@dataclass
class Memory:
    """Keys and values of one block: of the shared beginning, and of each row's own tokens (room for all of them)."""

    shared_k: Float[Tensor, "kv_head d_head shared"]
    shared_v: Float[Tensor, "kv_head shared d_head"]
    k: Float[Tensor, "row kv_head place d_head"]
    v: Float[Tensor, "row kv_head place d_head"]


def memory_for(block: DirectBlock, n_rows: int, room: int, beginning: Memory | None = None) -> Memory:
    """Allocate memory for `room` own tokens of every row, after the tokens in the single row of `beginning`."""
    weight = block.k.weight
    k, v = weight.new_zeros(2, n_rows, weight.shape[0] // block.d_head, room, block.d_head)
    shared_k, shared_v = (k[0, :, :0], v[0, :, :0]) if beginning is None else (beginning.k[0], beginning.v[0])
    return Memory(shared_k.transpose(1, 2).contiguous(), shared_v, k, v)


class DirectDecoder:
    """Decoder on the direct blocks; its methods are those of `greedy.Decoder`."""

    def __init__(self, direct: DirectModel) -> None:
        self.direct = direct
        self.memories: list[Memory] = []

    def begin(self, beginning: Int[Tensor, "1 position"], n_rows: int, room: int) -> None:
        blocks, n_shared = self.direct.blocks, beginning.shape[1]
        self.memories = [memory_for(block, 1, n_shared) for block in blocks]
        if n_shared:
            self.run(beginning, torch.ones_like(beginning, dtype=torch.bool))
        self.memories = [
            memory_for(block, n_rows, room, memory) for block, memory in zip(blocks, self.memories, strict=True)
        ]

    def read(
        self, tokens: Int[Tensor, "row position"], real: Bool[Tensor, "row place"]
    ) -> Float[Tensor, "row vocabulary"]:
        return self.direct.next_logits(self.run(tokens, real)[:, -1])

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        for memory in self.memories:
            memory.k, memory.v = memory.k[rows], memory.v[rows]

    def run(
        self, tokens: Int[Tensor, "row position"], real: Bool[Tensor, "row place"]
    ) -> Float[Tensor, "row position d_model"]:
        """Residual stream after the last block at `tokens`, whose keys and values go into memory."""
        n_tokens, n_shared = tokens.shape[1], self.memories[0].shared_k.shape[-1]
        # Own positions count from the end of the shared beginning; padding takes the position of the first own token.
        own = (real.long().cumsum(dim=1) - 1).clamp(min=0)[:, -n_tokens:]
        hidden = self.direct.embedded(tokens)
        rotary = self.direct.rotary_at(hidden, own + n_shared)
        place = torch.arange(real.shape[1], device=real.device)
        seen = (place <= place[-n_tokens:, None])[None] & real[:, None]
        for block, memory in zip(self.direct.blocks, self.memories, strict=True):
            add_attention(block, memory, hidden, rotary, seen)
            block.add_mlp(hidden)
        return hidden


def add_attention(
    block: DirectBlock,
    memory: Memory,
    hidden: Float[Tensor, "row position d_model"],
    rotary: Rotary,
    seen: Bool[Tensor, "row position place"],
) -> None:
    """Add the attention's output to the residual stream; the last of the seen places take the new keys and values."""
    q, k, v = (each[0] for each in block.qkv(hidden[None], rotary))
    end = seen.shape[-1]
    start = end - hidden.shape[1]
    memory.k[:, :, start:end], memory.v[:, :, start:end] = k.transpose(1, 2), v.transpose(1, 2)
    k, v = memory.k[:, :, :end], memory.v[:, :, :end]
    step = max(1, ATTENTION_VALUES // (q[0].numel() // block.d_head * (memory.shared_k.shape[-1] + end)))
    parts = [slice(first, first + step) for first in range(0, len(q), step)]
    z = torch.cat([attended(q[part], memory, k[part], v[part], seen[part]) for part in parts])
    add_linear(block.o, z, hidden)


def attended(
    q: Float[Tensor, "row position head d_head"],
    memory: Memory,
    k: Float[Tensor, "row kv_head place d_head"],
    v: Float[Tensor, "row kv_head place d_head"],
    seen: Bool[Tensor, "row position place"],
) -> Float[Tensor, "row position width"]:
    """Softmax attention over the shared beginning and the visible own places."""
    n_rows, n_tokens, n_heads, d_head = q.shape
    n_kv, n_shared = memory.shared_v.shape[:2]
    group = n_heads // n_kv
    # [kv_head, row, group and position, d_head]: the queries of a group share keys and values.
    q = q.unflatten(2, (n_kv, group)).permute(2, 0, 3, 1, 4).reshape(n_kv, n_rows, group * n_tokens, d_head)
    own = torch.matmul(q.transpose(0, 1), k.transpose(2, 3))
    own = own.unflatten(2, (group, n_tokens)).masked_fill(~seen[:, None, None], float("-inf")).flatten(2, 3)
    shared = torch.matmul(q.flatten(1, 2), memory.shared_k).unflatten(1, (n_rows, -1)).transpose(0, 1)
    weights = torch.cat([shared, own], dim=-1).mul_(d_head**-0.5).float().softmax(dim=-1).to(q.dtype)
    z = torch.matmul(weights[..., n_shared:], v)
    if n_shared:
        by_head = weights[..., :n_shared].transpose(0, 1).flatten(1, 2)
        z = z + torch.matmul(by_head, memory.shared_v).unflatten(1, (n_rows, -1)).transpose(0, 1)
    return z.unflatten(2, (group, n_tokens)).permute(0, 3, 1, 2, 4).reshape(n_rows, n_tokens, -1)
