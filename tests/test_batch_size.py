"""How many tokens go through at once: by hand, and from the memory there is when a plan is made."""

from __future__ import annotations

import numpy as np
import pytest

import cap_viz as cv
from cap_viz.attribution.exact import make_score_plan
from cap_viz.attribution.gradient import make_gradient_plan
from cap_viz.evaluation.choice import make_eval_plan
from cap_viz.models.batch_size import (
    MOST_TIMES_ON_GPU,
    activation_bytes,
    backward_tokens_at_once,
    fitting,
    times,
    tokens_at_once,
)
from cap_viz.models.loading import ModelShape, ReasoningModel
from tests.tiny import tiny_examples

SMOLLM2 = ModelShape(
    n_layers=30, n_heads=9, n_kv_heads=3, d_model=576, d_head=64, d_mlp=1536, n_ctx=2048, n_params=134_515_008
)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Free memory by device, as a test says it is."""
    found: dict[str, int] = {}
    monkeypatch.setattr("cap_viz.models.batch_size.free_memory", lambda device: found[device])
    return found


def test_bytes_of_a_token_by_hand() -> None:
    # Residual stream and norm, four times the queries, three times the keys; the stream before each of 30 blocks.
    assert activation_bytes(SMOLLM2, 4) == 4 * (2 * 576 + 4 * 576 + 3 * 192 + 30 * 576)
    assert activation_bytes(SMOLLM2, 2) == activation_bytes(SMOLLM2, 4) / 2


def test_small_models_and_gpus_take_more() -> None:
    assert [times(n, "cpu") for n in (134_515_008, 50_000_000, 520_000, 8_000_000_000)] == [1, 2, 4, 1]
    assert times(8_000_000_000, "cuda:0") == times(520_000, "mps") == MOST_TIMES_ON_GPU


def test_halved_until_it_fits_into_half_of_what_is_free(free: dict[str, int]) -> None:
    free["cuda:1"] = 2 * 1000 * 300
    assert fitting(1000, 300, "cuda:1") == 1000
    assert fitting(1000, 301, "cuda:1") == 500
    assert fitting(1000, 2400, "cuda:1") == 125
    assert fitting(1000, 2401, "cuda:1") == 62
    free["cuda:1"] = 0
    assert fitting(1000, 300, "cuda:1") == 1


def test_plans_follow_the_memory_and_scores_stay(tiny_model: ReasoningModel, free: dict[str, int]) -> None:
    examples = tiny_examples(12)
    free["cpu"] = 1 << 40
    plenty, whole = make_score_plan(tiny_model, examples), cv.score_heads(tiny_model, examples)
    asked = make_eval_plan(tiny_model, examples)
    backward = make_gradient_plan(tiny_model, examples, metric="nll")
    each = activation_bytes(tiny_model.shape, 4)
    free["cpu"] = 2 * each * 64
    assert tokens_at_once(768, tiny_model) == 48, "four times 768, halved until it is at most 64"
    assert backward_tokens_at_once(320, tiny_model) == 20, "64 tokens shared by three layers: at most 21"
    short = make_score_plan(tiny_model, examples)
    assert (short.batches.most_tokens, plenty.batches.most_tokens) == (36, 4 * 1152)
    assert len(short.batches.batches) > len(plenty.batches.batches)
    assert len(make_eval_plan(tiny_model, examples).batches.batches) > len(asked.batches.batches)
    fewer = make_gradient_plan(tiny_model, examples, metric="nll")
    assert len(fewer.batches.batches) > len(backward.batches.batches)
    again = cv.score_heads(tiny_model, examples)
    np.testing.assert_allclose(again.ablated, whole.ablated, rtol=0, atol=1e-5, equal_nan=True)
