"""Paths between heads: against plain forwards in which one receiver is recomputed by hand, and TransformerLens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import ActivationCache, patching
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import cap_viz as cv
from cap_viz.attribution.exact import direct_effects, encode_all, exact_scores, score_blocks
from cap_viz.attribution.forward.packing import EncodedExample
from cap_viz.attribution.path_scores import (
    ANSWER,
    EVERYTHING,
    PATH_PARTS,
    HeadPath,
    PathScores,
    Receiver,
    circuit_paths,
    strongest_heads,
)
from cap_viz.attribution.paths import make_path_plan, path_effects, path_score_steps, paths_between
from cap_viz.attribution.results import Questions
from cap_viz.attribution.self_test import weights_digest
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelSource
from cap_viz.models.loading import ReasoningModel, boot, load_model
from cap_viz.progress import finish
from cap_viz.pruning import prune_mask
from cap_viz.stats import mean_with_ci
from tests.test_replacement import Edit, plain_loglik
from tests.tiny import tiny_examples

SENDERS, RECEIVERS = ((0, 1), (1, 2)), ((1, 0), (1, 3), (2, 3))
DIRECT_MODEL = "cap_viz.attribution.forward.shortcut_checks.direct_model"


def seen_at(
    model: ReasoningModel,
    encoded: EncodedExample,
    option: int,
    names: Sequence[str],
    edits: Sequence[tuple[str, Edit]] = (),
) -> dict[str, Tensor]:
    """Outputs at the named hooks in one unpacked row of the model's own forward, under edits."""
    seen: dict[str, Tensor] = {}

    def note(output: Tensor, hook: Any, name: str) -> Tensor:
        seen[name] = output.clone()
        return output

    plain_loglik(
        model, encoded, option, [*edits, *((name, lambda x, hook, name=name: note(x, hook, name)) for name in names)]
    )
    return seen


def put(value: Tensor) -> Edit:
    return lambda output, hook: value.reshape(output.shape)


def changed_write(model: ReasoningModel, encoded: EncodedExample, option: int, sender: tuple[int, int]) -> Tensor:
    """[position, d_model] that zeroing a sender changes in the residual stream: minus z times its rows of W_O."""
    layer, head = sender
    z = seen_at(model, encoded, option, [f"blocks.{layer}.attn.hook_z"])[f"blocks.{layer}.attn.hook_z"]
    width = model.shape.d_head
    own = z.reshape(-1, model.shape.n_heads, width)[:, head]
    return -own @ model.blocks[layer].attn.o.weight.detach()[:, head * width : (head + 1) * width].T


def head_by_hand(model: ReasoningModel, layer: int, head: int, dense: Tensor, reading: Tensor, part: str) -> Tensor:
    """z [position, d_head] of a head whose `part` is computed from `reading` and the rest from `dense`."""
    block, shape = model.blocks[layer].original_component, model.shape
    attention, width = block.self_attn, shape.d_head
    group = head // (shape.n_heads // shape.n_kv_heads)
    normed = {name: block.input_layernorm(x) for name, x in (("dense", dense), ("changed", reading))}

    def projected(name: str, number: int) -> Tensor:
        projection = getattr(
            getattr(attention, f"{name}_proj"), "original_component", getattr(attention, f"{name}_proj")
        )
        x = normed["changed" if part in ("all", name) else "dense"]
        return x @ projection.weight[number * width : (number + 1) * width].T

    n = len(dense)
    positions = torch.arange(n)[None]
    cos, sin = model.bridge.rotary_emb.original_component(dense[None], positions)
    q, k = apply_rotary_pos_emb(projected("q", head)[None, None], projected("k", group)[None, None], cos, sin)
    scores = (q[0, 0] @ k[0, 0].T).double() / width**0.5
    scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1).float() @ projected("v", group)


