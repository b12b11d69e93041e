"""Direct effects: what a head writes into the last residual stream, against plain forwards with all else frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cap_viz.attribution.effect_split import split_effects
from cap_viz.attribution.exact import direct_effects, encode_all, exact_scores, make_score_plan
from cap_viz.attribution.forward.packing import EncodedExample
from cap_viz.attribution.results import DirectScores, HeadScores, Questions
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.tasks import Example
from tests.test_replacement import plain_loglik
from tests.tiny import tiny_examples


def sites_from(model: ReasoningModel, layer: int) -> list[str]:
    """Outputs that an ablation at `layer` may change: its own MLP, and z and MLP of every later layer."""
    later = range(layer + 1, model.shape.n_layers)
    return [
        f"blocks.{layer}.mlp.hook_out",
        *(f"blocks.{at}.{end}" for at in later for end in ("attn.hook_z", "mlp.hook_out")),
    ]


def scaled_by(model: ReasoningModel, read: Tensor, dense: Tensor) -> Tensor:
    """The final norm of `read` by hand, with the scale of `dense`."""
    norm = model.bridge.ln_final.original_component
    weight = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
    bias = 0
    if isinstance(norm, torch.nn.LayerNorm):
        read, dense = (x - x.mean(-1, keepdim=True) for x in (read, dense))
        bias = norm.bias
    eps = getattr(norm, "variance_epsilon", None) or norm.eps
    return read / (dense.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def plain_direct(
    model: ReasoningModel, encoded: EncodedExample, option: int, value: float = 0.0, *, frozen_norm: bool = False
) -> np.ndarray:
    """Log-likelihood [layer, head] of an option with z of one head set to `value` and all that reads it kept dense."""
    dense: dict[str, Tensor] = {}
    read: list[Tensor] = []
    into_norm, out_of_norm = "ln_final.hook_in", "ln_final.hook_out"

    def remember(output: Tensor, hook: Any) -> Tensor:
        dense[hook.name] = output.clone()
        return output

    def restore(output: Tensor, hook: Any) -> Tensor:
        return dense[hook.name]

    plain_loglik(model, encoded, option, [(name, remember) for name in [*sites_from(model, 0), into_norm]])
    found = np.zeros((model.shape.n_layers, model.shape.n_heads))
    for layer, head in np.ndindex(*found.shape):

        def ablate(z: Tensor, hook: Any, head: int = head) -> Tensor:
            by_head = z.reshape(*z.shape[:2], model.shape.n_heads, -1).clone()
            by_head[:, :, head] = value
            return by_head.reshape(z.shape)

        hooks: list[tuple[str, Callable[[Tensor, Any], Tensor]]] = [(f"blocks.{layer}.attn.hook_z", ablate)]
        hooks += [(name, restore) for name in sites_from(model, layer)]
        if frozen_norm:
            hooks.append((into_norm, lambda x, hook: read.append(x) or x))
            hooks.append((out_of_norm, lambda x, hook: scaled_by(model, read.pop(), dense[into_norm])))
        found[layer, head] = plain_loglik(model, encoded, option, hooks)
    return found


def slow_direct(model: ReasoningModel, examples: Sequence[Example], *, frozen_norm: bool = False) -> np.ndarray:
    """[layer, head, example, option], NaN for absent options."""
    encoded = encode_all(model, examples)
    width = max(len(example.branches) for example in encoded)
    shape = model.shape.n_layers, model.shape.n_heads, len(examples), width
    found = np.full(shape, np.nan)
    for i, example in enumerate(encoded):
        for option in range(len(example.branches)):
            found[:, :, i, option] = plain_direct(model, example, option, frozen_norm=frozen_norm)
    return found


@pytest.mark.parametrize("own_blocks", [False, True])
def test_direct_effects_equal_forwards_with_all_else_frozen(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, own_blocks: bool
) -> None:
    if own_blocks:
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    examples = (*tiny_examples(3), tiny_examples(5, n_options=5)[4])
    assert make_score_plan(tiny_model, examples, parts="writes").batches.direct != own_blocks
    scores = direct_effects(tiny_model, examples, progress=False)
    np.testing.assert_allclose(scores.ablated, slow_direct(tiny_model, examples), atol=1e-4)
    np.testing.assert_allclose(scores.dense, exact_scores(tiny_model, examples).dense, atol=1e-5)


@pytest.mark.parametrize("own_blocks", [False, True])
def test_a_frozen_norm_divides_by_the_dense_scale(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, own_blocks: bool
) -> None:
    if own_blocks:
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    examples = tiny_examples(3)
    frozen = direct_effects(tiny_model, examples, frozen_norm=True, progress=False)
    np.testing.assert_allclose(frozen.ablated, slow_direct(tiny_model, examples, frozen_norm=True), atol=1e-4)
    assert np.nanmax(np.abs(frozen.ablated - direct_effects(tiny_model, examples, progress=False).ablated)) > 1e-3


@pytest.mark.parametrize("parts", ["heads", "blocks"])
def test_the_norm_is_frozen_for_direct_effects_alone(tiny_model: ReasoningModel, parts: str) -> None:
    with pytest.raises(UsageError, match=f'"writes".*{parts!r}; leave frozen_norm out'):
        make_score_plan(tiny_model, tiny_examples(2), parts=parts, frozen_norm=True)


def test_nothing_reads_the_last_layer_s_heads_but_its_own_mlp(tiny_model: ReasoningModel) -> None:
    """With the last MLP silenced, the direct effect of a head of the last layer is its whole effect."""
    examples, last = tiny_examples(3), tiny_model.blocks[-1]
    weight = last.mlp.out.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.zero_()
        total, direct = exact_scores(tiny_model, examples), direct_effects(tiny_model, examples, progress=False)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    np.testing.assert_allclose(direct.effects("nll")[-1], total.effects("nll")[-1], atol=1e-4)
    assert np.abs(direct.effects("nll")[0] - total.effects("nll")[0]).max() > 1e-3


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_other_values_than_zero_are_put_in_alike_by_both_ways(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, ablation: Any
) -> None:
    examples = tiny_examples(4)
    fast = direct_effects(tiny_model, examples, ablation=ablation, seed=2, progress=False)
    monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    slow = direct_effects(tiny_model, examples, ablation=ablation, seed=2, progress=False)
    np.testing.assert_allclose(fast.ablated, slow.ablated, atol=1e-4)
    zeroed = direct_effects(tiny_model, examples, progress=False)
    assert np.nanmax(np.abs(zeroed.ablated - fast.ablated)) > 1e-3


def test_a_family_that_does_more_with_its_attention_is_refused(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "cap_viz.attribution.forward.shortcut_checks.written",
        lambda model, layer, z: 2 * model.blocks[layer].attn.o(z.flatten(-2)),
    )
    tiny_model.passed.discard("writes")
    with pytest.raises(CapVizError, match="direct effects"):
        make_score_plan(tiny_model, tiny_examples(2), parts="writes")


def scores_of(kind: type[HeadScores], losses: Sequence[Sequence[float]], ids: Sequence[str] = ("a", "b", "c")) -> Any:
    """Scores of one layer whose heads' effects on nll are `losses` [head][example], of one option of one token."""
    n = len(ids)
    ones = np.ones((n, 1), dtype=np.int64)
    questions = Questions(tuple(ids), np.zeros(n, dtype=np.int64), ones, ones)
    ablated = -np.asarray(losses, dtype=np.float32)[None, :, :, None]
    return kind(questions=questions, dense=np.zeros((n, 1), dtype=np.float32), ablated=ablated)


