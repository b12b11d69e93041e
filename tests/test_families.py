"""Every architecture family on offer: tiny random models against plain full forwards."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from cap_viz.attribution.exact import direct_effects, encode_all, exact_scores, score_blocks
from cap_viz.attribution.forward.greedy import greedy_steps
from cap_viz.attribution.forward.llama_fast_path import direct_model
from cap_viz.attribution.forward.shortcut_checks import dense_logliks, direct_decoding_is_valid
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.attribution.path_scores import PATH_PARTS, Receiver
from cap_viz.attribution.paths import path_effects
from cap_viz.attribution.positions import span_effects
from cap_viz.attribution.self_test import checks
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelSource
from cap_viz.models.loading import ReasoningModel, boot
from tests.test_decoding import plain_greedy
from tests.test_direct_effects import slow_direct
from tests.test_engine import slow_effects
from tests.test_gradient import derivative, moved_z
from tests.test_paths import hooked_path, slow_paths
from tests.test_positions import places_by_hand, replacing
from tests.test_replacement import plain_loglik
from tests.tiny import tiny_examples

SMALL: dict[str, Any] = {
    "vocab_size": 56,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
}
GROUPED: dict[str, Any] = {**SMALL, "num_key_value_heads": 2}
WINDOW = 24
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(
        vocab_size=56,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=128,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "gpt_neox": GPTNeoXConfig(**SMALL),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral": MistralConfig(**GROUPED, sliding_window=WINDOW),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=WINDOW),
}


@pytest.fixture(params=CONFIGS)
def family(request: pytest.FixtureRequest, tiny_folder: Path) -> ReasoningModel:
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    network.config.architectures = [type(network).__name__]
    # Booted rather than loaded: a folder's model type would also choose the family's own tokenizer class.
    source = ModelSource(id=request.param, title=request.param, folder=tiny_folder, fingerprint="random")
    return boot(source, network, AutoTokenizer.from_pretrained(tiny_folder))


def test_scores_equal_full_forwards(family: ReasoningModel) -> None:
    zeros = torch.zeros(3, 4, family.shape.d_head)
    np.testing.assert_allclose(
        exact_scores(family, tiny_examples(4)).ablated, slow_effects(family, 4, zeros), atol=1e-4
    )


def test_whole_blocks_equal_full_forwards(family: ReasoningModel) -> None:
    """With hooks on the original modules: zeros into the output projection, zeros out of the MLP."""
    examples, block = tiny_examples(3), family.blocks[1]
    blocks = score_blocks(family, examples).ablated[1]
    projection, mlp = block.attn.o.original_component, block.mlp.original_component
    handles = (
        lambda: projection.register_forward_pre_hook(lambda module, args: (torch.zeros_like(args[0]),)),
        lambda: mlp.register_forward_hook(lambda module, args, output: torch.zeros_like(output)),
    )
    for part, register in enumerate(handles):
        with register():
            expected = dense_logliks(family, encode_all(family, examples), packed=False)
        np.testing.assert_allclose(blocks[part], expected, atol=1e-4)


def test_direct_effects_equal_forwards_with_all_else_frozen(family: ReasoningModel) -> None:
    examples = tiny_examples(2)
    found = direct_effects(family, examples, progress=False)
    np.testing.assert_allclose(found.ablated, slow_direct(family, examples), atol=1e-4)


def test_a_frozen_norm_keeps_its_dense_scale(family: ReasoningModel) -> None:
    examples = tiny_examples(1)
    found = direct_effects(family, examples, frozen_norm=True, progress=False)
    np.testing.assert_allclose(found.ablated, slow_direct(family, examples, frozen_norm=True), atol=1e-4)


def test_paths_equal_forwards_with_one_receiver_changed(family: ReasoningModel) -> None:
    examples = tiny_examples(1, n_options=2)
    found = path_effects(family, examples, [(0, 1)], receivers=[(1, 2), (2, 0)], parts=PATH_PARTS, progress=False)
    places = [n for n, path in enumerate(found.paths) if path.receiver.kind in ("head", "mlp")]
    slow = slow_paths(family, examples, [found.paths[n] for n in places], hooked_path)
    np.testing.assert_allclose(found.ablated[places], slow, atol=1e-4)
    side_by_side = family.ref.id == "gpt_neox"
    assert (Receiver("mlp", 0) in {path.receiver for path in found.paths}) != side_by_side


def test_spans_equal_forwards_changed_at_their_tokens(family: ReasoningModel) -> None:
    example, head = tiny_examples(2)[1], (1, 2)
    found, encoded = span_effects(family, [example], [head], progress=False), encode_all(family, [example])[0]
    for name, places in places_by_hand(example, encoded).items():
        hook = replacing(*head, torch.zeros(3, 4, family.shape.d_head), places)
        change = plain_loglik(family, encoded, example.gold, []) - plain_loglik(family, encoded, example.gold, [hook])
        expected = change / encoded.answer_lengths[example.gold]
        assert found.effects("nll")[0, found.parts.index(name), 0] == pytest.approx(expected, abs=1e-4)


def test_doctor_passes(family: ReasoningModel) -> None:
    assert [(c.name, c.detail) for c in checks(family) if not c.passed] == []


def test_packed_rows_equal_the_plain_model(family: ReasoningModel) -> None:
    """Unpadded sequences with the model's own mask: the window of Mistral and Gemma is seen whole."""
    (example,) = tiny_examples(1)
    packed = dense_logliks(family, encode_all(family, [example]), packed=True)
    n_context = len(family.tokenizer.encode(example.prompt))
    for k, option in enumerate(example.options):
        ids = family.tokenizer.encode(example.prompt + option)
        with torch.inference_mode():
            logits = family.bridge(torch.tensor([ids])).log_softmax(-1)[0]
        assert packed[0, k] == pytest.approx(
            sum(float(logits[t - 1, ids[t]]) for t in range(n_context, len(ids))), abs=5e-5
        )


