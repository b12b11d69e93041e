"""Greedy decoding of many prompts side by side, with a key-value cache.

1. The tokens all prompts begin with (the worked examples of a few-shot prompt, say) are read once, as a single row.
2. The rest of each prompt is padded on the left, so that every row's next token stands in the last column; padding is
   masked and takes no position.
3. Finished rows can be dropped, so that they cost nothing more.

Each text equals the one decoded from its prompt alone, up to rounding (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cap_viz.attribution.forward.packing import shared_length
from cap_viz.models.loading import ReasoningModel

Rows = Sequence[int]


def greedy_steps(
    model: ReasoningModel,
    prompts: Sequence[Sequence[int]],
    *,
    changed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Generator[Int[Tensor, " row"], Rows | None, None]:
    """Yield the most likely next token of every row, for as long as the caller asks.

    `prompts` are token sequences of at least one token. `changed` makes the context every forward runs in (heads off,
    a mask); it is entered anew each time, so that others may use the model in between. Sending row numbers keeps these
    rows, in that order, and drops all others.
    """
    from transformers import DynamicCache

    cache = DynamicCache()

    def read(tokens: Int[Tensor, "row position"], real: Bool[Tensor, "row seen"]) -> Float[Tensor, "row vocabulary"]:
        positions = (real.long().cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        with model.lease, torch.inference_mode(), changed():
            return model.bridge(
                tokens,
                attention_mask=real.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )[:, -1]

    shared = shared_length(prompts) if len(prompts) > 1 else 0
    tokens, real = left_padded([prompt[shared:] for prompt in prompts], model.device)
    if shared:
        beginning = torch.tensor([prompts[0][:shared]], device=model.device)
        read(beginning, torch.ones_like(beginning, dtype=torch.bool))
        cache.batch_repeat_interleave(len(prompts))
        real = torch.cat([real.new_ones(len(prompts), shared), real], dim=1)
    while True:
        chosen = read(tokens, real).argmax(dim=-1)
        kept = yield chosen
        if kept is not None:
            rows = torch.tensor(kept, device=model.device)
            cache.batch_select_indices(rows)
            chosen, real = chosen[rows], real[rows]
        tokens = chosen[:, None]
        real = torch.cat([real, torch.ones_like(tokens, dtype=torch.bool)], dim=1)


def left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "row position"], Bool[Tensor, "row position"]]:
    """Left-padded tokens and the mask of real ones; padding is token 0, which nothing attends to."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    real = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        real[row, longest - len(prompt) :] = True
    return tokens.to(device), real.to(device)


def end_tokens(model: ReasoningModel) -> frozenset[int]:
    """All end-of-text token ids of the model and its tokenizer."""
    configured = getattr(model.bridge.original_model.config, "eos_token_id", None)
    found = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*found, model.tokenizer.eos_token_id) if token is not None)
