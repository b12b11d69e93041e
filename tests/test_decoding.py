"""Cached, batched greedy decoding, by the model's own blocks and directly, against one full forward after another."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cap_viz.attribution.forward.greedy import greedy_steps, left_padded
from cap_viz.attribution.forward.llama_fast_path import direct_model
from cap_viz.attribution.forward.shortcut_checks import direct_decoding_is_valid
from cap_viz.models.loading import ReasoningModel
from tests.tiny import tiny_examples

N = 8
Steps = Callable[..., Generator[Tensor, Any, None]]


def plain_greedy(model: ReasoningModel, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            tokens.append(int(model.bridge(torch.tensor([tokens]), use_cache=False)[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.fixture(params=[False, True], ids=["own blocks", "direct"])
def steps(request: pytest.FixtureRequest, tiny_model: ReasoningModel) -> Steps:
    assert direct_model(tiny_model) is not None
    return partial(greedy_steps, tiny_model, direct=request.param)


def prompts_of(model: ReasoningModel, shared: int = 0, n: int = 4) -> list[list[int]]:
    """Prompts of different lengths that begin with `shared` equal tokens."""
    beginning = [7 + 5 * place % 40 for place in range(shared)]
    found = [beginning + model.tokenizer.encode(example.prompt)[1:] for example in tiny_examples(n)]
    assert len({len(prompt) for prompt in found}) > 1
    return found


@pytest.mark.parametrize("shared", [0, 1, 30])
def test_rows_of_different_lengths_are_written_as_they_would_be_alone(
    tiny_model: ReasoningModel, steps: Steps, shared: int
) -> None:
    prompts = prompts_of(tiny_model, shared)
    written = torch.stack(list(steps(prompts, N)), dim=1).tolist()
    assert written == [plain_greedy(tiny_model, prompt, N) for prompt in prompts]


def test_one_row_and_the_same_prompt_twice(tiny_model: ReasoningModel, steps: Steps) -> None:
    prompt = prompts_of(tiny_model)[0]
    for prompts in ([prompt], [prompt, prompt], [prompt[:1], prompt[:1]]):
        written = torch.stack(list(steps(prompts, N)), dim=1).tolist()
        assert written == [plain_greedy(tiny_model, one, N) for one in prompts]


def test_dropped_rows_change_nothing_for_the_others(tiny_model: ReasoningModel, steps: Steps) -> None:
    prompts = prompts_of(tiny_model, 10)
    writing = steps(prompts, N)
    alone = [plain_greedy(tiny_model, prompt, N) for prompt in prompts]
    assert next(writing).tolist() == [one[0] for one in alone]
    assert writing.send([3, 1]).tolist() == [alone[3][1], alone[1][1]]
    assert next(writing).tolist() == [alone[3][2], alone[1][2]]
    assert writing.send([1]).tolist() == [alone[1][3]]


def test_all_rows_can_be_kept_in_another_order(tiny_model: ReasoningModel, steps: Steps) -> None:
    prompts = prompts_of(tiny_model, 10)
    writing = steps(prompts, N)
    alone = [plain_greedy(tiny_model, prompt, 2) for prompt in prompts]
    next(writing)
    assert writing.send([2, 0, 3, 1]).tolist() == [alone[row][1] for row in (2, 0, 3, 1)]


def test_weights_swapped_in_are_those_that_write(tiny_model: ReasoningModel, steps: Steps) -> None:
    prompts = prompts_of(tiny_model, 10)
    with tiny_model.lease:
        weights = {matrix.name: torch.roll(matrix.weight.detach(), 1, dims=0) for matrix in tiny_model.matrices()}
    written = torch.stack(list(steps(prompts, N, changed=lambda: tiny_model.swapped(weights))), dim=1).tolist()
    with tiny_model.swapped(weights):
        pruned = [plain_greedy(tiny_model, prompt, N) for prompt in prompts]
    assert written == pruned
    assert written != [plain_greedy(tiny_model, prompt, N) for prompt in prompts]


def test_no_forward_runs_without_the_lease(tiny_model: ReasoningModel, steps: Steps) -> None:
    """Direct decoding took the lease only where the caller's `changed` did."""
    free: list[bool] = []

    def ask_another_thread(*_: object) -> None:
        free.append(pool.submit(tiny_model.lease.acquire, blocking=False).result())

    with ThreadPoolExecutor(max_workers=1) as pool:
        handle = tiny_model.bridge.embed.original_component.register_forward_pre_hook(ask_another_thread)
        try:
            writing = steps(prompts_of(tiny_model, 10), N)
            next(writing)
            next(writing)
        finally:
            handle.remove()
    # The common beginning, the rest of the prompts, a token.
    assert free == [False] * 3


def test_direct_decoding_is_refused_where_it_differs(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(tiny_model)
    assert direct_decoding_is_valid(tiny_model, prompts)
    layer = tiny_model.blocks[0].original_component
    monkeypatch.setattr(layer.mlp.original_component, "forward", lambda x: 2 * x)
    monkeypatch.setattr(tiny_model, "passed", set())
    assert not direct_decoding_is_valid(tiny_model, prompts)


def test_padding_goes_to_the_left() -> None:
    tokens, real = left_padded([[5, 6, 7], [8]], torch.device("cpu"))
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert real.tolist() == [[True, True, True], [False, False, True]]