def test_gradient_is_the_derivative_of_shrinking_a_head(family: ReasoningModel) -> None:
    examples, nothing = tiny_examples(1), torch.zeros(family.shape.d_head)
    found = gradient_effects(family, examples, metric="nll", units=True)
    expected = derivative(family, examples, partial(moved_z, family, 1, 2, nothing))[0]
    np.testing.assert_allclose(found.per_example[1, 2], expected, atol=3e-4)
    assert found.units is not None
    assert found.units.shape == (3, family.shape.d_mlp)


def test_written_text_is_that_of_full_forwards(family: ReasoningModel) -> None:
    prompts = [[7, 12, 9, *family.tokenizer.encode(example.prompt)] for example in tiny_examples(3)]
    expected = [plain_greedy(family, prompt, 6) for prompt in prompts]
    has_direct = direct_model(family) is not None
    assert has_direct == direct_decoding_is_valid(family, prompts)
    for direct in {False, has_direct}:
        assert torch.stack(list(greedy_steps(family, prompts, 6, direct=direct)), dim=1).tolist() == expected


def test_examples_beyond_the_window_are_refused(family: ReasoningModel) -> None:
    """Our masks know no sliding window, so longer examples would silently get another attention."""
    windowed = family.ref.id in ("mistral", "gemma3")
    assert family.shape.n_ctx == (WINDOW if windowed else 128)
    if windowed:
        (example,) = tiny_examples(1)
        longer = type(example)(example.id, example.question, example.prompt + " sun" * WINDOW, example.options, 0)
        with pytest.raises(UsageError, match=rf"{example.id!r}.*\b{WINDOW}\b"):
            exact_scores(family, [longer])


def test_a_family_that_cannot_be_replayed_is_refused(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_model, "passed", set())
    monkeypatch.setattr(
        "cap_viz.attribution.forward.shortcut_checks.replay_dense", lambda model, dense: dense.final * 1.1
    )
    with pytest.raises(CapVizError, match="cannot be run one by one"):
        exact_scores(tiny_model, tiny_examples(2))
