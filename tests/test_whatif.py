"""Reading a prompt with heads off or weights pruned, against plain full forwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cap_viz as cv
from cap_viz.attribution.prompt_intervention import (
    Reading,
    attention_pattern,
    continuation_steps,
    divergence,
    encode_prompt,
    likeliest,
    read_prompt,
    token_texts,
)
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from tests.tiny import tiny_examples

PROMPT = tiny_examples(1)[0].prompt
OFF = ((0, 1), (2, 3), (2, 0))


def plain_logprobs(model: ReasoningModel, tokens: tuple[int, ...], off: tuple[tuple[int, int], ...] = ()) -> np.ndarray:
    """What follows every token, by the model's own forward with columns of the output projection zeroed."""
    d_head, saved = model.shape.d_head, {}
    matrices = {matrix.name: matrix.weight.data for matrix in model.matrices()}
    for layer, head in off:
        weight = matrices[f"{layer}.o"]
        saved.setdefault(layer, weight.clone())
        weight[:, head * d_head : (head + 1) * d_head] = 0
    with torch.inference_mode():
        found = model.bridge(torch.tensor([tokens])).log_softmax(-1)[0].numpy()
    for layer, weight in saved.items():
        matrices[f"{layer}.o"].copy_(weight)
    return found


@pytest.mark.parametrize("off", [(), OFF])
def test_a_reading_equals_the_model_s_own_forward(tiny_model: ReasoningModel, off: tuple[tuple[int, int], ...]) -> None:
    tokens = encode_prompt(tiny_model, PROMPT)
    found = read_prompt(tiny_model, tokens, off)
    wanted = plain_logprobs(tiny_model, tokens, off)
    np.testing.assert_allclose(found.next_logprobs, wanted[-1], atol=1e-5)
    own = [wanted[i, token] for i, token in enumerate(tokens[1:])]
    np.testing.assert_allclose(found.token_logprobs[1:], own, atol=1e-5)
    assert np.isnan(found.token_logprobs[0])


def test_a_mask_is_read_as_evaluate_applies_it(tiny_model: ReasoningModel) -> None:
    tokens = encode_prompt(tiny_model, PROMPT)
    mask = cv.prune_mask(tiny_model, "magnitude", sparsity=0.5)
    found = read_prompt(tiny_model, tokens, (), tiny_model.pruned_weights(mask.keep))
    with tiny_model.masked(mask.keep):
        wanted = plain_logprobs(tiny_model, tokens)
    np.testing.assert_allclose(found.next_logprobs, wanted[-1], atol=1e-5)
    np.testing.assert_array_equal(read_prompt(tiny_model, tokens).next_logprobs, plain_logprobs(tiny_model, tokens)[-1])


def test_greedy_continuation_is_what_the_whole_text_predicts(tiny_model: ReasoningModel) -> None:
    tokens = encode_prompt(tiny_model, PROMPT)
    added = tuple(continuation_steps(tiny_model, tokens, 6, OFF))
    assert 0 < len(added) <= 6
    wanted = plain_logprobs(tiny_model, (*tokens, *added), OFF)
    assert added == tuple(int(row.argmax()) for row in wanted[len(tokens) - 1 : -1])


def test_others_may_use_the_model_between_two_tokens(tiny_model: ReasoningModel) -> None:
    tokens = encode_prompt(tiny_model, PROMPT)
    alone = tuple(continuation_steps(tiny_model, tokens, 5, OFF))
    steps, between = continuation_steps(tiny_model, tokens, 5, OFF), []
    for token in steps:
        between.append(token)
        read_prompt(tiny_model, tokens)
    assert tuple(between) == alone


def test_attention_rows_are_causal_shares(tiny_model: ReasoningModel) -> None:
    tokens = encode_prompt(tiny_model, PROMPT)
    pattern = attention_pattern(tiny_model, tokens, 1, 2)
    assert pattern.shape == (len(tokens), len(tokens))
    np.testing.assert_allclose(pattern.sum(axis=1), 1, atol=1e-5)
    assert np.triu(pattern, 1).max() == 0
    # Heads of earlier layers change what this one sees, its own layer's do not.
    assert np.abs(attention_pattern(tiny_model, tokens, 1, 2, ((0, 1),)) - pattern).max() > 1e-6
    np.testing.assert_allclose(attention_pattern(tiny_model, tokens, 1, 2, ((1, 0),)), pattern, atol=1e-6)


def test_candidates_and_divergence_by_hand() -> None:
    dense = Reading((0,), np.array([np.nan]), np.log([0.5, 0.25, 0.25]))
    changed = Reading((0,), np.array([np.nan]), np.log([0.25, 0.25, 0.5]))
    assert [one.token for one in likeliest(dense, changed, 1)] == [0, 2]
    assert [(one.dense, one.changed) for one in likeliest(dense, changed, 1)] == [
        (pytest.approx(0.5), pytest.approx(0.25)),
        (pytest.approx(0.25), pytest.approx(0.5)),
    ]
    assert divergence(dense, changed) == pytest.approx(0.25 * np.log(2))
    assert divergence(dense, dense) == 0


def test_tokens_read_as_the_prompt(tiny_model: ReasoningModel) -> None:
    tokens = encode_prompt(tiny_model, PROMPT)
    assert len(token_texts(tiny_model, tokens)) == len(tokens)


@pytest.mark.parametrize(("text", "sentence"), [("", "prompt is empty"), ("red " * 2000, "shorten it")])
def test_prompts_that_cannot_be_read(tiny_model: ReasoningModel, text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        encode_prompt(tiny_model, text)


@pytest.mark.parametrize("heads", [((9, 0),), ((0, 99),), ((0, 1), (0, 1))])
def test_heads_that_are_not_there(tiny_model: ReasoningModel, heads: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(UsageError):
        read_prompt(tiny_model, (1, 2), heads)
