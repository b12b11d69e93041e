"""Greedy decoding of many prompts side by side, with a key-value cache.

1. The tokens all prompts begin with (the worked examples of a few-shot prompt, say) are read once, as a single row.
2. The rest of each prompt is padded on the left, so that every row's next token stands in the last column; padding is
   masked and takes no position.
3. Finished rows can be dropped, so that they cost nothing more.

A decoder runs the blocks: the model's own, or direct ones (`attribution/forward/llama_decoding.py`). Each text equals
the one decoded from its prompt alone, up to rounding (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cap_viz.attribution.forward.llama_decoding import DirectDecoder
from cap_viz.attribution.forward.llama_fast_path import direct_model
from cap_viz.attribution.forward.packing import shared_length
from cap_viz.models.loading import ReasoningModel


class Decoder(Protocol):
    """A way to run the blocks on one token after another. Callers hold the lease, inside `torch.inference_mode`."""

    def begin(self, beginning: Int[Tensor, "1 position"], n_rows: int, room: int) -> None:
        """Read the tokens all rows begin with, perhaps none; each of the `n_rows` rows has `room` tokens more."""

    def read(
        self, tokens: Int[Tensor, "row position"], real: Bool[Tensor, "row place"]
    ) -> Float[Tensor, "row vocabulary"]:
        """Read each row's next tokens and return the logits of the token after them.

        `real` marks all own places of a row up to now: those of its tokens after the beginning, padding left out.
        """
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep these rows, in that order, and forget all others."""


class OwnDecoder:
    """Decoder on the model's own blocks, with transformers' cache."""

    def __init__(self, model: ReasoningModel) -> None:
        from transformers import DynamicCache

        self.model, self.cache, self.n_shared = model, DynamicCache(), 0

    def begin(self, beginning: Int[Tensor, "1 position"], n_rows: int, room: int) -> None:
        if beginning.numel():
            self.read(beginning, torch.ones_like(beginning, dtype=torch.bool))
            self.cache.batch_repeat_interleave(n_rows)
        self.n_shared = beginning.shape[1]

    def read(
        self, tokens: Int[Tensor, "row position"], real: Bool[Tensor, "row place"]
    ) -> Float[Tensor, "row vocabulary"]:
        seen = torch.cat([real.new_ones(len(real), self.n_shared), real], dim=1).long()
        return self.model.bridge(
            tokens,
            attention_mask=seen,
            position_ids=(seen.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )[:, -1]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.cache.batch_select_indices(rows)


def greedy_steps(
    model: ReasoningModel,
    prompts: Sequence[Sequence[int]],
    most: int,
    *,
    direct: bool = False,
    changed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Generator[Int[Tensor, " row"], Sequence[int] | None, None]:
    """Yield the most likely next token of every row, at most `most` times.

    `prompts` are token sequences of at least one token. `direct` takes the direct blocks, which
    `direct_decoding_is_valid` must have confirmed for the model. `changed` makes the context every forward runs in
    (heads off, a mask); it is entered anew each time, so that others may use the model in between. Sending row numbers
    keeps these rows, in that order, and drops all others.
    """
    blocks = direct_model(model) if direct else None
    decoder = OwnDecoder(model) if blocks is None else DirectDecoder(blocks)
    with model.lease, torch.inference_mode(), changed():
        tokens, real = begun(decoder, prompts, most, model.device)
    for _ in range(most):
        with model.lease, torch.inference_mode(), changed():
            chosen = decoder.read(tokens, real).argmax(dim=-1)
        kept = yield chosen
        if kept is not None and list(kept) != list(range(len(chosen))):
            rows = torch.tensor(kept, device=model.device)
            decoder.keep(rows)
            chosen, real = chosen[rows], real[rows]
        tokens = chosen[:, None]
        real = torch.cat([real, torch.ones_like(tokens, dtype=torch.bool)], dim=1)


def begun(
    decoder: Decoder, prompts: Sequence[Sequence[int]], most: int, device: torch.device
) -> tuple[Int[Tensor, "row position"], Bool[Tensor, "row position"]]:
    """Have the common beginning read; return the rest of each prompt, left-padded, and the mask of real tokens."""
    shared = shared_length(prompts)
    tokens, real = left_padded([prompt[shared:] for prompt in prompts], device)
    beginning = torch.tensor([prompts[0][:shared]], dtype=torch.long, device=device)
    decoder.begin(beginning, len(prompts), tokens.shape[1] + most)
    return tokens, real


def left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "row position"], Bool[Tensor, "row position"]]:
    """Left-padded tokens and the mask of real ones; padding is token 0, which nothing attends to."""
    rows = [torch.tensor(prompt) for prompt in prompts]
    tokens = pad_sequence(rows, batch_first=True, padding_side="left")
    real = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True, padding_side="left")
    return tokens.to(device), real.to(device)


def end_tokens(model: ReasoningModel) -> frozenset[int]:
    """All end-of-text token ids of the model and its tokenizer."""
    configured = getattr(model.bridge.original_model.config, "eos_token_id", None)
    found = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*found, model.tokenizer.eos_token_id) if token is not None)
