"""Sets of heads removed together: the engine against slow ways, the statistic by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from cap_viz.attribution.exact import exact_scores, make_score_plan
from cap_viz.attribution.forward.dense_pass import option_logliks
from cap_viz.attribution.forward.patching import set_hooks
from cap_viz.attribution.forward.shortcut_checks import batch_of
from cap_viz.attribution.joint_ablation import joint_effects
from cap_viz.attribution.results import Ablation
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.stats import joint_effect, random_sets
from tests.test_engine import mean_z
from tests.tiny import tiny_examples

EVERY = tuple((layer, head) for layer in range(3) for head in range(4))


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_one_head_is_the_exact_estimator(tiny_model: ReasoningModel, ablation: Ablation) -> None:
    examples = tiny_examples(4)
    found = joint_effects(tiny_model, examples, [((1, 2),), ((2, 0),)], ablation=ablation)
    exact = exact_scores(tiny_model, examples, ablation=ablation)
    assert_allclose(found.ablated[1], exact.ablated[1, 2], atol=5e-5)
    assert_allclose(found.effects("choice_nll")[2], exact.effects("choice_nll")[2, 0], atol=5e-5)
    assert_allclose(found.effects("nll")[0], 0)


def test_a_set_equals_stacked_hooks_on_separate_rows(tiny_model: ReasoningModel) -> None:
    """Heads of several layers, one hook each, one row per option."""
    heads = ((0, 1), (0, 3), (2, 2))
    plan = make_score_plan(tiny_model, tiny_examples(3), ablation="mean")
    value = mean_z(tiny_model, plan.examples)

    def overwrite(layer: int, head: int) -> Any:
        def hook(z: Tensor, hook: Any) -> Tensor:
            z = z.clone()
            z[:, :, head] = value[layer, head]
            return z

        return f"blocks.{layer}.attn.hook_z", hook

    batch = batch_of(tiny_model, plan.encoded, packed=False)
    packed = batch_of(tiny_model, plan.encoded, packed=True)
    with torch.inference_mode():
        expected = option_logliks(tiny_model, batch, [overwrite(*head) for head in heads])
        found = option_logliks(tiny_model, packed, set_hooks(heads, value[:, None, None]))
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


def test_all_heads_is_zeroed_output_projections(tiny_model: ReasoningModel) -> None:
    zeroed = {m.name: torch.zeros_like(m.weight) for m in tiny_model.matrices() if m.kind == "o"}
    with tiny_model.swapped(zeroed):
        expected = joint_effects(tiny_model, tiny_examples(3), []).ablated[0]
    found = joint_effects(tiny_model, tiny_examples(3), [EVERY])
    assert_allclose(found.ablated[1], expected, atol=5e-5)
    assert np.abs(found.effects("nll")[1]).max() > 0.01


def test_heads_that_do_not_exist_are_refused(tiny_model: ReasoningModel) -> None:
    with pytest.raises(UsageError, match=r"\bhead 4\b.*\blayer 1\b.*\b0 to 2\b.*\b0 to 3\b"):
        joint_effects(tiny_model, tiny_examples(1), [((1, 4),)])
    with pytest.raises(UsageError, match=r"twice: .*\(1, 1\), \(1, 1\)"):
        joint_effects(tiny_model, tiny_examples(1), [((1, 1), (1, 1))])


def test_statistic_by_hand():
    # Two heads of 1 and 2 on average, together 5: an excess of 2 on both examples.
    singles = np.array([[0.0, 2.0], [1.0, 3.0]])
    random = np.tile(np.arange(19.0)[:, None], 2)
    found = joint_effect(np.array([3.0, 7.0]), singles, random)
    assert (found.size, found.joint.mean, found.singles.mean, found.excess.mean) == (2, 5, 3, 2)
    assert (found.excess.low, found.excess.high) == (2, 2)
    assert found.random_mean == 9
    # Of 0 to 18, 5 to 18 do at least as much: (1 + 14) / 20.
    assert found.p_value == 0.75
    assert (found.random_low, found.random_high) == (pytest.approx(0.45), pytest.approx(17.55))
    assert joint_effect(np.array([99.0, 99.0]), singles, random).p_value == 0.05


def test_one_of_twenty_like_sets_is_called_special():
    """Each set in turn against the other 19: the p-values are 1/20, 2/20, … 1, so chance calls are as rare as told."""
    effects = np.random.default_rng(0).normal(size=(20, 5))
    p_values = [joint_effect(effects[i], effects[i : i + 1], np.delete(effects, i, axis=0)).p_value for i in range(20)]
    assert_allclose(sorted(p_values), np.arange(1, 21) / 20)


def test_random_sets():
    sets = random_sets(3, 4, 5, draws=200, without=[(0, 0), (2, 3)])
    assert all(len(set(heads)) == 5 for heads in sets)
    drawn = {head for heads in sets for head in heads}
    assert drawn == set(EVERY) - {(0, 0), (2, 3)}
    assert sets == random_sets(3, 4, 5, draws=200, without=[(2, 3), (0, 0)])
    assert sets != random_sets(3, 4, 5, draws=200, without=[(2, 3), (0, 0)], seed=1)
    with pytest.raises(UsageError, match=r"\b13 heads\b.*\b12\b"):
        random_sets(3, 4, 13, draws=1)


@pytest.mark.usefixtures("any_shapes")
def test_too_little_to_judge_by():
    with pytest.raises(CapVizError, match=r"\b18 random sets\b.*\b19\b"):
        joint_effect(np.zeros(3), np.zeros((2, 3)), np.zeros((18, 3)))
    with pytest.raises(CapVizError, match=r"\b3 of the set\b.*\b4 of its heads\b"):
        joint_effect(np.zeros(3), np.zeros((2, 4)), np.zeros((19, 3)))
