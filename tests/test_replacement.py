"""What outputs are replaced by, and whole blocks ablated: the engine against plain forwards, one row per option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cap_viz.attribution.estimators import score_heads
from cap_viz.attribution.exact import encode_all, exact_scores, make_score_plan, partners_of, score_blocks
from cap_viz.attribution.forward.packing import EncodedExample
from cap_viz.attribution.forward.patching import counterparts, with_options
from cap_viz.attribution.forward.shortcut_checks import batch_of
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.attribution.hybrid import hybrid_scores
from cap_viz.attribution.joint_ablation import joint_effects
from cap_viz.attribution.results import Ablation
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.tasks import Example
from tests.tiny import tiny_examples

Edit = Callable[[Tensor, Any], Tensor]


def plain_loglik(model: ReasoningModel, encoded: EncodedExample, option: int, hooks: list[tuple[str, Edit]]) -> float:
    """One unpacked, unpadded row through the model's own forward."""
    ids = [*encoded.prefix, *encoded.branches[option]]
    with torch.inference_mode(), model.bridge.hooks(fwd_hooks=hooks):
        log_probabilities = model.bridge(torch.tensor([ids])).double().log_softmax(-1)[0]
    first = len(ids) - encoded.answer_lengths[option]
    return sum(float(log_probabilities[t - 1, ids[t]]) for t in range(first, len(ids)))


def plain_z(model: ReasoningModel, encoded: EncodedExample, option: int, layer: int) -> Tensor:
    """[position, head, d_head] of the untouched model on one option's row without its last token."""
    seen: list[Tensor] = []
    plain_loglik(model, encoded, option, [(f"blocks.{layer}.attn.hook_z", lambda z, hook: seen.append(z) or z)])
    return seen[0].reshape(-1, model.shape.n_heads, model.shape.d_head)[:-1]


def plain_resampled(model: ReasoningModel, own: EncodedExample, other: EncodedExample, option: int) -> np.ndarray:
    """Log-likelihood of an option [layer, head] with z of each head taken from `other`, token by token.

    The question's token p from the other question's token p or its last; an option's token at position p from the
    other's option at position p or the nearest of its positions.
    """
    k = option % len(other.branches)
    n_own, n_other, fed = len(own.prefix), len(other.prefix), len(other.branches[k]) - 1
    places = [min(p, n_other - 1) for p in range(n_own)]
    for p in range(n_own, n_own + len(own.branches[option]) - 1):
        places.append(min(max(p, n_other), n_other + fed - 1) if fed else n_other - 1)
    found = np.zeros((model.shape.n_layers, model.shape.n_heads))
    for layer, head in np.ndindex(*found.shape):
        value = plain_z(model, other, k, layer)[places, head]

        def overwrite(z: Tensor, hook: Any, head: int = head, value: Tensor = value) -> Tensor:
            z = z.clone()
            z[:, : len(value), head] = value
            return z

        found[layer, head] = plain_loglik(model, own, option, [(f"blocks.{layer}.attn.hook_z", overwrite)])
    return found


@pytest.mark.parametrize("own_blocks", [False, True])
def test_resample_ablation_equals_full_forwards(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, own_blocks: bool
) -> None:
    """Examples of different lengths, an option more in one, partners from another set that shares an example."""
    if own_blocks:
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    examples = (*tiny_examples(3), tiny_examples(5, n_options=5)[4])
    reference = tiny_examples(6)[2:]
    plan = make_score_plan(tiny_model, examples, ablation="resample", reference=reference, seed=3)
    assert plan.batches.direct != own_blocks
    scores = exact_scores(tiny_model, examples, ablation="resample", reference=reference, seed=3)
    others = encode_all(tiny_model, reference)
    for i, (own, partner) in enumerate(zip(plan.encoded, plan.reference.partners, strict=True)):
        for option in range(len(own.branches)):
            expected = plain_resampled(tiny_model, own, others[partner], option)
            np.testing.assert_allclose(scores.ablated[:, :, i, option], expected, atol=5e-5)
    assert np.abs(scores.effects("nll")).max() > 0.1


