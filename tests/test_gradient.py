"""The gradient estimator against numerical derivatives, a model where it is exact, and the metrics' definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from cap_viz.attribution.effect_metrics import DIFFERENTIABLE, METRICS, metric_named
from cap_viz.attribution.estimators import score_heads
from cap_viz.attribution.exact import encode_all, exact_scores
from cap_viz.attribution.forward.backward import LOSSES, gradient_pass
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.attribution.forward.shortcut_checks import batch_of
from cap_viz.attribution.gradient import gradient_effects, gradient_steps, make_gradient_plan
from cap_viz.attribution.results import ABLATIONS
from cap_viz.attribution.self_test import weights_digest
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelSource
from cap_viz.models.loading import ReasoningModel, boot
from cap_viz.tasks import Example
from tests.test_engine import mean_z
from tests.tiny import tiny_examples

# Norms compute in single precision whatever the dtype, so small steps drown: with five points 0.03 is still exact.
STEP = 0.03
ATOL = 2e-4


def plain_losses(model: ReasoningModel, examples: tuple[Example, ...]) -> np.ndarray:
    """Every metric [metric, example] from full logits: one row per option under the model's own causal mask."""
    encode = model.tokenizer.encode
    starts = [len(encode(example.prompt)) for example in examples]
    rows = [[encode(example.prompt + option) for option in example.options] for example in examples]
    flat = [torch.tensor(ids) for options in rows for ids in options]
    with torch.inference_mode():
        # Padding on the right is seen by nothing before it.
        log_probabilities = model.bridge(pad_sequence(flat, batch_first=True)).double().log_softmax(-1)
    logliks, tokens = np.zeros((len(rows), len(rows[0]))), np.zeros((len(rows), len(rows[0])), dtype=np.int64)
    for i, options in enumerate(rows):
        for k, ids in enumerate(options):
            places = torch.arange(starts[i], len(ids))
            picked = log_probabilities[i * len(options) + k, places - 1, torch.tensor(ids)[places]]
            logliks[i, k], tokens[i, k] = float(picked.sum()), len(places)
    gold = np.array([example.gold for example in examples])
    return np.stack([metric_named(metric)(logliks, gold, tokens) for metric in LOSSES])


