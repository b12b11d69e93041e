"""The engine against the plain slow way: a full forward per head with hook_z overwritten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cap_viz.attribution.exact import exact_scores, head_groups, make_score_plan, replacing, score_steps
from cap_viz.attribution.forward import packing
from cap_viz.attribution.forward.dense_pass import dense_pass, option_logliks
from cap_viz.attribution.forward.patching import heads_site
from cap_viz.attribution.forward.replay import OwnBlocks
from cap_viz.attribution.forward.shortcut_checks import batch_of
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.attribution.results import ABLATIONS
from cap_viz.attribution.self_test import checks, weights_digest
from cap_viz.evaluation.choice import evaluate, make_eval_plan
from cap_viz.models.catalogue import ModelSource
from cap_viz.models.loading import ReasoningModel, boot
from cap_viz.pruning import prune_mask
from cap_viz.tasks import Example, Splits, Task
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

                with torch.inference_mode():
                    found = option_logliks(model, batch, [(f"blocks.{layer}.attn.hook_z", overwrite)])
                result[layer, head, i] = found.numpy()
    return result


def mean_z(model: ReasoningModel, examples: tuple[Example, ...]) -> Tensor:
    """[layer, head, d_head]."""
    plan = make_score_plan(model, examples, ablation="mean")
    return replacing(model, plan, heads_site(model.shape))([0])[:, 0, 0]


def test_zero_ablation_equals_full_forward(tiny_model: ReasoningModel) -> None:
    scores = exact_scores(tiny_model, tiny_examples(5))
    zeros = torch.zeros(tiny_model.shape.n_layers, tiny_model.shape.n_heads, tiny_model.shape.d_head)
    np.testing.assert_allclose(scores.ablated, slow_effects(tiny_model, 5, zeros), atol=5e-5)


def test_mean_ablation_equals_full_forward(tiny_model: ReasoningModel) -> None:
    value = mean_z(tiny_model, tiny_examples(5))
    scores = exact_scores(tiny_model, tiny_examples(5), ablation="mean")
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
    torch.testing.assert_close(mean_z(tiny_model, tiny_examples(5))[1], tokens.mean(dim=0), atol=1e-5, rtol=1e-5)


def test_ablation_has_an_effect_on_every_head(tiny_model: ReasoningModel) -> None:
    effects = exact_scores(tiny_model, tiny_examples(4)).effects("nll")
    assert (np.abs(effects).max(axis=-1) > 1e-3).all()


def test_batching_does_not_change_scores(tiny_model: ReasoningModel) -> None:
    together = exact_scores(tiny_model, tiny_examples(6))
    for i, example in enumerate(tiny_examples(6)):
        alone = exact_scores(tiny_model, [example])
        width = alone.ablated.shape[-1]
        np.testing.assert_allclose(together.ablated[:, :, i, :width], alone.ablated[:, :, 0], atol=5e-5)


def test_options_of_different_number(tiny_model: ReasoningModel) -> None:
    scores = exact_scores(tiny_model, (*tiny_examples(2, n_options=2), tiny_examples(3, n_options=5)[2]))
    assert np.isnan(scores.dense[0, 2:]).all()
    assert np.isfinite(scores.dense[2]).all()
    assert np.isfinite(scores.effects("choice_nll")).all()


def test_scoring_leaves_weights_and_hooks_alone(tiny_model: ReasoningModel) -> None:
    before = weights_digest(tiny_model)
    first = exact_scores(tiny_model, tiny_examples(2))
    assert weights_digest(tiny_model) == before
    np.testing.assert_array_equal(first.ablated, exact_scores(tiny_model, tiny_examples(2)).ablated)


def test_doctor_passes_on_a_sound_model(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    results = list(checks(tiny_model))
    assert [r.name for r in results if not r.passed] == []
    assert len(results) == 6


def test_doctor_passes_on_a_single_layer(tiny_folder: Path) -> None:
    """It took the second of the heads it had chosen, one a layer."""
    config = LlamaConfig.from_pretrained(tiny_folder, num_hidden_layers=1)
    source = ModelSource(id="one-layer", title="one layer", folder=tiny_folder, fingerprint="one-layer")
    one_layer = boot(source, LlamaForCausalLM(config).eval(), AutoTokenizer.from_pretrained(tiny_folder))
    assert [(check.name, check.passed) for check in checks(one_layer) if not check.passed] == []


def test_doctor_passes_where_questions_have_different_numbers_of_options(
    tiny_model: ReasoningModel, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options that one of the two questions lacks made the comparison of packed and separate rows fail."""
    questions = (tiny_examples(1, n_options=2)[0], tiny_examples(2)[1])
    task = replace(tiny_task, load=lambda: Splits(calibration=tiny_examples(3)[2:], evaluation=questions))
    monkeypatch.setattr("cap_viz.attribution.self_test.load_task", lambda name: task)
    assert [(check.name, check.detail) for check in checks(tiny_model) if not check.passed] == []


