"""What cannot be scored is refused with one sentence that says what, which, and what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CTRLConfig, MambaConfig, PreTrainedConfig

from cap_viz.attribution.estimators import score_heads
from cap_viz.attribution.exact import exact_scores, make_score_plan, score_blocks, score_steps
from cap_viz.attribution.joint_ablation import joint_effects
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelSource
from cap_viz.models.loading import ReasoningModel, boot
from cap_viz.stats import mean_with_ci
from cap_viz.stats.reliability import split_half
from tests.tiny import tiny_examples


def one_sentence(error: pytest.ExceptionInfo[CapVizError], *parts: str) -> None:
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize("estimator", ["exact", "gradient"])
def test_no_example(tiny_model: ReasoningModel, estimator: str) -> None:
    with pytest.raises(UsageError) as error:
        score_heads(tiny_model, [], estimator=estimator)  # pyright: ignore[reportCallIssue, reportArgumentType]
    one_sentence(error, "n = 0", "ask for at least one")


def test_one_example_has_effects_but_no_interval(tiny_model: ReasoningModel) -> None:
    effects = exact_scores(tiny_model, tiny_examples(1)).effects("nll")
    estimate = mean_with_ci(effects)
    assert np.isfinite(estimate.mean).all()
    assert np.isnan(estimate.low).all()
    with pytest.raises(CapVizError) as error:
        split_half(effects)
    one_sentence(error, "at least 4 examples, but n = 1")


@pytest.mark.parametrize(("n", "n_exact", "sentence"), [(20, 15, "n = 15"), (8, 16, "there are 8 and 16")])
def test_too_few_for_hybrid(tiny_model: ReasoningModel, n: int, n_exact: int, sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        score_heads(tiny_model, tiny_examples(n), estimator="hybrid", n_exact=n_exact)
    one_sentence(error, sentence)


def test_an_example_longer_than_the_context(tiny_model: ReasoningModel) -> None:
    first, second = tiny_examples(2)
    with pytest.raises(UsageError) as error:
        exact_scores(tiny_model, [first, replace(second, prompt=second.prompt + " sun" * 200)])
    one_sentence(error, "'tiny-1'", "more than the 128", "leave it out or use a model with a longer context")


def test_identical_options(tiny_model: ReasoningModel) -> None:
    (example,) = tiny_examples(1)
    for estimator in ("exact", "gradient"):
        with pytest.raises(UsageError) as error:
            score_heads(
                tiny_model,
                [replace(example, options=(" sun", " moon", " sun"))],
                estimator=estimator,  # pyright: ignore[reportCallIssue, reportArgumentType]
            )
        one_sentence(error, "Options 1 and 3", "'tiny-0'", "' sun'", "leave it out")


def test_weights_that_give_no_numbers(tiny_model: ReasoningModel) -> None:
    """A broken block, and a broken word that occurs in one option only: nothing of it may pass as absent."""
    examples = tiny_examples(2)
    plans = [make_score_plan(tiny_model, examples, parts=parts) for parts in ("heads", "blocks")]
    matrix = next(m for m in tiny_model.matrices() if m.name == "1.down")
    with tiny_model.swapped({matrix.name: torch.full_like(matrix.weight, torch.nan)}):
        for plan in plans:
            with pytest.raises(CapVizError) as error:
                next(score_steps(tiny_model, plan))
            one_sentence(error, "log-likelihoods that are not finite", "run doctor")


def test_a_word_without_numbers(tiny_folder: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    (word,) = tokenizer.encode("gas")
    with torch.no_grad():
        network.model.embed_tokens.weight[word] = torch.nan
    model = boot(ModelSource(id="broken", title="", folder=tiny_folder, fingerprint="broken"), network, tokenizer)
    (example,) = tiny_examples(1)
    bad = replace(example, options=(" sun moon", " gas moon"))
    with pytest.raises(CapVizError, match="log-likelihoods that are not finite"):
        exact_scores(model, [bad])


def test_heads_that_are_not_there(tiny_model: ReasoningModel) -> None:
    for heads in (((3, 0),), ((0, 4),), ((-1, 0),)):
        with pytest.raises(UsageError) as error:
            joint_effects(tiny_model, tiny_examples(1), [heads])
        one_sentence(error, "layers 0 to 2 with heads 0 to 3")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (CTRLConfig(vocab_size=56, n_embd=32, dff=48, n_layer=2, n_head=4, n_positions=64), "CTRLLMHeadModel"),
        (MambaConfig(vocab_size=56, hidden_size=32, num_hidden_layers=2, state_size=4), "have no hook_z"),
    ],
    ids=["ctrl", "mamba"],
)
def test_unknown_families(config: PreTrainedConfig, sentence: str, tiny_folder: Path) -> None:
    network = AutoModelForCausalLM.from_config(config).eval()
    network.config.architectures = [type(network).__name__]
    source = ModelSource(id="odd", title="odd", folder=tiny_folder, fingerprint="random")
    with pytest.raises(CapVizError) as error:
        boot(source, network, AutoTokenizer.from_pretrained(tiny_folder))
    one_sentence(error, "odd belongs to a family that cannot be scored", sentence)


def test_resample_without_another_example(tiny_model: ReasoningModel) -> None:
    for score in (exact_scores, score_blocks):
        with pytest.raises(UsageError) as error:
            score(tiny_model, tiny_examples(1), ablation="resample")
        one_sentence(error, "none beside 'tiny-0'", "at least two examples")