def test_resampling_from_the_same_text_changes_nothing(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(3)
    (first, *_) = examples
    twin = Example("twin", first.question, first.prompt, first.options, first.gold)
    scores = exact_scores(tiny_model, [first], ablation="resample", reference=[twin])
    np.testing.assert_allclose(scores.effects("nll"), 0, atol=1e-5)


def test_sets_of_heads_take_the_same_values(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(4)
    exact = exact_scores(tiny_model, examples, ablation="resample", seed=1)
    joint = joint_effects(tiny_model, examples, [((1, 2),)], ablation="resample", seed=1)
    np.testing.assert_allclose(joint.ablated[1], exact.ablated[1, 2], atol=5e-5)
    other = exact_scores(tiny_model, examples, ablation="resample", seed=2)
    assert np.abs(other.ablated[1, 2] - exact.ablated[1, 2]).max() > 1e-3


def test_counterparts_by_hand() -> None:
    """A question of 4 and one of 2 tokens; option 0 feeds 2 against 1 token, option 1 feeds 1 against none."""
    own = EncodedExample(prefix=(1, 2, 3, 4), branches=((5, 6, 7), (5, 8)), answer_lengths=(3, 2))
    other = EncodedExample(prefix=(1, 2), branches=((5, 6), (9,)), answer_lengths=(2, 1))

    class Shape:
        device, dtype = torch.device("cpu"), torch.float32

    batches = [batch_of(Shape, [e], packed=True) for e in (own, other)]  # pyright: ignore[reportArgumentType]
    assert counterparts(*batches).tolist() == [[0, 1, 1, 1, 2, 2, 1]]
    assert counterparts(*batches[::-1]).tolist() == [[0, 1, 4]]


def test_with_options() -> None:
    encoded = EncodedExample(prefix=(1,), branches=((2,), (3, 4)), answer_lengths=(1, 2))
    assert with_options(encoded, range(3)).branches == ((2,), (3, 4), (2,))
    assert with_options(encoded, [1]).answer_lengths == (2,)


def test_partners_are_others_and_stay_when_more_examples_come() -> None:
    examples = tiny_examples(12)
    partners = partners_of(examples, examples, seed=0)
    assert all(partner != i for i, partner in enumerate(partners))
    assert partners_of(examples[:5], examples, seed=0) == partners[:5]
    assert partners_of(examples, examples, seed=1) != partners
    with pytest.raises(UsageError, match="there is none beside 'tiny-0'; use at least two examples"):
        partners_of(examples[:1], examples[:1], seed=0)


def test_mean_over_other_examples(tiny_model: ReasoningModel) -> None:
    """The mean over a reference set, against the same examples scored together with it."""
    examples = tiny_examples(4)
    apart = exact_scores(tiny_model, examples[:2], ablation="mean", reference=examples)
    together = exact_scores(tiny_model, examples, ablation="mean")
    np.testing.assert_allclose(apart.ablated, together.ablated[:, :, :2], atol=5e-5)


@pytest.mark.parametrize("own_blocks", [False, True])
def test_whole_attention_and_mlp_equal_zeroed_projections(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, own_blocks: bool
) -> None:
    if own_blocks:
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    examples = tiny_examples(4)
    blocks = score_blocks(tiny_model, examples)
    encoded = encode_all(tiny_model, examples)
    weights = {m.name: m.weight for m in tiny_model.matrices()}
    for layer in range(3):
        for part, matrix in enumerate(("o", "down")):
            name = f"{layer}.{matrix}"
            with tiny_model.swapped({name: torch.zeros_like(weights[name])}):
                expected = [[plain_loglik(tiny_model, e, k, []) for k in range(4)] for e in encoded]
            np.testing.assert_allclose(blocks.ablated[layer, part], expected, atol=5e-5)
    np.testing.assert_allclose(blocks.dense, exact_scores(tiny_model, examples).dense, atol=5e-5)


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_direct_blocks_equal_the_models_own(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, ablation: Ablation
) -> None:
    """And the attention as a whole is all its heads together."""
    examples = tiny_examples(4)
    blocks = score_blocks(tiny_model, examples, ablation=ablation)
    layers = [tuple((layer, head) for head in range(4)) for layer in range(3)]
    joint = joint_effects(tiny_model, examples, layers, ablation=ablation)
    np.testing.assert_allclose(blocks.ablated[:, 0], joint.ablated[1:], atol=5e-5)
    monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    own = score_blocks(tiny_model, examples, ablation=ablation)
    np.testing.assert_allclose(blocks.ablated, own.ablated, atol=5e-5)
    assert np.abs(own.effects("nll")[:, 1]).min(axis=-1).max() > 1e-3


def test_both_parts_of_hybrid_take_the_same_values(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(24)
    hybrid = score_heads(tiny_model, examples, estimator="hybrid", ablation="resample", seed=5)
    exact = exact_scores(tiny_model, examples[:16], ablation="resample", seed=5)
    gradient = gradient_effects(tiny_model, examples, ablation="resample", reference=examples[:16], seed=5)
    expected = hybrid_scores(exact, gradient).estimate
    np.testing.assert_allclose(hybrid.estimate.mean, expected.mean, atol=1e-6)
    np.testing.assert_allclose(hybrid.estimate.slope, expected.slope, atol=1e-4)