def test_the_indirect_effect_is_the_rest_and_repair_is_named_where_it_is_sure() -> None:
    """Head 0 is repaired by about 2 nats; head 1 acts further on; head 2's difference is noise; head 3 hurts."""
    total = scores_of(HeadScores, [[1.0, 1.01, 0.99], [3.0, 3.01, 2.99], [1.0, 2.0, 0.0], [-1.0, -1.01, -0.99]])
    direct = scores_of(DirectScores, [[3.0, 3.0, 3.0], [1.0, 1.0, 1.0], [1.1, 1.1, 1.1], [-3.0, -3.0, -3.0]])
    split = split_effects(total, direct)
    indirect = split.indirect("nll")
    np.testing.assert_allclose(indirect.mean, [[-2.0, 2.0, -0.1, 2.0]], atol=1e-6)
    # Paired: the standard error of (-2, -1.99, -2.01) is 0.01 / sqrt(3).
    assert indirect.std_error[0, 0] == pytest.approx(0.01 / np.sqrt(3), rel=1e-3)
    np.testing.assert_allclose(split.repaired("nll"), [[2.0, 0.0, 0.0, 0.0]], atol=1e-6)
    table = split.to_pandas("nll")
    np.testing.assert_allclose(table["direct"] + table["indirect"], table["total"], atol=1e-6)
    assert "1 heads repaired" in split.headline


def test_effects_of_other_examples_or_heads_are_not_paired() -> None:
    total = scores_of(HeadScores, [[1.0, 1.0, 1.0]])
    with pytest.raises(UsageError, match="different examples"):
        split_effects(total, scores_of(DirectScores, [[1.0, 1.0, 1.0]], ids=("a", "b", "d")))
    with pytest.raises(UsageError, match="different heads"):
        split_effects(total, scores_of(DirectScores, [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))
