"""Packing: token layout worked out by hand, and equality with one row per option."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cap_viz.attribution.exact import encode_all
from cap_viz.attribution.forward.packing import (
    EncodedExample,
    attention_mask,
    encode,
    lay_out,
    packed_rows,
    shared_length,
)
from cap_viz.attribution.forward.shortcut_checks import dense_logliks
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.tasks.base import Example
from tests.tiny import tiny_examples


def test_shared_length_leaves_every_sequence_a_token() -> None:
    assert shared_length([[1, 2, 3], [1, 2, 4]]) == 2
    assert shared_length([[1, 2], [1, 2, 4]]) == 1
    assert shared_length([[5, 2], [1, 2]]) == 0


def test_layout_by_hand() -> None:
    # Prefix 1 2; options (3), (4 5), (4 6 7): fed are 1 2 | 4 | 4 6, read are the places before each answer token.
    example = EncodedExample(prefix=(1, 2), branches=((3,), (4, 5), (4, 6, 7)), answer_lengths=(1, 2, 3))
    batch = lay_out(packed_rows([example]), torch.device("cpu"), torch.float32)
    assert batch.tokens.tolist() == [[1, 2, 4, 4, 6]]
    assert batch.positions.tolist() == [[0, 1, 2, 2, 3]]
    read = [(int(batch.read_position[r]), int(t)) for r, t in zip(batch.answer_read, batch.answer_token, strict=True)]
    assert read == [(1, 3), (1, 4), (2, 5), (1, 4), (3, 6), (4, 7)]
    assert batch.answer_option.tolist() == [0, 1, 1, 2, 2, 2]
    assert len(batch.read_row) == 4, "the place after the prefix is read once for all options"


def test_answers_inside_the_shared_prefix_are_read_there() -> None:
    # Both options start with token 9: it belongs to the prefix and is still scored for both.
    example = EncodedExample(prefix=(1, 9), branches=((3,), (4,)), answer_lengths=(2, 2))
    batch = lay_out(packed_rows([example]), torch.device("cpu"), torch.float32)
    read = [(int(batch.read_position[r]), int(t)) for r, t in zip(batch.answer_read, batch.answer_token, strict=True)]
    assert read == [(0, 9), (1, 3), (0, 9), (1, 4)]


def test_mask_lets_a_branch_see_prefix_and_itself() -> None:
    mask = attention_mask(torch.tensor([[0, 0, 1, 2, 2, -1]]), torch.float32)[0, 0] == 0
    visible = [[int(key) for key in row.nonzero().flatten()] for row in mask]
    assert visible == [[0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4], [5]]


def test_packed_rows_equal_separate_rows(tiny_model: ReasoningModel) -> None:
    encoded = encode_all(tiny_model, tiny_examples(7))
    packed = dense_logliks(tiny_model, encoded, packed=True)
    np.testing.assert_allclose(packed, dense_logliks(tiny_model, encoded, packed=False), atol=2e-5)


@pytest.mark.parametrize("direct", [False, True])
def test_packed_rows_equal_the_plain_model(tiny_model: ReasoningModel, direct: bool) -> None:
    """One unpadded sequence per option through the ordinary causal forward."""
    examples = tiny_examples(3)
    packed = dense_logliks(tiny_model, encode_all(tiny_model, examples), packed=True, direct=direct)
    for i, example in enumerate(examples):
        n_context = len(tiny_model.tokenizer.encode(example.prompt))
        for k, option in enumerate(example.options):
            ids = tiny_model.tokenizer.encode(example.prompt + option)
            with torch.inference_mode():
                logits = tiny_model.bridge(torch.tensor([ids])).log_softmax(-1)[0]
            expected = sum(float(logits[t - 1, ids[t]]) for t in range(n_context, len(ids)))
            assert packed[i, k] == pytest.approx(expected, abs=2e-5)


def test_option_without_a_token_is_refused(tiny_model: ReasoningModel) -> None:
    example = Example(id="x", question="q", prompt="Question: sun\nAnswer:", options=(" moon", " "), gold=0)
    with pytest.raises(UsageError, match=r"' '.*'x'.*\btoken\b"):
        encode(tiny_model.tokenizer, example, 128)


def test_example_longer_than_the_context_is_refused(tiny_model: ReasoningModel) -> None:
    example = tiny_examples(1)[0]
    with pytest.raises(UsageError, match=rf"{example.id!r}.*\b4\b"):
        encode(tiny_model.tokenizer, example, 4)
