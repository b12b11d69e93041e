"""Masks of a tiny model: exact targets, references worked out the slow way, and a dense model afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from cap_viz.errors import UsageError
from cap_viz.models import loading
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import CRITERIA, MaskRequest, criterion_named, prune_mask, rank_weights
from cap_viz.pruning.calibration.activations import calibration_batches, calibration_rows, squares
from cap_viz.pruning.calibration.sequential import dense_sums
from cap_viz.pruning.criteria.cap import cap_score, importance, region_importance
from cap_viz.pruning.criteria.wanda import input_norm
from cap_viz.pruning.selection.global_threshold import GlobalRanking, rank_steps
from tests.tiny import tiny_examples, write_tiny_model

EFFECT = np.random.default_rng(0).normal(size=(3, 4))
EXAMPLES = tiny_examples(12)
SPARSITIES = (0.0, 0.001, 0.1, 0.2, 0.333, 0.5, 0.9, 0.999)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> ReasoningModel:
    folder = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAP_VIZ_CACHE", str(tmp_path_factory.mktemp("cache")))
        return loading.load(loading.resolve(str(folder)))


@pytest.fixture
def model(shared: ReasoningModel) -> Iterator[ReasoningModel]:
    """The shared model; a test that leaves it changed fails."""
    before = {name: value.clone() for name, value in shared.bridge.state_dict().items()}
    hooks = hook_count(shared)
    yield shared
    assert_dense(shared, before)
    assert hook_count(shared) == hooks
    assert all("forward" not in vars(block) for block in shared.blocks)


def assert_dense(model: ReasoningModel, before: dict[str, torch.Tensor]) -> None:
    after = model.bridge.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def hook_count(model: ReasoningModel) -> int:
    """Hooks where this package puts any (TransformerLens keeps some of its own on the norms)."""
    places = (*model.blocks, *(matrix.module for matrix in model.matrices()))
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in places)


def request(sparsity: float = 0.5, **fields: Any) -> MaskRequest:
    return MaskRequest(sparsity=sparsity, **{"effect": EFFECT, "calibration": EXAMPLES, "text": EXAMPLES[:2], **fields})


def all_scores(model: ReasoningModel) -> dict[str, torch.Tensor]:
    regions = region_importance(importance(EFFECT), 2)
    return {m.name: cap_score(m.weight, m.kind, m.layer, regions) for m in model.matrices()}


def same_keep(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_global_threshold_is_the_kth_smallest_score(model: ReasoningModel, sparsity: float):
    scores = all_scores(model)
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    wanted = round(sparsity * len(flat))
    mask = prune_mask(model, "cap", sparsity=sparsity, effect=EFFECT)
    threshold = flat.kthvalue(wanted).values if wanted else torch.tensor(-1.0)
    assert same_keep(mask.keep, {name: score > threshold for name, score in scores.items()})
    assert abs(mask.reached - sparsity) < 1e-4


@pytest.mark.parametrize("levels", [1, 2, 7])
def test_the_target_is_met_whatever_the_ties(model: ReasoningModel, levels: int):
    def score(matrix: Any) -> torch.Tensor:
        return (matrix.weight.detach().abs() * 3).floor().clamp(max=levels - 1)

    ranking = finish(rank_steps(model, criterion="cap", scope="both", score=score))
    for sparsity in SPARSITIES:
        mask = finish(ranking.mask_steps(model, sparsity))
        assert mask.counts.zeros.sum() == round(sparsity * ranking.total)
        # A bin that is one value is split as the ties are, so the profile is exact here.
        np.testing.assert_array_equal(ranking.profile([sparsity]).zeros, mask.counts.zeros)
        for matrix in model.matrices():
            kept, scores = mask.keep[matrix.name], score(matrix)
            if kept.any() and not kept.all():
                assert scores[kept].min() >= scores[~kept].max()


def test_the_cut_reports_its_threshold_and_zeros(model: ReasoningModel):
    ranking = rank_weights(model, "cap", effect=EFFECT)
    assert isinstance(ranking, GlobalRanking)
    cut = finish(ranking.cut_steps(model, 0.3))
    flat = torch.cat([score.reshape(-1) for score in all_scores(model).values()])
    assert cut.threshold == float(flat.kthvalue(round(0.3 * len(flat))).values)
    mask = finish(ranking.mask_steps(model, 0.3))
    np.testing.assert_array_equal(cut.zeros, mask.counts.zeros[0])


FIXED = [name for name, criterion in CRITERIA.items() if criterion.fixed_score]


@pytest.mark.parametrize(
    ("scope", "name"),
    [(scope, name) for scope in ("both", "attention", "mlp") for name in FIXED if (name, scope) != ("head", "mlp")],
)
def test_the_profile_agrees_with_the_masks(model: ReasoningModel, name: str, scope: Any):
    # Gradients are measured anew for every mask, one example at a time.
    costly = name in ("taylor", "cap_fine")
    examples = EXAMPLES[:1] if costly else EXAMPLES
    sparsities = SPARSITIES[::3] if costly else SPARSITIES
    inputs: Any = {"effect": EFFECT, "calibration": examples, "text": EXAMPLES[1:2], "scope": scope}
    ranking = rank_weights(model, name, **inputs)
    profile = ranking.profile(sparsities)
    for row, sparsity in enumerate(sparsities):
        mask = prune_mask(model, name, sparsity=sparsity, **inputs)
        counted = [int((~kept).sum()) for kept in mask.keep.values()]
        assert mask.counts.zeros[0].tolist() == counted
        assert profile.matrices == mask.counts.matrices
        assert {matrix.part for matrix in profile.matrices} == ({"attention", "mlp"} if scope == "both" else {scope})
        assert profile.zeros[row].sum() == sum(counted)
        # Matrices of about a thousand weights: the sharing of a bin may be off by a few of them.
        assert np.abs(profile.zeros[row] - counted).max() <= (3 if CRITERIA[name].threshold == "global" else 0)


def test_equal_effects_make_cap_global_magnitude(model: ReasoningModel):
    equal = prune_mask(model, "cap", sparsity=0.4, effect=np.full((3, 4), 0.3))
    plain = prune_mask(model, "global_magnitude", sparsity=0.4)
    assert same_keep(equal.keep, plain.keep)
    assert equal.digest == plain.digest
    assert equal.digest != prune_mask(model, "cap", sparsity=0.4, effect=EFFECT).digest


def test_kv_rows_follow_their_query_heads(model: ReasoningModel):
    # Head 3 alone matters: its group is KV head 1, rows 8..15 of W_K and W_V (d_head 8).
    effect = np.zeros((3, 4))
    effect[:, 3] = 1.0
    for combine, factor in (("mean", 5.5), ("max", 10.0)):
        regions = region_importance(importance(effect), 2, combine)  # pyright: ignore[reportArgumentType]
        for matrix in model.matrices():
            if matrix.kind in ("k", "v"):
                ratio = cap_score(matrix.weight, matrix.kind, matrix.layer, regions) / matrix.weight.abs()
                torch.testing.assert_close(ratio[:8], torch.ones(8, 32))
                torch.testing.assert_close(ratio[8:], torch.full((8, 32), factor))
    by_mean = prune_mask(model, "cap", sparsity=0.5, effect=effect, kv_combine="mean")
    by_max = prune_mask(model, "cap", sparsity=0.5, effect=effect, kv_combine="max")
    assert by_max.keep["0.k"].sum() > by_mean.keep["0.k"].sum()


def test_scores_are_read_at_the_metric(model: ReasoningModel):
    class Scores:
        def mean_effect(self, metric: str) -> np.ndarray:
            return {"nll": EFFECT, "choice_nll": -EFFECT}[metric]

    direct = prune_mask(model, "cap", sparsity=0.3, effect=-EFFECT)
    assert prune_mask(model, "cap", sparsity=0.3, scores=Scores(), metric="choice_nll").digest == direct.digest


def slow_norms(model: ReasoningModel, upto: int) -> dict[str, torch.Tensor]:
    """Input norms of block `upto` (and earlier) from one full forward per unpadded sequence, nothing shared."""
    squares: dict[str, torch.Tensor] = {}

    def adder(name: str) -> Callable[..., None]:
        def add(module: Any, args: Any, output: Any) -> None:
            inputs = args[0].double().reshape(-1, args[0].shape[-1])
            squares[name] = squares.get(name, 0) + (inputs**2).sum(dim=0)

        return add

    handles = [m.module.register_forward_hook(adder(m.name)) for m in model.matrices() if m.layer <= upto]
    try:
        with torch.no_grad():
            for example in EXAMPLES:
                text = example.prompt + example.options[example.gold]
                model.bridge(torch.tensor([model.tokenizer.encode(text)]))
    finally:
        for handle in handles:
            handle.remove()
    return {name: total.sqrt() for name, total in squares.items()}


def sorted_keep(weight: torch.Tensor, norm: torch.Tensor, sparsity: float) -> torch.Tensor:
    score = weight.detach().abs() * norm.float()
    keep = torch.ones_like(score, dtype=torch.bool)
    return keep.scatter_(1, score.sort(dim=1, stable=True).indices[:, : int(score.shape[1] * sparsity)], False)


def test_wanda_prunes_each_block_by_what_the_pruned_ones_feed_it(model: ReasoningModel):
    mask = prune_mask(model, "wanda", sparsity=0.5, calibration=EXAMPLES)
    expected: dict[str, torch.Tensor] = {}
    for layer in range(3):
        with model.masked(expected):
            norms = slow_norms(model, layer)
        expected |= {m.name: sorted_keep(m.weight, norms[m.name], 0.5) for m in model.matrices() if m.layer == layer}
    assert same_keep(mask.keep, expected)
    assert mask.reached == 0.5


def test_one_shot_wanda_uses_the_dense_activations(model: ReasoningModel):
    sums = finish(dense_sums(model, request(), squares))
    norms = slow_norms(model, 2)
    assert list(sums) == list(norms)
    for name, norm in norms.items():
        torch.testing.assert_close(input_norm(sums[name]), norm.float(), rtol=1e-5, atol=1e-5)
    mask = prune_mask(model, "wanda_oneshot", sparsity=0.5, calibration=EXAMPLES)
    assert same_keep(mask.keep, {m.name: sorted_keep(m.weight, norms[m.name], 0.5) for m in model.matrices()})
    sequential = prune_mask(model, "wanda", sparsity=0.5, calibration=EXAMPLES)
    assert all(torch.equal(mask.keep[f"0.{kind}"], sequential.keep[f"0.{kind}"]) for kind in ("q", "up"))
    assert not same_keep(mask.keep, sequential.keep)


def test_calibration_rows_hold_every_token_of_prompt_and_gold_option(model: ReasoningModel):
    rows = calibration_rows(model, EXAMPLES)
    texts = [example.prompt + example.options[example.gold] for example in EXAMPLES]
    assert rows == [tuple(model.tokenizer.encode(text)) for text in texts]
    batches = calibration_batches([*rows, (1,) * 600])
    assert sorted(row for batch in batches for row in batch) == sorted([*rows, (1,) * 600])
    assert batches[0] == [(1,) * 600]


def test_removing_a_heads_output_columns_is_ablating_it(model: ReasoningModel):
    tokens = torch.tensor([model.tokenizer.encode(EXAMPLES[0].prompt)])

    def ablate(z: torch.Tensor, hook: Any) -> torch.Tensor:
        z[:, :, 2] = 0
        return z

    keep = torch.ones(32, 32, dtype=torch.bool)
    keep[:, 16:24] = False
    with torch.no_grad():
        hooked = model.bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", ablate)])
        with model.masked({"1.o": keep}):
            masked = model.bridge(tokens)
    torch.testing.assert_close(hooked, masked, rtol=0, atol=1e-5)


def test_the_mask_zeroes_what_it_says_and_comes_off_after_an_error(model: ReasoningModel):
    mask = prune_mask(model, "cap", sparsity=0.5, effect=EFFECT)

    def fail_inside() -> None:
        with model.masked(mask.keep):
            for matrix, zeros in zip(model.matrices(), mask.counts.zeros[0], strict=True):
                assert int((matrix.weight == 0).sum()) == zeros
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    # The fixture compares the weights.


@pytest.mark.parametrize("name", list(CRITERIA))
def test_between_steps_the_model_is_dense_and_free(model: ReasoningModel, name: str):
    before = {key: value.clone() for key, value in model.bridge.state_dict().items()}
    hooks, shares = hook_count(model), []
    for progress in criterion_named(name).steps(model, request()):
        shares.append(progress.share)
        assert_dense(model, before)
        assert hook_count(model) == hooks
        assert lease_is_free(model)
        assert torch.is_grad_enabled()
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 1


def lease_is_free(model: ReasoningModel) -> bool:
    """Whether another thread could take the lease now."""
    got: list[bool] = []

    def attempt() -> None:
        got.append(model.lease.acquire(blocking=False))
        if got[0]:
            model.lease.release()

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return got[0]


@pytest.mark.parametrize("name", list(CRITERIA))
def test_a_cancelled_criterion_leaves_the_model_dense(model: ReasoningModel, name: str):
    for n_steps in (1, 3):
        steps = criterion_named(name).steps(model, request())
        for _ in range(n_steps):
            next(steps)
        steps.close()
        assert lease_is_free(model)
    # The fixture compares the weights.


def test_a_failing_forward_leaves_the_model_dense(model: ReasoningModel, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    steps = criterion_named("wanda").steps(model, request())
    next(steps)
    monkeypatch.setattr("cap_viz.attribution.forward.replay.first_tensor", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        finish(steps)
    assert lease_is_free(model)


BAD = np.where(np.arange(12).reshape(3, 4) == 5, np.nan, 0.0)


@pytest.mark.parametrize(
    ("name", "fields", "sentence"),
    [
        ("best", {}, r"criterion 'best'.*cap, cap_fine, global_magnitude, magnitude, wanda,"),
        ("magnitude", {"sparsity": 20}, r"sparsity is 20\b.*\b0\b.*\b1\b"),
        ("magnitude", {"scope": "heads"}, r"scope 'heads'.*both, attention, mlp"),
        ("cap", {}, r"criterion 'cap'.*scores=.*score_heads"),
        ("cap", {"effect": np.zeros((4, 3))}, r"\(4, 3\).*\b3 layers of 4 heads"),
        ("cap", {"effect": BAD}, r"layer 1, head 1\b.*\bnan\b.*\b1 of 12\b"),
        ("cap", {"effect": EFFECT, "kv_combine": "sum"}, r"kv_combine 'sum'.*mean, max"),
        ("cap", {"effect": EFFECT, "scores": object()}, r"scores=.*effect="),
        ("wanda", {}, r"'wanda'.*\bcalibration\b"),
        ("wanda_oneshot", {"calibration": ()}, r"'wanda_oneshot'.*\bcalibration\b"),
    ],
)
def test_bad_input_is_named(model: ReasoningModel, name: str, fields: dict[str, Any], sentence: str):
    inputs: dict[str, Any] = {"sparsity": 0.2, **fields}
    with pytest.raises(UsageError, match=sentence):
        prune_mask(model, name, **inputs)


def test_only_fixed_scores_can_be_ranked_once(model: ReasoningModel):
    with pytest.raises(UsageError, match=r"'wanda'.*\bsparsity\b"):
        rank_weights(model, "wanda", calibration=EXAMPLES)