def slow_path(model: ReasoningModel, encoded: EncodedExample, option: int, path: HeadPath) -> float:
    """Log-likelihood of an option with one receiver recomputed by hand and put into a plain forward."""
    change, layer = changed_write(model, encoded, option, path.sender), path.receiver.layer
    before, middle, z_name = (f"blocks.{layer}.{end}" for end in ("hook_in", "hook_resid_mid", "attn.hook_z"))
    with torch.inference_mode():
        dense = {name: x[0] for name, x in seen_at(model, encoded, option, [before, middle, z_name]).items()}
        if path.receiver.kind == "mlp":
            block = model.blocks[layer].original_component
            mlp = getattr(block.mlp, "original_component", block.mlp)
            output = plain_mlp(mlp, block.post_attention_layernorm(dense[middle] + change))
            return plain_loglik(model, encoded, option, [(f"blocks.{layer}.mlp.hook_out", put(output))])
        z = dense[z_name].reshape(len(change), model.shape.n_heads, -1).clone()
        z[:, path.receiver.head] = head_by_hand(
            model, layer, path.receiver.head, dense[before], dense[before] + change, path.part
        )
        return plain_loglik(model, encoded, option, [(z_name, put(z))])


def plain_mlp(mlp: Any, x: Tensor) -> Tensor:
    gate, up, down = (
        getattr(linear, "original_component", linear).weight for linear in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    )
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def hooked_path(model: ReasoningModel, encoded: EncodedExample, option: int, path: HeadPath) -> float:
    """As `slow_path` for any family: the receiver is taken from a forward whose block input was changed by a hook."""
    (layer, head), at = path.sender, path.receiver.layer
    z, mlp, after = f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.mlp.hook_out", f"blocks.{layer}.hook_out"
    own_z, own_mlp = f"blocks.{at}.attn.hook_z", f"blocks.{at}.mlp.hook_out"
    read = [f"blocks.{at}.attn.hook_{part}" for part in "qkv"]
    dense = seen_at(model, encoded, option, [z, mlp, after, own_z, own_mlp, *read])
    by_head = dense[z].reshape(-1, model.shape.n_heads, model.shape.d_head).clone()
    by_head[:, head] = 0
    zeroed = (z, put(by_head))
    change = seen_at(model, encoded, option, [after], [zeroed, (mlp, put(dense[mlp]))])[after] - dense[after]
    moved = (f"blocks.{at}.hook_in", lambda x, hook: x + change)
    if path.receiver.kind == "mlp":
        held = [zeroed] if at == layer else [moved, (own_z, put(dense[own_z]))]
        output = seen_at(model, encoded, option, [own_mlp], held)[own_mlp]
        return plain_loglik(model, encoded, option, [(own_mlp, put(output))])
    held = [(name, put(dense[name])) for name in read if path.part not in ("all", name[-1])]
    changed = seen_at(model, encoded, option, [own_z], [moved, *held])[own_z].reshape(by_head.shape)
    own = dense[own_z].reshape(by_head.shape).clone()
    own[:, path.receiver.head] = changed[:, path.receiver.head]
    return plain_loglik(model, encoded, option, [(own_z, put(own))])


def slow_paths(
    model: ReasoningModel,
    examples: Sequence[cv.Example],
    paths: Sequence[HeadPath],
    slow: Callable[[ReasoningModel, EncodedExample, int, HeadPath], float] = slow_path,
) -> np.ndarray:
    """[path, example, option], NaN for absent options."""
    encoded = encode_all(model, examples)
    found = np.full((len(paths), len(encoded), max(len(one.branches) for one in encoded)), np.nan)
    for number, path in enumerate(paths):
        for i, one in enumerate(encoded):
            for option in range(len(one.branches)):
                found[number, i, option] = slow(model, one, option, path)
    return found


def measured(
    model: ReasoningModel, examples: Sequence[cv.Example], paths: Sequence[HeadPath], **options: Any
) -> PathScores:
    return finish(path_score_steps(model, make_path_plan(model, examples, paths, **options), {}))


