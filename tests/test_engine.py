"""The engine against the plain slow way: a full forward per head with hook_z overwritten."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cap_viz.doctor import checks, weights_digest
from cap_viz.engine.capture import dense_pass, read_logliks
from cap_viz.models import ReasoningModel
from cap_viz.scoring import ablation_value, batch_of, make_score_plan, score_heads
from tests.tiny import tiny_examples


def slow_effects(model: ReasoningModel, n: int, value: Tensor) -> np.ndarray:
    """Log-likelihoods [layer, head, example, option], one full forward per head, one row per option."""
    plan = make_score_plan(model, tiny_examples(n))
    shape = model.shape
    result = np.full((shape.n_layers, shape.n_heads, n, 4), np.nan, dtype=np.float32)
    for i, encoded in enumerate(plan.encoded):
        batch = batch_of(model, [encoded], packed=False)
        for layer in range(shape.n_layers):
            for head in range(shape.n_heads):

                def overwrite(z: Tensor, hook: Any, layer: int = layer, head: int = head) -> Tensor:
                    z = z.clone()
                    z[:, :, head] = value[layer, head]
                    return z

                with (
                    torch.inference_mode(),
                    model.bridge.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", overwrite)]),
                ):
                    final = dense_pass(model, batch, keep_calls=False).final
                    result[layer, head, i] = read_logliks(model, batch, final[:, None])[0]
    return result


def test_zero_ablation_equals_full_forward(tiny_model: ReasoningModel) -> None:
    scores = score_heads(tiny_model, tiny_examples(5))
    zeros = torch.zeros(tiny_model.shape.n_layers, tiny_model.shape.n_heads, tiny_model.shape.d_head)
    np.testing.assert_allclose(scores.ablated, slow_effects(tiny_model, 5, zeros), atol=5e-5)


def test_mean_ablation_equals_full_forward(tiny_model: ReasoningModel) -> None:
    value = ablation_value(tiny_model, make_score_plan(tiny_model, tiny_examples(5), ablation="mean"))
    scores = score_heads(tiny_model, tiny_examples(5), ablation="mean")
    np.testing.assert_allclose(scores.ablated, slow_effects(tiny_model, 5, value), atol=5e-5)


def test_mean_value_counts_every_real_token_once(tiny_model: ReasoningModel) -> None:
    """Against the mean over unpadded single-example batches."""
    plan = make_score_plan(tiny_model, tiny_examples(5), ablation="mean")
    seen: list[Tensor] = []
    for encoded in plan.encoded:
        batch = batch_of(tiny_model, [encoded], packed=True)
        hooks = [("blocks.1.attn.hook_z", lambda z, hook: seen.append(z.clone()))]
        with torch.inference_mode(), tiny_model.bridge.hooks(fwd_hooks=hooks):
            dense_pass(tiny_model, batch, keep_calls=False)
    tokens = torch.cat([z.reshape(-1, 4, 8) for z in seen])
    torch.testing.assert_close(ablation_value(tiny_model, plan)[1], tokens.mean(dim=0), atol=1e-5, rtol=1e-5)


def test_ablation_has_an_effect_on_every_head(tiny_model: ReasoningModel) -> None:
    effects = score_heads(tiny_model, tiny_examples(4)).effects("nll")
    assert (np.abs(effects).max(axis=-1) > 1e-3).all()


def test_batching_does_not_change_scores(tiny_model: ReasoningModel) -> None:
    together = score_heads(tiny_model, tiny_examples(6))
    for i, example in enumerate(tiny_examples(6)):
        alone = score_heads(tiny_model, [example])
        width = alone.ablated.shape[-1]
        np.testing.assert_allclose(together.ablated[:, :, i, :width], alone.ablated[:, :, 0], atol=5e-5)


def test_options_of_different_number(tiny_model: ReasoningModel) -> None:
    scores = score_heads(tiny_model, (*tiny_examples(2, n_options=2), tiny_examples(3, n_options=5)[2]))
    assert np.isnan(scores.dense[0, 2:]).all()
    assert np.isfinite(scores.dense[2]).all()
    assert np.isfinite(scores.effects("choice_nll")).all()


def test_scoring_leaves_weights_and_hooks_alone(tiny_model: ReasoningModel) -> None:
    before = weights_digest(tiny_model)
    first = score_heads(tiny_model, tiny_examples(2))
    assert weights_digest(tiny_model) == before
    np.testing.assert_array_equal(first.ablated, score_heads(tiny_model, tiny_examples(2)).ablated)


def test_doctor_passes_on_a_sound_model(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    results = list(checks(tiny_model))
    assert [r.name for r in results if not r.passed] == []
    assert len(results) == 6


def test_doctor_notices_a_wrong_engine(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablating the neighbour's head must not pass."""
    import cap_viz.doctor as doctor

    right = doctor.ablate_layer
    monkeypatch.setattr(doctor, "ablate_layer", lambda *args: right(*args).roll(1, dims=0))
    failed = [r.name for r in checks(tiny_model) if not r.passed]
    assert "engine equals a full forward with the head zeroed" in failed
    assert "engine equals zeroed columns of the output projection" in failed