def test_doctor_notices_numbers_that_are_not_finite(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They counted as no difference."""
    right = OwnBlocks.ablate_heads
    monkeypatch.setattr(OwnBlocks, "ablate_heads", lambda *args: right(*args) * float("nan"))
    failed = [check.name for check in checks(tiny_model) if not check.passed]
    assert "engine equals a full forward with the head zeroed" in failed
    assert "engine equals zeroed columns of the output projection" in failed


def test_doctor_notices_a_wrong_engine(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ablating the neighbour's head must not pass."""
    right = OwnBlocks.ablate_heads
    monkeypatch.setattr(OwnBlocks, "ablate_heads", lambda *args: right(*args).roll(1, dims=0))
    failed = [r.name for r in checks(tiny_model) if not r.passed]
    assert "engine equals a full forward with the head zeroed" in failed
    assert "engine equals zeroed columns of the output projection" in failed


def test_direct_blocks_are_used_and_equal_the_models_own(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = tiny_examples(6)
    assert make_score_plan(tiny_model, examples).batches.direct
    direct = exact_scores(tiny_model, examples, ablation="mean")
    monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    assert not make_score_plan(tiny_model, examples).batches.direct
    np.testing.assert_allclose(direct.ablated, exact_scores(tiny_model, examples, ablation="mean").ablated, atol=5e-5)


def test_models_own_blocks_equal_full_forward(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    scores = exact_scores(tiny_model, tiny_examples(3))
    zeros = torch.zeros(tiny_model.shape.n_layers, tiny_model.shape.n_heads, tiny_model.shape.d_head)
    np.testing.assert_allclose(scores.ablated, slow_effects(tiny_model, 3, zeros), atol=5e-5)


def test_evaluation_reads_by_the_direct_blocks_where_they_are_the_models_own(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = tiny_examples(5)
    mask = prune_mask(tiny_model, "magnitude", sparsity=0.4)
    assert make_eval_plan(tiny_model, examples).batches.direct
    direct = [evaluate(tiny_model, examples, mask=one).logliks for one in (None, mask)]
    assert np.nanmax(np.abs(direct[0] - direct[1])) > 0.01
    monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    assert not make_eval_plan(tiny_model, examples).batches.direct
    for found, one in zip(direct, (None, mask), strict=True):
        np.testing.assert_allclose(found, evaluate(tiny_model, examples, mask=one).logliks, atol=5e-5)


def test_direct_blocks_see_swapped_weights(tiny_model: ReasoningModel) -> None:
    """Pruned weights count: the MLP of the last block zeroed, against the plain way under the same mask."""
    examples = tiny_examples(3)
    plan = make_score_plan(tiny_model, examples)
    keep = {m.name: torch.zeros_like(m.weight, dtype=torch.bool) for m in tiny_model.matrices() if m.name == "2.down"}
    zeros = torch.zeros(tiny_model.shape.n_layers, tiny_model.shape.n_heads, tiny_model.shape.d_head)
    dense = exact_scores(tiny_model, examples).ablated
    with tiny_model.masked(keep):
        pruned = [block.ablated for block in score_steps(tiny_model, plan)]
        expected = slow_effects(tiny_model, 3, zeros)
    members = list(plan.batches.batches[0])
    np.testing.assert_allclose(pruned[1], expected[1][:, members], atol=5e-5)
    assert np.abs(pruned[1] - dense[1][:, members]).max() > 1e-3


def forget_what_passed(model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the model had just been loaded: its short cuts are tried again."""
    monkeypatch.setattr(model, "passed", set())


def test_short_cuts_that_hold_are_tried_once(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_what_passed(tiny_model, monkeypatch)
    one_option = [replace(example, options=example.options[:1], gold=0) for example in tiny_examples(3)]
    make_score_plan(tiny_model, one_option)
    assert tiny_model.passed == {"replay", "direct"}, "one option a question says nothing about several in a row"
    first = make_score_plan(tiny_model, tiny_examples(3)).batches
    assert tiny_model.passed == {"packing", "replay", "direct"}
    monkeypatch.setattr(tiny_model.bridge, "forward", lambda *args, **kwargs: pytest.fail("tried again"))
    assert make_score_plan(tiny_model, tiny_examples(3)).batches == first


def test_wrong_direct_blocks_are_not_used(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import cap_viz.attribution.forward.llama_fast_path as direct

    right = direct.rms_norm
    forget_what_passed(tiny_model, monkeypatch)
    monkeypatch.setattr(direct, "rms_norm", lambda norm, x: right(norm, x) * 1.01)
    assert not make_score_plan(tiny_model, tiny_examples(3)).batches.direct
    monkeypatch.setattr(direct, "rms_norm", lambda norm, x: right(norm, x) * float("nan"))
    assert not make_score_plan(tiny_model, tiny_examples(3)).batches.direct


def test_double_precision_models(tiny_model: ReasoningModel, tiny_folder: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float64).eval()
    source = ModelSource(id="double", title="double", folder=tiny_folder, fingerprint="double")
    double = boot(source, network, AutoTokenizer.from_pretrained(tiny_folder))
    examples = tiny_examples(3)
    assert double.dtype == torch.float64
    assert make_score_plan(double, examples).batches.direct
    for ablation in ABLATIONS:
        found = exact_scores(double, examples, ablation=ablation).ablated
        np.testing.assert_allclose(found, exact_scores(tiny_model, examples, ablation=ablation).ablated, atol=2e-5)
    found = gradient_effects(double, examples).per_example
    np.testing.assert_allclose(found, gradient_effects(tiny_model, examples).per_example, atol=2e-5)


def test_head_groups_by_hand() -> None:
    assert head_groups(9, 85, 1152) == [range(9)], "a batch of usual examples goes through at once"
    assert head_groups(9, 384, 1152) == [range(3), range(3, 6), range(6, 9)]
    assert head_groups(9, 400, 1152) == [range(2), range(2, 4), range(4, 6), range(6, 9)]
    assert head_groups(4, 10**6, 1152) == [range(1), range(1, 2), range(2, 3), range(3, 4)]


@pytest.mark.parametrize("own_blocks", [False, True])
def test_long_examples_go_through_some_heads_at_a_time(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, own_blocks: bool
) -> None:
    if own_blocks:
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    examples = tiny_examples(3)
    whole = exact_scores(tiny_model, examples, ablation="mean")
    monkeypatch.setattr("cap_viz.attribution.exact.MOST_TOKENS_PER_STEP", 16)
    plan = make_score_plan(tiny_model, examples, ablation="mean")
    blocks = list(score_steps(tiny_model, plan))
    assert len(blocks) > 3 * len(plan.batches.batches)
    assert sum(block.last for block in blocks) == len(plan.batches.batches)
    work = sum(plan.batch_work(number, n_layers=3) for number in plan.batches.numbers())
    assert sum(block.work for block in blocks) == pytest.approx(work)
    parted = exact_scores(tiny_model, examples, ablation="mean")
    np.testing.assert_allclose(parted.ablated, whole.ablated, atol=5e-5)


def test_where_packing_is_not_valid_options_get_rows_of_their_own(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a mask that lets options see each other, packing is wrong; the scores stay right and the log says why."""
    examples = tiny_examples(3)
    expected = exact_scores(tiny_model, examples)
    assert make_score_plan(tiny_model, examples).batches.packed
    assert "a row for each option" not in caplog.text
    right = packing.attention_mask

    def leaky(segments: Tensor, dtype: torch.dtype) -> Tensor:
        return right(segments.clamp(max=0), dtype)

    forget_what_passed(tiny_model, monkeypatch)
    monkeypatch.setattr(packing, "attention_mask", leaky)
    assert not make_score_plan(tiny_model, examples).batches.packed
    assert "packed options differ by" in caplog.text
    assert "a row for each option" in caplog.text
    np.testing.assert_allclose(exact_scores(tiny_model, examples).ablated, expected.ablated, atol=5e-5)