@pytest.fixture(params=["direct", "own"])
def either_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the direct blocks compute."""
    if request.param == "own":
        monkeypatch.setattr(DIRECT_MODEL, lambda model: None)
    return request.param == "direct"


# Against plain forwards ----------------------------------------------------------------------------------------------


def test_paths_into_heads_equal_forwards_by_hand(tiny_model: ReasoningModel, either_blocks: bool) -> None:
    """Every part of heads in the next layer and the one after; examples of different numbers of options."""
    examples = (tiny_examples(1)[0], tiny_examples(3, n_options=5)[2])
    paths = [
        HeadPath(sender, Receiver("head", *head), part)
        for sender in SENDERS
        for head in RECEIVERS
        if head[0] > sender[0]
        for part in PATH_PARTS
    ]
    plan = make_path_plan(tiny_model, examples, paths)
    assert plan.batches.direct == either_blocks
    found = finish(path_score_steps(tiny_model, plan, {}))
    np.testing.assert_allclose(found.ablated, slow_paths(tiny_model, examples, paths), atol=1e-4)
    by_part = found.effects("nll").reshape(len(paths) // len(PATH_PARTS), len(PATH_PARTS), -1)
    assert np.abs(by_part).max(axis=(0, 2)).min() > 1e-4, "no part is without any effect"
    assert np.abs(by_part[:, 0] - by_part[:, 1:].sum(axis=1)).max() > 1e-6, "softmax is not linear"


def test_paths_into_mlps_equal_forwards_by_hand(tiny_model: ReasoningModel, either_blocks: bool) -> None:
    """The MLP of the sender's own layer reads it, too."""
    examples = tiny_examples(3)
    paths = [HeadPath(sender, Receiver("mlp", layer)) for sender in SENDERS for layer in range(sender[0], 3)]
    found = measured(tiny_model, examples, paths)
    np.testing.assert_allclose(found.ablated, slow_paths(tiny_model, examples, paths), atol=1e-4)
    assert np.abs(found.effects("nll")).max(axis=1).min() > 1e-4


def test_paths_to_the_answer_are_direct_effects_and_to_everything_total_ones(
    tiny_model: ReasoningModel, either_blocks: bool
) -> None:
    examples = tiny_examples(4)
    found = path_effects(tiny_model, examples, SENDERS, progress=False)
    total, direct = exact_scores(tiny_model, examples), direct_effects(tiny_model, examples, progress=False)
    for receiver, scores in ((EVERYTHING, total), (ANSWER, direct)):
        for layer, head in SENDERS:
            number = found.paths.index(HeadPath((layer, head), receiver))
            np.testing.assert_allclose(found.ablated[number], scores.ablated[layer, head], atol=5e-5)
    np.testing.assert_allclose(found.dense, total.dense, atol=1e-5)


def test_a_head_that_nothing_but_one_receiver_reads_acts_through_it_alone(tiny_model: ReasoningModel) -> None:
    """With MLP 2 silenced, a head of the last layer is read by that MLP and the answer: direct is total."""
    last = tiny_model.blocks[-1].mlp.out.weight
    kept = last.detach().clone()
    try:
        with torch.no_grad():
            last.zero_()
        found = path_effects(tiny_model, tiny_examples(3), [(2, 1)], progress=False)
    finally:
        with torch.no_grad():
            last.copy_(kept)
    (row,) = found.balance("nll").to_dict("records")
    assert row["mlps"] == pytest.approx(0, abs=1e-5)
    assert row["remainder"] == pytest.approx(0, abs=1e-4)
    assert row["answer"] == pytest.approx(row["total"], abs=1e-4)


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_other_values_than_zero_are_put_in_alike_by_both_ways(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, ablation: Any
) -> None:
    examples, options = tiny_examples(4), {"ablation": ablation, "seed": 2, "progress": False}
    fast = path_effects(tiny_model, examples, SENDERS, receivers=RECEIVERS, **options)
    monkeypatch.setattr(DIRECT_MODEL, lambda model: None)
    slow = path_effects(tiny_model, examples, SENDERS, receivers=RECEIVERS, **options)
    np.testing.assert_allclose(fast.ablated, slow.ablated, atol=1e-4)
    zeroed = path_effects(tiny_model, examples, SENDERS, receivers=RECEIVERS, progress=False)
    assert np.nanmax(np.abs(zeroed.ablated - fast.ablated)) > 1e-3


