"""The criteria CAP is compared with: scores worked by hand, slow oracles on the tiny model, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cap_viz.errors import UsageError
from cap_viz.models.loading import Matrix, ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import CRITERIA, MaskRequest, importance, prune_mask, rank_weights
from cap_viz.pruning.calibration.activations import input_norm, products, squares
from cap_viz.pruning.calibration.gradients import answer_rows, gradient_steps, halved, portions_of, whole_rows
from cap_viz.pruning.calibration.sequential import dense_sums
from cap_viz.pruning.criteria.gblm import gblm_score
from cap_viz.pruning.criteria.head import heads_in_order
from cap_viz.pruning.criteria.ria import ria_score
from cap_viz.pruning.criteria.shuffled_cap import shuffled
from cap_viz.pruning.criteria.sparsegpt import sparsegpt
from cap_viz.pruning.criteria.taylor import taylor_score
from cap_viz.pruning.criterion import UNIFORM
from cap_viz.pruning.mask import MatrixSize
from cap_viz.pruning.selection.local_groups import LOCAL_GROUPS, PerColumnBlock, group_for, local_profile
from cap_viz.pruning.selection.owl import outlier_share, owl_allocation, owl_steps
from tests.tiny import tiny_examples

WEIGHT = torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0], [7.0, 0.5, -0.25]])
EFFECT = np.random.default_rng(0).normal(size=(3, 4))
EXAMPLES = tiny_examples(4)
UNUSED = PerColumnBlock(1)


def request(sparsity: float = 0.5, **fields: Any) -> MaskRequest:
    return MaskRequest(sparsity=sparsity, effect=EFFECT, calibration=EXAMPLES, **fields)


def same(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def matrix_named(model: ReasoningModel, name: str) -> Matrix:
    return next(matrix for matrix in model.matrices() if matrix.name == name)


# Controls


def test_random_draws_are_repeatable_nested_and_independent_of_the_scope(tiny_model: ReasoningModel):
    low = prune_mask(tiny_model, "random", sparsity=0.3)
    high = prune_mask(tiny_model, "random", sparsity=0.6)
    assert low.counts.zeros[0].tolist() == [int(size * 0.3) for size in low.counts.sizes]
    assert all((kept <= low.keep[name]).all() for name, kept in high.keep.items())
    assert prune_mask(tiny_model, "random", sparsity=0.3).digest == low.digest
    assert prune_mask(tiny_model, "random", sparsity=0.3, control_seed=1).digest != low.digest
    mlp = prune_mask(tiny_model, "random", sparsity=0.3, scope="mlp")
    assert all(torch.equal(kept, low.keep[name]) for name, kept in mlp.keep.items())
    # Unrelated draws at one half agree on half of the weights.
    one, other = (prune_mask(tiny_model, "random", sparsity=0.5, control_seed=seed).keep for seed in (1, 2))
    agree = np.mean([float((one[name] == other[name]).float().mean()) for name in one])
    assert 0.47 < agree < 0.53


def test_shuffled_cap_deals_out_the_same_importances(tiny_model: ReasoningModel):
    mixed = shuffled(importance(EFFECT), 3)
    assert sorted(mixed.ravel()) == sorted(importance(EFFECT).ravel())
    assert (mixed != importance(EFFECT)).sum() > 6
    # CAP on effects dealt out in the same way is the same mask.
    by_hand = prune_mask(tiny_model, "cap", sparsity=0.4, effect=shuffled(EFFECT, 3))
    assert prune_mask(tiny_model, "shuffled_cap", sparsity=0.4, effect=EFFECT, control_seed=3).digest == by_hand.digest


# RIA


def test_ria_by_hand():
    # Column sums of |W| 12, 7.5, 9.25, row sums 6, 15, 7.75; norms 4, 1, 9 give the factors 2, 1, 3.
    expected = torch.tensor(
        [
            [2 * (1 / 12 + 1 / 6), 2 / 7.5 + 2 / 6, 3 * (3 / 9.25 + 3 / 6)],
            [2 * (4 / 12 + 4 / 15), 5 / 7.5 + 5 / 15, 3 * (6 / 9.25 + 6 / 15)],
            [2 * (7 / 12 + 7 / 7.75), 0.5 / 7.5 + 0.5 / 7.75, 3 * (0.25 / 9.25 + 0.25 / 7.75)],
        ]
    )
    torch.testing.assert_close(ria_score(WEIGHT, torch.tensor([4.0, 1.0, 9.0])), expected)


def test_ria_scores_a_matrix_of_zeros_with_zeros():
    assert torch.equal(ria_score(torch.zeros(3, 3), torch.ones(3)), torch.zeros(3, 3))


def test_ria_measures_behind_pruned_blocks(tiny_model: ReasoningModel):
    mask = prune_mask(tiny_model, "ria", sparsity=0.5, calibration=EXAMPLES)
    expected: dict[str, torch.Tensor] = {}
    for layer in range(3):
        with tiny_model.masked(expected):
            sums = finish(dense_sums(tiny_model, request(), squares))
        for m in tiny_model.matrices():
            if m.layer == layer:
                score = ria_score(m.weight, input_norm(sums[m.name]))
                expected[m.name] = score > score.flatten().kthvalue(score.numel() // 2).values
    assert same(mask.keep, expected)


# Gradients


def plain_gradients(model: ReasoningModel, rows: Any) -> dict[str, torch.Tensor]:
    """Summed squares by an ordinary loss over the whole vocabulary output, one example at a time."""
    sums: dict[str, torch.Tensor] = {}
    for row in rows:
        tokens = torch.tensor([row.tokens])
        logits = model.bridge(tokens)[0]
        loss = -logits.log_softmax(-1)[range(len(row.tokens) - 1), tokens[0, 1:]][row.first - 1 :].mean()
        weights = [matrix.weight for matrix in model.matrices()]
        for matrix, gradient in zip(model.matrices(), torch.autograd.grad(loss, weights), strict=True):
            sums[matrix.name] = sums.get(matrix.name, torch.zeros(())) + gradient**2
    return sums


@pytest.mark.parametrize("rows_of", [answer_rows, whole_rows])
def test_gradients_are_those_of_a_plain_backward_pass(
    tiny_model: ReasoningModel, rows_of: Any, monkeypatch: pytest.MonkeyPatch
):
    before = {name: (p.clone(), p.requires_grad, p.grad) for name, p in tiny_model.bridge.named_parameters()}
    matrices = tiny_model.matrices()
    expected = plain_gradients(tiny_model, rows_of(tiny_model, EXAMPLES))
    # Sums of five matrices at a time: several passes, the same numbers.
    monkeypatch.setattr("cap_viz.pruning.calibration.gradients.SUM_BYTES", 4 * 5 * 32 * 32)
    assert len(portions_of(matrices)) > 2
    steps = gradient_steps(tiny_model, matrices, EXAMPLES, rows_of)
    for _ in range(3):
        next(steps)
        for name, parameter in tiny_model.bridge.named_parameters():
            value, required, gradient = before[name]
            assert torch.equal(parameter, value)
            assert parameter.requires_grad == required
            assert parameter.grad is gradient
    found = finish(steps)
    for name, total in expected.items():
        torch.testing.assert_close(found[name].full(), total.sqrt(), rtol=2e-3, atol=2e-3 * float(total.sqrt().max()))


def test_answers_and_whole_rows_score_their_tokens(tiny_model: ReasoningModel):
    for example, answer, whole in zip(
        EXAMPLES, answer_rows(tiny_model, EXAMPLES), whole_rows(tiny_model, EXAMPLES), strict=True
    ):
        prompt = tiny_model.tokenizer.encode(example.prompt)
        assert answer.tokens == tuple(tiny_model.tokenizer.encode(example.prompt + example.options[example.gold]))
        assert (answer.first, whole.first) == (len(prompt), 1)
        assert answer.tokens == whole.tokens


def test_half_precision_keeps_small_numbers_relative_to_the_largest():
    values = torch.tensor([[0.0, 1e-9, 2e-9], [3e-8, 1e-7, 4e-7], [1e-6, 2e-6, 3e-6]])
    torch.testing.assert_close(halved(values).full(), values, rtol=1e-3, atol=1e-12)
    assert torch.equal(halved(torch.zeros(3, 3)).full(), torch.zeros(3, 3))


def test_taylor_and_gblm_by_hand():
    gradient = torch.tensor([[0.1, 0.2, 0.0], [1.0, 0.0, 0.5], [0.0, 2.0, 4.0]])
    expected = torch.tensor([[0.1, 0.4, 0.0], [4.0, 0.0, 3.0], [0.0, 1.0, 1.0]])
    torch.testing.assert_close(taylor_score(WEIGHT, gradient), expected)
    # |W| (||X|| + 100 G) with norms 10, 1, 2.
    expected = torch.tensor([[20.0, 42, 6], [440, 5, 312], [70, 100.5, 100.5]])
    torch.testing.assert_close(gblm_score(WEIGHT, torch.tensor([10.0, 1, 2]), gradient), expected)


def test_taylor_cuts_the_whole_model_at_one_score(tiny_model: ReasoningModel):
    mask = prune_mask(tiny_model, "taylor", sparsity=0.3, calibration=EXAMPLES)
    roots = finish(gradient_steps(tiny_model, tiny_model.matrices(), EXAMPLES, answer_rows))
    scores = {m.name: taylor_score(m.weight, roots[m.name].full() / 2) for m in tiny_model.matrices()}
    kept = torch.cat([scores[name][keep] for name, keep in mask.keep.items()])
    gone = torch.cat([scores[name][~keep] for name, keep in mask.keep.items()])
    assert float(kept.min()) >= float(gone.max())
    assert len(gone) == round(0.3 * mask.counts.sizes.sum())


def test_gblm_in_the_first_block_follows_its_score(tiny_model: ReasoningModel):
    mask = prune_mask(tiny_model, "gblm", sparsity=0.5, calibration=EXAMPLES)
    roots = finish(gradient_steps(tiny_model, tiny_model.matrices(), EXAMPLES, whole_rows))
    sums = finish(dense_sums(tiny_model, request(), squares))
    matrix = matrix_named(tiny_model, "0.gate")
    norm = (sums["0.gate"] / len(EXAMPLES)).sqrt().float()
    score = gblm_score(matrix.weight, norm, roots["0.gate"].full())
    lowest = score.sort(dim=1, stable=True).indices[:, :16]
    expected = torch.ones_like(score, dtype=torch.bool).scatter_(1, lowest, False)
    assert torch.equal(mask.keep["0.gate"], expected)


# OWL


def test_owl_by_hand():
    # Mean 1.6, bound 8: one of ten; mean 1: none.
    assert outlier_share([torch.tensor([[9.0, 1, 1, 1]]), torch.tensor([[0.5, 0.5, 1, 1, 0.5, 0.5]])]) == 0.1
    assert outlier_share([torch.ones(3, 3)]) == 0.0
    assert outlier_share([torch.zeros(3, 3)]) == 0.0
    # D = 0, .02, .04: d = 0, .08, .16, mean .08, so layers lose .08 more, the same, .08 less.
    allocation = owl_allocation({0: 0.0, 1: 0.02, 2: 0.04})
    assert [allocation.sparsity(layer, 0.5) for layer in range(3)] == pytest.approx([0.58, 0.5, 0.42])
    # At 4 % only half of that fits above zero, at 0 % nothing does.
    assert [allocation.sparsity(layer, 0.04) for layer in range(3)] == pytest.approx([0.08, 0.04, 0.0])
    assert [allocation.sparsity(layer, 0.0) for layer in range(3)] == [0.0, 0.0, 0.0]
    assert owl_allocation({0: 0.3, 1: 0.3}) is UNIFORM


@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if criterion.allocations])
def test_owl_spreads_the_sparsity_over_layers(tiny_model: ReasoningModel, name: str):
    mask = prune_mask(tiny_model, name, sparsity=0.5, calibration=EXAMPLES, allocation="owl")
    allocation = finish(owl_steps(tiny_model, request()))
    wanted = [allocation.sparsity(layer, 0.5) for layer in range(3)]
    assert max(wanted) - min(wanted) == pytest.approx(0.16)
    profile = local_profile(LOCAL_GROUPS[CRITERIA[name].threshold], mask.counts.matrices, [0.5], allocation)
    np.testing.assert_array_equal(mask.counts.zeros, profile.zeros)
    assert mask.counts.by_layer()[0] == pytest.approx(wanted, abs=0.03)


# SparseGPT


def test_sparsegpt_by_hand():
    # Independent inputs leave nothing to make up for: the smaller of w^2 H_jj goes.
    pruned = sparsegpt(WEIGHT, torch.diag(torch.tensor([1.0, 1.0, 1.0])).double(), 0.5)
    assert pruned.updated is not None
    assert pruned.keep.tolist() == [[False, False, True], [True, True, True], [True, False, False]]
    torch.testing.assert_close(pruned.updated, WEIGHT * pruned.keep)
    # H = [[2, 1], [1, 2]] + .02 I: U_00^2 = (H^-1)_00 = 2.02 / (2.02^2 - 1), U_11^2 = 1 / 2.02. Weight 0 goes, and
    # weight 1 gains w_0 H_01 / H_11 = 1 / 2.02.
    pruned = sparsegpt(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double(), 0.5)
    torch.testing.assert_close(pruned.updated, torch.tensor([[0.0, 3 + 1 / 2.02]]))


def test_inputs_that_are_always_zero_lose_their_weights():
    moments = torch.diag(torch.tensor([1.0, 0.0, 1.0])).double()
    pruned = sparsegpt(WEIGHT, moments, 0.0)
    assert pruned.updated is not None
    assert pruned.keep.all()
    assert torch.equal(pruned.updated[:, 1], torch.zeros(3))
    torch.testing.assert_close(pruned.updated[:, [0, 2]], WEIGHT[:, [0, 2]])


def slow_sparsegpt(weight: torch.Tensor, moments: torch.Tensor, zeros_of: Any) -> torch.Tensor:
    """Optimal brain surgeon with the columns left of j frozen: the inverse of the rest of H, anew for each j."""
    moments = moments.double().clone()
    moments += 0.01 * moments.diagonal().mean() * torch.eye(len(moments))
    weight = weight.detach().double().clone()
    inverses = [torch.linalg.inv(moments[j:, j:]) for j in range(len(moments))]
    scale = torch.stack([inverse[0, 0] for inverse in inverses])
    gone = torch.zeros_like(weight, dtype=torch.bool)
    for j, inverse in enumerate(inverses):
        zeros_of(j, weight**2 / scale, gone)
        for row in gone[:, j].nonzero().flatten().tolist():
            weight[row, j:] -= weight[row, j] * inverse[0] / inverse[0, 0]
    return weight.masked_fill(gone, 0)


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_sparsegpt_is_optimal_brain_surgeon_column_by_column(
    tiny_model: ReasoningModel, pattern: str | None, monkeypatch: pytest.MonkeyPatch
):
    # Blocks of 16 columns, so that repairs cross blocks.
    monkeypatch.setattr("cap_viz.pruning.criteria.sparsegpt.SPARSEGPT_COLUMNS", 16)
    sums = finish(dense_sums(tiny_model, request(), products))
    matrix = matrix_named(tiny_model, "1.down")

    def zeros_of(j: int, score: torch.Tensor, gone: torch.Tensor) -> None:
        width = 4 if pattern else 16
        if j % width == 0:
            block = score[:, j : j + width]
            if pattern:
                gone[:, j : j + 4].scatter_(1, block.argsort(dim=1)[:, :2], True)
            else:
                gone[:, j : j + 16] = block <= block.flatten().kthvalue(block.numel() // 2).values

    expected = slow_sparsegpt(matrix.weight, sums["1.down"], zeros_of)
    group: Any = group_for(pattern, LOCAL_GROUPS["per matrix"])
    pruned = sparsegpt(matrix.weight, sums["1.down"], 0.5, group if pattern else None)
    assert pruned.updated is not None
    torch.testing.assert_close(pruned.updated.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(pruned.keep, expected != 0)
    # Repairing leaves less error in the outputs than zeros alone.
    left = [matrix.weight - candidate for candidate in (pruned.updated, matrix.weight * pruned.keep)]
    repaired, plain = ((d.double() @ sums["1.down"] * d.double()).sum() for d in left)
    assert repaired < plain


def test_updated_weights_are_used_and_the_dense_ones_never_written(tiny_model: ReasoningModel):
    before = {name: value.clone() for name, value in tiny_model.bridge.state_dict().items()}
    mask = prune_mask(tiny_model, "sparsegpt", sparsity=0.5, calibration=EXAMPLES)
    assert mask.reached == 0.5
    with tiny_model.masked(mask.keep, mask.updated):
        for matrix in tiny_model.matrices():
            assert torch.equal(matrix.weight, mask.updated[matrix.name])
            assert not matrix.weight[~mask.keep[matrix.name]].any()
    after = tiny_model.bridge.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    plain = prune_mask(tiny_model, "magnitude", sparsity=0.5)
    assert not plain.updated
    assert mask.digest != plain.digest


# n:m patterns


def test_a_pattern_by_hand():
    score = torch.tensor([[4.0, 1, 3, 2, 1, 1, 1, 1]])
    assert group_for("2:4", UNUSED).keep(score, 0.5).tolist() == [[True, False, True, False, False, False, True, True]]
    assert group_for("4:8", UNUSED).keep(score, 0.5).tolist() == [[True, False, True, True, False, False, False, True]]


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if criterion.patterns])
def test_every_run_of_neighbours_has_its_zeros(tiny_model: ReasoningModel, name: str, pattern: str):
    length = int(pattern[-1])
    mask = prune_mask(tiny_model, name, sparsity=0.5, calibration=EXAMPLES, pattern=pattern)
    for kept in mask.keep.values():
        assert (kept.reshape(-1, length).sum(dim=1) == length // 2).all()
    assert mask.reached == 0.5


def test_column_blocks_count_their_zeros():
    # 3 x 5 in blocks of 2 columns: 6, 6 and 3 weights, of which 2, 2 and 1 at 40 %.
    group = PerColumnBlock(2)
    assert group.zeros(MatrixSize(0, "q", "attention", 3, 5), 0.4) == 5
    kept = group.keep(torch.arange(15.0).reshape(3, 5), 0.4)
    assert kept.tolist() == [[False, False, False, False, False], [True] * 5, [True] * 5]


# Whole heads


def test_heads_go_in_the_order_of_their_effects():
    assert heads_in_order(np.array([[0.3, -1.0], [0.3, 0.0]])).tolist() == [[2, 0], [3, 1]]


def test_removing_heads_is_ablating_them_and_saves_their_rows_and_columns(tiny_model: ReasoningModel):
    effect = np.ones((3, 4))
    effect[0, 1] = effect[2, 2] = effect[2, 3] = 0.0
    mask = prune_mask(tiny_model, "head", sparsity=0.25, effect=effect)
    # 32 x 8 weights of q and of o per head; heads 2 and 3 of layer 2 are a whole group, so its k and v go as well.
    assert mask.parameters_saved == 3 * 2 * 256 + 2 * 256
    assert mask.counts.zeros.sum() == mask.parameters_saved
    assert prune_mask(tiny_model, "magnitude", sparsity=0.25).parameters_saved == 0
    tokens = torch.tensor([tiny_model.tokenizer.encode(EXAMPLES[0].prompt)])

    def ablate(heads: list[int]) -> Any:
        def hook(z: torch.Tensor, hook: Any) -> torch.Tensor:
            z[:, :, heads] = 0
            return z

        return hook

    hooks = [("blocks.0.attn.hook_z", ablate([1])), ("blocks.2.attn.hook_z", ablate([2, 3]))]
    with torch.no_grad():
        hooked = tiny_model.bridge.run_with_hooks(tokens, fwd_hooks=hooks)
        with tiny_model.masked(mask.keep):
            masked = tiny_model.bridge(tokens)
    torch.testing.assert_close(hooked, masked, rtol=0, atol=1e-5)
    profile = rank_weights(tiny_model, "head", effect=effect).profile([0.25])
    np.testing.assert_array_equal(profile.zeros, mask.counts.zeros)


# What is refused, and what must not break


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("magnitude", {"sparsity": "half"}, r"sparsity is 'half'.*\bnumber\b"),
        ("magnitude", {"sparsity": -0.1}, r"sparsity is -0\.1\b"),
        ("magnitude", {"sparsity": 1}, r"sparsity is 1\b"),
        ("taylor", {"calibration": None}, r"'taylor'.*\bcalibration\b"),
        ("shuffled_cap", {"effect": None}, r"'shuffled_cap'.*\bscores=.*\bscore_heads\b"),
        ("head", {"scope": "mlp"}, r"'head'.*\bscope attention or both\b"),
        ("magnitude", {"allocation": "uniform"}, r"allocation 'uniform'.*\bowl\b"),
        ("magnitude", {"allocation": "owl", "calibration": None}, r"allocation 'owl'.*\bcalibration\b"),
        ("cap", {"allocation": "owl"}, r"'owl'.*'cap'.*\bwanda\b"),
        ("wanda", {"allocation": "owl", "pattern": "2:4"}, r"pattern '2:4'.*\bowl\b"),
        ("magnitude", {"pattern": "1:4"}, r"pattern '1:4'.*2:4, 4:8"),
        ("cap", {"pattern": "2:4"}, r"criterion 'cap'.*\bpatterns\b"),
        ("magnitude", {"pattern": "2:4", "sparsity": 0.3}, r"pattern 2:4\b.*\b0\.5\b.*\b0\.3\b"),
    ],
)
def test_bad_input_is_named(tiny_model: ReasoningModel, name: str, fields: dict[str, Any], sentence: str):
    inputs: dict[str, Any] = {"sparsity": 0.5, "effect": EFFECT, "calibration": EXAMPLES, **fields}
    with pytest.raises(UsageError, match=sentence):
        prune_mask(tiny_model, name, **inputs)


def test_a_pattern_needs_rows_that_divide():
    with pytest.raises(UsageError, match=r"\bmultiple of 4\b.*\b6\b"):
        group_for("2:4", UNUSED).keep(torch.ones(2, 6), 0.5)


@pytest.mark.parametrize("name", list(CRITERIA))
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_a_layer_of_equal_weights_breaks_no_criterion(tiny_model: ReasoningModel, name: str, fill: float):
    constant = {m.name: torch.full_like(m.weight, fill) for m in tiny_model.matrices() if m.layer == 1}
    with tiny_model.swapped(constant):
        mask = prune_mask(tiny_model, name, sparsity=0.5, effect=EFFECT, calibration=EXAMPLES[:2], text=EXAMPLES[2:3])
    if name == "head":
        assert mask.counts.zeros.sum() >= 6 * 2 * 256
    else:
        assert mask.reached == pytest.approx(0.5, abs=1e-3)
