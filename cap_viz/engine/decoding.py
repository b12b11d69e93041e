"""Greedy decoding of many prompts side by side, with a key-value cache.

Prompts are padded on the left, so that every row's next token stands in the last column; padded places are masked and
take no position. Written text equals that of one prompt alone but for rounding (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cap_viz.models import ReasoningModel


def greedy_steps(
    model: ReasoningModel,
    prompts: Sequence[Sequence[int]],
    *,
    changed: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Generator[Int[Tensor, " row"], None, None]:
    """The likeliest next token of every row, again and again, for as long as the caller asks.

    `prompts` are token sequences of at least one token. `changed` makes the context every forward runs in (heads off,
    a mask); it is entered anew each time, so that others may use the model in between.
    """
    from transformers import DynamicCache

    tokens, real = left_padded(prompts, model.device)
    cache = DynamicCache()
    while True:
        positions = (real.long().cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        with model.lease, torch.inference_mode(), changed():
            logits = model.bridge(
                tokens,
                attention_mask=real.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            chosen = logits[:, -1].argmax(dim=-1)
        yield chosen
        tokens = chosen[:, None]
        real = torch.cat([real, torch.ones_like(tokens, dtype=torch.bool)], dim=1)


def left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "row position"], Bool[Tensor, "row position"]]:
    """Tokens and which of them are real; padding is token 0, which nothing attends to."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    real = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        real[row, longest - len(prompt) :] = True
    return tokens.to(device), real.to(device)