def test_batches_and_steps_do_not_change_paths(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    examples, options = tiny_examples(5), {"receivers": RECEIVERS, "parts": PATH_PARTS, "progress": False}
    together = path_effects(tiny_model, examples, SENDERS, **options)
    monkeypatch.setattr("cap_viz.attribution.paths.tokens_at_once", lambda usual, model: 1)
    plan = make_path_plan(tiny_model, examples, together.paths)
    assert len(plan.batches.batches) == len(examples)
    assert plan.batches.most_tokens == 1
    apart = path_effects(tiny_model, examples, SENDERS, **options)
    np.testing.assert_allclose(apart.ablated, together.ablated, atol=5e-5)


def test_paths_leave_weights_and_hooks_alone(tiny_model: ReasoningModel) -> None:
    before, examples = weights_digest(tiny_model), tiny_examples(2)
    first = path_effects(tiny_model, examples, SENDERS, progress=False)
    assert weights_digest(tiny_model) == before
    np.testing.assert_array_equal(first.ablated, path_effects(tiny_model, examples, SENDERS, progress=False).ablated)


def test_a_pruned_model_is_dissected_under_its_mask(tiny_model: ReasoningModel) -> None:
    """Against plain forwards of the pruned model; the dense model comes back bit by bit."""
    examples, before = tiny_examples(2), weights_digest(tiny_model)
    mask = prune_mask(tiny_model, "magnitude", sparsity=0.4, progress=False)
    found = path_effects(tiny_model, examples, SENDERS, receivers=RECEIVERS, mask=mask, progress=False)
    assert weights_digest(tiny_model) == before
    places = [n for n, path in enumerate(found.paths) if path.receiver.kind in ("head", "mlp")]
    with tiny_model.masked(mask.keep):
        slow = slow_paths(tiny_model, examples, [found.paths[place] for place in places])
    np.testing.assert_allclose(found.ablated[places], slow, atol=1e-4)
    dense = path_effects(tiny_model, examples, SENDERS, receivers=RECEIVERS, progress=False)
    assert np.nanmax(np.abs(dense.ablated - found.ablated)) > 1e-2


# Against TransformerLens ---------------------------------------------------------------------------------------------


def by_transformer_lens(model: ReasoningModel, encoded: EncodedExample, option: int, path: HeadPath) -> float:
    """Log-likelihood with the sender's write taken out of one head's queries, keys or values.

    Its "corrupted" run is the intact one here, and its "clean" one the run whose head is zero.
    """
    (layer, head), ids = path.sender, torch.tensor([[*encoded.prefix, *encoded.branches[option]]])
    part: Any = path.part
    name, first = f"blocks.{layer}.attn.hook_z", ids.shape[1] - encoded.answer_lengths[option]

    def loglik(logits: Tensor) -> Tensor:
        picked = logits[0, first - 1 : -1].double().log_softmax(-1)
        return picked.gather(1, ids[0, first:, None]).sum()

    with torch.inference_mode():
        _, cache = model.bridge.run_with_cache(ids, names_filter=[name])
        z = cache[name]
        without, intact = (cast(ActivationCache, {name: value}) for value in (torch.zeros_like(z), z))
        found = patching.get_act_patch_direct_path(
            model.bridge, ids, without, intact, loglik, layer, head, part, verbose=False
        )
    return float(found[path.receiver.layer, path.receiver.head])


def ungrouped(folder: Path) -> ReasoningModel:
    """The tiny model with keys and values of its own for every head."""
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(folder, num_key_value_heads=4)
    source = ModelSource(id="ungrouped", title="ungrouped", folder=folder, fingerprint="ungrouped")
    return boot(source, LlamaForCausalLM(config).eval(), AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("parts", [("q",), ("q", "k", "v")], ids=["grouped", "ungrouped"])
def test_paths_equal_those_of_transformer_lens(
    tiny_model: ReasoningModel, tiny_folder: Path, parts: tuple[Any, ...]
) -> None:
    """It patches queries, and keys and values where heads do not share them."""
    model, examples = tiny_model if parts == ("q",) else ungrouped(tiny_folder), tiny_examples(2, n_options=2)[1:]
    paths = [
        HeadPath(sender, Receiver("head", *head), part)
        for sender, head in (((0, 1), (1, 3)), ((0, 1), (2, 3)), ((1, 2), (2, 0)))
        for part in parts
    ]
    found = measured(model, examples, paths)
    np.testing.assert_allclose(found.ablated, slow_paths(model, examples, paths, by_transformer_lens), atol=1e-4)
    assert np.abs(found.effects("nll")).max() > 1e-3


def test_query_paths_of_the_toy_reasoner_equal_those_of_transformer_lens() -> None:
    model, examples = load_model("toy-reasoner"), cv.load_task("toy_math").evaluation(1)
    paths = [HeadPath((2, 1), Receiver("head", 3, 0), "q")]
    found = measured(model, examples, paths)
    np.testing.assert_allclose(found.ablated, slow_paths(model, examples, paths, by_transformer_lens), atol=1e-4)


# Bad input -----------------------------------------------------------------------------------------------------------


def refused(sentence: str) -> Any:
    return pytest.raises(UsageError, match=rf"^[^\n]*{sentence}[^\n]*\.$")


def test_heads_and_parts_that_are_not_there(tiny_model: ReasoningModel) -> None:
    examples, scores = tiny_examples(2), exact_scores(tiny_model, tiny_examples(3))
    with refused("k = 13: the model has 12 heads; choose between 1 and 12 of them"):
        path_effects(tiny_model, examples, scores=scores, k=13)
    with refused("k = 0"):
        path_effects(tiny_model, examples, scores=scores, k=0)
    with refused("layers 0 to 2 with heads 0 to 3"):
        path_effects(tiny_model, examples, [(0, 4)])
    with refused("layers 0 to 2 with heads 0 to 3"):
        path_effects(tiny_model, examples, [(0, 0)], receivers=[(3, 0)])
    with refused("Unknown part of the receiver 'o'; choose one of all, q, k, v"):
        path_effects(tiny_model, examples, SENDERS, parts=("q", "o"))
    with refused("part of the receiver is listed twice in q, q"):
        path_effects(tiny_model, examples, SENDERS, parts=("q", "q"))
    with refused("head is listed twice in L0H1, L0H1"):
        path_effects(tiny_model, examples, [(0, 1), (0, 1)])
    with refused("at least one head"):
        path_effects(tiny_model, examples, [])
    for both in ({}, {"heads": SENDERS, "scores": scores}):
        with refused("name them, or give the scores"):
            path_effects(tiny_model, examples, **both)
    with refused("whole attention layers and MLPs"):
        path_effects(tiny_model, examples, scores=score_blocks(tiny_model, examples, progress=False))


@pytest.mark.parametrize("receiver", [(1, 0), (0, 3)], ids=["same layer", "earlier"])
def test_a_sender_at_or_after_its_receiver(tiny_model: ReasoningModel, receiver: tuple[int, int]) -> None:
    layer, head = receiver
    sentence = f"No path leads to head {head} of layer {layer}: .* begin in layer 1"
    with refused(sentence):
        path_effects(tiny_model, tiny_examples(1), [(1, 2)], receivers=[receiver])
    with refused(sentence):
        make_path_plan(tiny_model, tiny_examples(1), [HeadPath((1, 2), Receiver("head", *receiver))])


@pytest.mark.parametrize("layer", [0, 3])
def test_an_mlp_before_the_sender_or_beyond_the_model(tiny_model: ReasoningModel, layer: int) -> None:
    with refused(f"from layer 1 to the MLP of layer {layer}: MLPs of layers 1 to 2 read"):
        make_path_plan(tiny_model, tiny_examples(1), [HeadPath((1, 2), Receiver("mlp", layer))])


def test_a_mask_of_another_model(tiny_model: ReasoningModel, tiny_folder: Path) -> None:
    other = ungrouped(tiny_folder)
    mask = prune_mask(other, "magnitude", sparsity=0.4, progress=False)
    with refused("The mask is of another model: its '0.k' is 32 x 32, that of .* 16 x 32"):
        path_effects(tiny_model, tiny_examples(1), SENDERS, mask=mask, progress=False)
    unknown = replace(mask, keep={"9.q": mask.keep["0.q"]})
    with refused("'9.q', which .* does not have"):
        path_effects(tiny_model, tiny_examples(1), SENDERS, mask=unknown, progress=False)


def test_a_family_whose_heads_have_no_input_of_their_own_is_refused(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.PROJECTIONS", ("q", "k"))
    monkeypatch.setattr(tiny_model, "passed", tiny_model.passed - {"paths"})
    with pytest.raises(CapVizError, match="not supported for paths between heads"):
        path_effects(tiny_model, tiny_examples(1), SENDERS)


# Results -------------------------------------------------------------------------------------------------------------


def test_paths_are_listed_by_the_order_of_the_forward_pass() -> None:
    paths = circuit_paths([(0, 1), (1, 2)], [(0, 1), (1, 2), (2, 0)], ["q", "v"], 3)
    assert [str(path) for path in paths if path.sender == (1, 2)] == [
        "L1H2 → everything",
        "L1H2 → answer",
        "L1H2 → L2H0 (q)",
        "L1H2 → L2H0 (v)",
        "L1H2 → MLP 1",
        "L1H2 → MLP 2",
    ]
    assert sum(path.receiver.kind == "head" for path in paths) == 2 * (2 + 1)
    side_by_side = circuit_paths([(1, 2)], [], ["all"], 3, reads_own_attention=False)
    assert [str(path.receiver) for path in side_by_side] == ["everything", "answer", "MLP 2"]


def scores_by_hand() -> PathScores:
    """Two questions of one token each; effects on nll: total 5 and 7, answer 1, head .5 and 1.5, MLP 2, q 9."""
    ones = np.ones((2, 1), dtype=np.int64)
    questions = Questions(("a", "b"), np.zeros(2, dtype=np.int64), ones, ones)
    effects = {
        HeadPath((0, 1), EVERYTHING): (5, 7),
        HeadPath((0, 1), ANSWER): (1, 1),
        HeadPath((0, 1), Receiver("head", 2, 3)): (0.5, 1.5),
        HeadPath((0, 1), Receiver("head", 2, 3), "q"): (9, 9),
        HeadPath((0, 1), Receiver("mlp", 0)): (2, 2),
    }
    ablated = -np.array(list(effects.values()), dtype=np.float32)[:, :, None]
    return PathScores(questions, tuple(effects), np.zeros((2, 1), dtype=np.float32), ablated)


def test_sums_over_receivers_by_hand() -> None:
    scores = scores_by_hand()
    (row,) = scores.balance("nll").to_dict("records")
    means = {"total": 6, "answer": 1, "heads": 1, "mlps": 2, "paths": 4, "remainder": 2}
    assert {name: row[name] for name in means} == pytest.approx(means)
    # The remainders of the two questions are 1.5 and 2.5.
    rest = mean_with_ci(np.array([1.5, 2.5]))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((float(rest.low), float(rest.high)))
    table = scores.to_pandas("nll")
    assert table["receiver"].tolist() == ["answer", "L2H3", "L2H3", "MLP 0"]
    assert table["part"].tolist() == ["all", "all", "q", "all"]
    assert table["mean_effect"].tolist() == [1, 1, 9, 2]
    assert table["receiver_head"].tolist() == [-1, 3, 3, -1]
    np.testing.assert_allclose(table["q_value"], scores.estimated("nll").q_value)
    assert scores.headline.startswith("4 paths from 1 heads, 2 examples, ")


def test_single_parts_do_not_add_up() -> None:
    scores = scores_by_hand()
    kept = [0, 1, 3, 4]
    alone = PathScores(scores.questions, tuple(scores.paths[n] for n in kept), scores.dense, scores.ablated[kept])
    assert scores.has_sums
    assert not alone.has_sums
    with refused('measure the part "all"'):
        alone.balance("nll")


def test_the_matrix_holds_one_part_of_the_receiving_heads() -> None:
    scores = scores_by_hand()
    for part, value in (("all", 1.0), ("q", 9.0)):
        figure = scores.plot("nll", part)
        shown = np.nansum([np.nan_to_num(trace.z) for trace in figure.data[1:3]], axis=0)  # pyright: ignore
        assert list(figure.layout.xaxis.ticktext) == ["MLP 0", "L2H3", "answer"]
        assert shown.tolist() == [[2.0, value, 1.0]]
    with refused("'v'; choose one of all, q"):
        scores.plot("nll", "v")


def test_the_strongest_heads_are_chosen_by_their_effects(tiny_model: ReasoningModel) -> None:
    scores, examples = exact_scores(tiny_model, tiny_examples(6)), tiny_examples(2)
    chosen = strongest_heads(scores.estimated("choice_nll"), 3)
    effects = scores.mean_effect("choice_nll")
    assert set(chosen) == {divmod(int(place), 4) for place in np.argsort(-effects.ravel())[:3]}
    assert list(chosen) == sorted(chosen)
    found = path_effects(tiny_model, examples, scores=scores, k=3, metric="choice_nll", progress=False)
    assert found.paths == paths_between(tiny_model, chosen)
