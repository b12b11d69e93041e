"""Cached, batched greedy decoding against one full forward after another."""

from __future__ import annotations

import torch

from cap_viz.engine.decoding import greedy_steps, left_padded
from cap_viz.models import ReasoningModel
from tests.tiny import tiny_examples


def plain_greedy(model: ReasoningModel, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            tokens.append(int(model.bridge(torch.tensor([tokens]), use_cache=False)[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_rows_of_different_lengths_are_written_as_they_would_be_alone(tiny_model: ReasoningModel) -> None:
    prompts = [tiny_model.tokenizer.encode(example.prompt) for example in tiny_examples(4)]
    assert len({len(prompt) for prompt in prompts}) > 1
    steps = greedy_steps(tiny_model, prompts)
    written = torch.stack([next(steps) for _ in range(8)], dim=1).tolist()
    assert written == [plain_greedy(tiny_model, prompt, 8) for prompt in prompts]


def test_padding_goes_to_the_left() -> None:
    tokens, real = left_padded([[5, 6, 7], [8]], torch.device("cpu"))
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert real.tolist() == [[True, True, True], [False, False, True]]