@contextmanager
def moved_z(model: ReasoningModel, layer: int, head: int, value: Tensor, step: float) -> Iterator[None]:
    """z of one head moved by `step` of the way to `value`."""

    def move(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[:, :, head] += step * (value - z[:, :, head])
        return z

    with model.bridge.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", move)]):
        yield


@contextmanager
def shrunken_unit(model: ReasoningModel, layer: int, unit: int, step: float) -> Iterator[None]:
    """One input of an MLP's down projection made smaller by the share `step`."""
    down = next(m for m in model.matrices() if m.layer == layer and m.kind == "down").module

    def shrink(module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        hidden = inputs[0].clone()
        hidden[..., unit] *= 1 - step
        return (hidden,)

    with down.register_forward_pre_hook(shrink):
        yield


def derivative(
    model: ReasoningModel, examples: tuple[Example, ...], moved: Callable[[float], AbstractContextManager[None]]
) -> np.ndarray:
    """Slope of every metric [metric, example] by the five-point rule, whose error is of the order of STEP⁴."""
    total = np.zeros((len(LOSSES), len(examples)))
    for step, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
        with moved(step * STEP):
            total += weight * plain_losses(model, examples)
    return total / (12 * STEP)


def all_effects(model: ReasoningModel, examples: tuple[Example, ...], ablation: str) -> np.ndarray:
    """[metric, layer, head, example]."""
    found = [gradient_effects(model, examples, metric=metric, ablation=ablation).per_example for metric in LOSSES]
    return np.stack(found)


def test_zero_ablation_is_the_derivative_of_shrinking_each_head(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(2)
    found = all_effects(tiny_model, examples, "zero")
    for layer, head in np.ndindex(3, 4):
        expected = derivative(tiny_model, examples, partial(moved_z, tiny_model, layer, head, torch.zeros(8)))
        np.testing.assert_allclose(found[:, layer, head], expected, atol=ATOL)
    assert (np.abs(found).max(axis=-1) > 1e-3).all()


def test_mean_ablation_is_the_derivative_towards_the_mean(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(3)
    value = mean_z(tiny_model, examples)
    found = all_effects(tiny_model, examples, "mean")
    for layer, head in ((0, 0), (1, 3), (2, 2)):
        expected = derivative(tiny_model, examples, partial(moved_z, tiny_model, layer, head, value[layer, head]))
        np.testing.assert_allclose(found[:, layer, head], expected, atol=ATOL, rtol=1e-4)


def test_units_are_the_derivative_of_shrinking_each_hidden_unit(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(2)
    units = gradient_effects(tiny_model, examples, metric="nll", units=True).units
    assert units is not None
    assert units.shape == (3, 48)
    for layer, unit in ((0, 0), (0, 31), (1, 7), (2, 47)):
        expected = derivative(tiny_model, examples, partial(shrunken_unit, tiny_model, layer, unit))
        assert units[layer, unit] == pytest.approx(expected[list(LOSSES).index("nll")].mean(), abs=ATOL)
    assert gradient_effects(tiny_model, examples, metric="nll").units is None, "only where asked for"


def linear_model(folder: Path) -> ReasoningModel:
    """One block without MLP whose last norm divides by a constant, so that logits are linear in z.

    Coordinate 0 of the stream holds 1e4 and nothing reads it or writes to it; the norm is 1e4 / sqrt(32) up to 1e-7.
    """
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    network.model.layers = network.model.layers[:1]
    network.config.num_hidden_layers = 1
    with torch.no_grad():
        network.model.embed_tokens.weight[:, 0] = 1e4
        network.model.layers[0].self_attn.o_proj.weight[0] = 0
        network.model.layers[0].mlp.down_proj.weight.zero_()
        # The first norm shrinks the other coordinates, which the heads read, to 1e-3.
        network.model.layers[0].input_layernorm.weight.fill_(1e4 / 32**0.5)
        network.model.layers[0].input_layernorm.weight[0] = 0
        network.model.norm.weight.fill_(1e4 / 32**0.5)
        network.lm_head.weight[:, 0] = 0
    source = ModelSource(id="linear", title="linear", folder=folder, fingerprint="linear")
    return boot(source, network, AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_equals_the_exact_effect_where_the_model_is_linear(tiny_folder: Path, ablation: str) -> None:
    """With one-token options logit_diff is a difference of two logits, here linear in every z."""
    model = linear_model(tiny_folder)
    examples = tuple(
        Example(id=e.id, question=e.question, prompt=e.prompt, options=(" sun", " moon"), gold=0)
        for e in tiny_examples(3)
    )
    estimated = gradient_effects(model, examples, metric="logit_diff", ablation=ablation).per_example
    exact = exact_scores(model, examples, ablation=ablation).effects("logit_diff")
    np.testing.assert_allclose(estimated, exact, atol=1e-4)
    assert np.abs(exact).max() > 0.05


@pytest.mark.parametrize("metric", LOSSES)
def test_packed_rows_equal_separate_rows(tiny_model: ReasoningModel, metric: str) -> None:
    examples = (*tiny_examples(3, n_options=2), tiny_examples(5, n_options=5)[4])
    encoded = encode_all(tiny_model, examples)
    gold = torch.tensor([example.gold for example in examples])

    def found(batch: PackedBatch) -> Any:
        return gradient_pass(tiny_model, batch, metric=metric, gold=gold, value=torch.zeros(3, 1, 1, 4, 8), units=True)

    packed, separate = (found(batch_of(tiny_model, encoded, packed=packed)) for packed in (True, False))
    torch.testing.assert_close(packed.effects, separate.effects, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(packed.units, separate.units, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(packed.logliks, separate.logliks, atol=5e-5, rtol=1e-4, equal_nan=True)


def test_batching_does_not_change_effects(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    together = gradient_effects(tiny_model, tiny_examples(6), metric="nll", units=True)
    monkeypatch.setattr("cap_viz.attribution.gradient.TOKENS_PER_BACKWARD", 1)
    alone = gradient_effects(tiny_model, tiny_examples(6), metric="nll", units=True)
    np.testing.assert_allclose(together.per_example, alone.per_example, atol=5e-5)
    assert together.units is not None
    assert alone.units is not None
    np.testing.assert_allclose(together.units, alone.units, atol=5e-5)


def test_known_values_are_the_engine_s(tiny_model: ReasoningModel) -> None:
    """All options for a metric that compares them; nll needs the gold one alone, whatever the others are."""
    examples = tiny_examples(4)
    exact = exact_scores(tiny_model, examples).dense
    np.testing.assert_allclose(
        gradient_effects(tiny_model, examples, metric="choice_nll").known_logliks, exact, atol=5e-5
    )
    found = gradient_effects(tiny_model, examples)
    expected = np.full_like(exact, np.nan)
    gold = [example.gold for example in examples]
    expected[range(4), gold] = exact[range(4), gold]
    np.testing.assert_allclose(found.known_logliks, expected, atol=5e-5)
    np.testing.assert_array_equal(found.questions.tokens, exact_scores(tiny_model, examples).questions.tokens)
    others = tuple(
        replace(e, options=tuple(o if k == e.gold else " leaf" for k, o in enumerate(e.options)))
        for e in tiny_examples(4, n_options=2)
    )
    pairs = gradient_effects(tiny_model, tiny_examples(4, n_options=2)).per_example
    np.testing.assert_allclose(gradient_effects(tiny_model, others).per_example, pairs, atol=1e-6)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_gold_option_alone_gives_the_effects_beside_the_others(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, ablation: str
) -> None:
    alone = gradient_effects(tiny_model, tiny_examples(5), ablation=ablation, units=True)
    monkeypatch.setattr("cap_viz.attribution.gradient.COMPARES_OPTIONS", ("nll",))
    beside = gradient_effects(tiny_model, tiny_examples(5), ablation=ablation, units=True)
    assert np.isfinite(beside.known_logliks).all()
    np.testing.assert_allclose(alone.per_example, beside.per_example, atol=5e-5)
    assert alone.units is not None
    assert beside.units is not None
    np.testing.assert_allclose(alone.units, beside.units, atol=5e-5)


@pytest.mark.parametrize("metric", LOSSES)
def test_losses_agree_with_the_metrics(metric: str) -> None:
    """One definition in two libraries: equal on random values, with options that are absent."""
    random = np.random.default_rng(0)
    logliks = random.normal(-9, 4, size=(50, 5))
    tokens = random.integers(1, 9, size=(50, 5))
    gold = random.integers(0, 3, size=50)
    for row in range(0, 50, 2):
        logliks[row, 3:], tokens[row, 3:] = np.nan, 0
    ours = LOSSES[metric](*(torch.from_numpy(array) for array in (logliks, gold, tokens)))
    np.testing.assert_allclose(ours.numpy(), METRICS[metric](logliks, gold, tokens), rtol=1e-12)


def test_every_differentiable_metric_has_a_loss() -> None:
    assert tuple(LOSSES) == DIFFERENTIABLE


def test_the_model_is_left_as_it_was(tiny_model: ReasoningModel) -> None:
    before = weights_digest(tiny_model)
    gradient_effects(tiny_model, tiny_examples(2), metric="nll", units=True)
    assert weights_digest(tiny_model) == before
    parameters = list(tiny_model.bridge.parameters())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in parameters)
    assert not any(block._forward_pre_hooks for block in tiny_model.blocks)


def test_one_way_in_to_all_estimators(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(24)
    exact = score_heads(tiny_model, examples[:16])
    gradient = score_heads(tiny_model, examples, estimator="gradient", metric="nll")
    hybrid = score_heads(tiny_model, examples, estimator="hybrid", metric="nll")
    few = gradient.per_example[..., :16].mean(axis=-1)
    corrected = exact.mean_effect("nll") - hybrid.estimate.slope * (few - gradient.mean_effect("nll"))
    np.testing.assert_allclose(hybrid.mean_effect("nll"), corrected, atol=1e-5)
    assert (hybrid.estimate.n, hybrid.estimate.n_gradient) == (16, 24)
    for wrong in (gradient, hybrid):
        with pytest.raises(UsageError, match=r"'nll'.*'logit_diff'"):
            wrong.mean_effect("logit_diff")
    with pytest.raises(UsageError, match=r"estimator 'magic'.*exact, gradient, hybrid"):
        score_heads(tiny_model, examples, estimator="magic")  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(UsageError, match=r"metric 'loss'.*nll"):
        score_heads(tiny_model, examples, metric="loss")


def test_what_has_no_gradient_is_refused(tiny_model: ReasoningModel) -> None:
    with pytest.raises(UsageError, match=r"'accuracy'.*\bgradient\b.*\bnll\b"):
        gradient_effects(tiny_model, tiny_examples(1), metric="accuracy")
    with pytest.raises(UsageError, match=r"metric 'loss'.*nll"):
        gradient_effects(tiny_model, tiny_examples(1), metric="loss")
    with pytest.raises(UsageError, match=r"choice_nll\b.*\bnll\b"):
        make_gradient_plan(tiny_model, tiny_examples(1, n_options=1), metric="choice_nll")
    with pytest.raises(UsageError, match=r"ablation 'noise'.*zero"):
        gradient_effects(tiny_model, tiny_examples(1), ablation="noise")


def test_broken_weights_are_noticed(tiny_model: ReasoningModel) -> None:
    matrix = next(m for m in tiny_model.matrices() if m.name == "1.down")
    broken = {matrix.name: torch.full_like(matrix.weight, torch.nan)}
    plan = make_gradient_plan(tiny_model, tiny_examples(1), metric="nll")
    with tiny_model.swapped(broken), pytest.raises(CapVizError, match="not finite"):
        list(gradient_steps(tiny_model, plan, metric="nll"))
