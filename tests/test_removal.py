"""Head-removal curves: against plain forwards, areas by hand, orders that are scored again, the run and its command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cap_viz as cv
from cap_viz.attribution.exact import encode_all, exact_scores
from cap_viz.attribution.joint_ablation import hooks
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.attribution.mib import mib_graph
from cap_viz.attribution.pruned_weights import without_heads
from cap_viz.attribution.removal import greedy_order, removal_curve
from cap_viz.attribution.removal_curve import RemovalCurve, Removals, counts_of
from cap_viz.attribution.results import Questions
from cap_viz.attribution.self_test import weights_digest
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import prune_mask
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds import describe, numbers_of
from cap_viz.runs.kinds.removal import load_removal
from cap_viz.runs.kinds.scores import load_effects
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import RemovalSpec, ScoreSpec, spec_dict, spec_from_dict
from cap_viz.runs.store import Store
from cap_viz.stats.circuits import CircuitAreas, circuit_areas, faithfulness, question_weights, rescored_order
from cap_viz.stats.joint import Head
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.shell import Shell
from tests.test_replacement import plain_loglik
from tests.tiny import tiny_examples

EVERY = tuple((layer, head) for layer in range(3) for head in range(4))


# Against plain forwards ----------------------------------------------------------------------------------------------


def test_curves_equal_plain_forwards(tiny_model: ReasoningModel) -> None:
    """Of a pruned model, whose weights come back; each set is the beginning or the rest of its order."""
    examples, before = tiny_examples(3), weights_digest(tiny_model)
    mask = prune_mask(tiny_model, "magnitude", sparsity=0.3, progress=False)
    scores = exact_scores(tiny_model, examples[:2], mask=mask)
    found = removal_curve(tiny_model, examples, scores, shares=(0.1, 0.5), draws=2, mask=mask, progress=False)
    assert weights_digest(tiny_model) == before
    assert (found.counts, found.shared) == ((1, 6), 2)
    effects = scores.mean_effect("nll")
    assert list(found.heads) == sorted(EVERY, key=lambda head: -effects[head])
    assert list(found.by_size) == sorted(EVERY, key=lambda head: -abs(effects[head]))
    removed = {
        "most_first": [found.heads[:1], found.heads[:6]],
        "least_first": [found.heads[-1:], found.heads[-6:]],
        "kept": [found.heads[1:], found.heads[6:]],
        "kept_by_size": [found.by_size[1:], found.by_size[6:]],
    }
    curves = found.ordered(found.losses("nll"))
    with tiny_model.masked(mask.keep):
        encoded = encode_all(tiny_model, examples)
        for name, sets in removed.items():
            for place, heads in enumerate(sets):
                for i, example in enumerate(examples):
                    loglik = plain_loglik(tiny_model, encoded[i], example.gold, cast(Any, hooks(heads, tiny_model)))
                    loss = -loglik / encoded[i].answer_lengths[example.gold]
                    assert getattr(curves, name)[place, i] == pytest.approx(loss, abs=1e-4)


def test_heads_taken_out_equal_zero_ablation(tiny_model: ReasoningModel) -> None:
    """Scores with heads out: against joint ablation of the heads and one more."""
    examples, out = tiny_examples(3), ((0, 1), (2, 3))
    scores = exact_scores(tiny_model, examples, mask=without_heads(tiny_model, out))
    joint = cv.joint_effects(tiny_model, examples, [out, (*out, (1, 2)), (*out, (0, 0))], progress=False)
    assert_allclose(scores.dense, joint.ablated[1], atol=1e-4)
    assert_allclose(scores.ablated[1, 2], joint.ablated[2], atol=1e-4)
    assert_allclose(scores.ablated[0, 0], joint.ablated[3], atol=1e-4)
    assert_allclose(scores.effects("nll")[0, 1], 0, atol=1e-5)
    mask = prune_mask(tiny_model, "magnitude", sparsity=0.3, progress=False)
    both = without_heads(tiny_model, out, mask)
    assert both is not None
    assert set(both.keep) == set(mask.keep)
    name = next(matrix.name for matrix in tiny_model.matrices() if (matrix.layer, matrix.kind) == (0, "o"))
    assert not both.keep[name][:, 8:16].any()
    assert (both.keep[name][:, :8] == mask.keep[name][:, :8]).all()
    assert without_heads(tiny_model, (), mask) is mask


# By hand -------------------------------------------------------------------------------------------------------------


def curve(losses: dict[tuple[Head, ...], list[float]], removals: Removals, **options: Any) -> RemovalCurve:
    """A curve of given losses; one option of one token, so that the log-likelihood is minus the loss."""
    values = -np.array([losses[heads] for heads in removals.sets])[..., None]
    n = values.shape[1]
    ones = np.ones((n, 1), dtype=np.int64)
    questions = Questions(tuple(f"q{i}" for i in range(n)), np.zeros(n, dtype=np.int64), ones, ones)
    return RemovalCurve(JointScores(questions, removals.sets, values), removals, **options)


def two_heads() -> tuple[RemovalCurve, Removals]:
    """Head 1 is all there is: without it the loss is 4 and 8, without head 0 it is 1 and 3, as for the whole model."""
    first, second = (0, 0), (0, 1)
    removals = Removals((second, first), (second, first), (1,), draws=3, seed=1)
    losses = {(): [1.0, 3.0], (first,): [1.0, 3.0], (second,): [4.0, 8.0], (first, second): [4.0, 8.0]}
    return curve(losses, removals), removals


def test_curves_and_areas_by_hand() -> None:
    """Removed from the top the loss rises by 3 and 5, mean 4; over a share from 0 to one half its area's mean is 2."""
    found, removals = two_heads()
    assert {order[0] for order in removals.random} == {(0, 0), (0, 1)}, "the draws hold both orders"
    table = found.rows("nll").set_index("curve")
    assert table["effect"].round(6).to_dict() == {
        "most first": 4.0,
        "least first": 0.0,
        "kept": 0.0,
        "kept by size": 0.0,
        "random": pytest.approx(np.mean([4.0 * (order[0] == (0, 1)) for order in removals.random])),
    }
    assert table[["ci_low", "ci_high"]].loc["random"].tolist() == [0, 4]
    areas = found.areas("nll").set_index("area")
    assert areas["value"].round(6).to_dict() == {"most": 2.0, "least": 0.0, "cpr": 0.5, "cmd": 0.0}
    as_good = 1 + sum(order[0] == (0, 1) for order in removals.random)
    assert areas["p_value"].tolist()[0] == as_good / 4
    # Both questions weigh 0, 1 or 2 in a resample of two: rises of 3, 4 or 5.
    assert areas[["ci_low", "ci_high"]].loc["most"].tolist() == [1.5, 2.5]
    assert found.headline.startswith("2 heads, up to 1 removed, 2 examples: CPR 0.5, CMD 0 (nll)")
    assert "1 of which ranked them" in replace(found, shared=1).headline


def test_areas_are_those_of_the_single_functions() -> None:
    heads = tuple((0, head) for head in range(10))
    removals = Removals(heads, heads[::-1], (1, 2, 5), draws=1)
    random = np.random.default_rng(0)
    losses = {removed: (len(removed) + random.normal(size=4)).tolist() for removed in removals.sets}
    found = curve(losses, removals)
    mean = {removed: float(np.mean(values)) for removed, values in losses.items()}

    def areas(order: tuple[Head, ...]) -> CircuitAreas:
        kept = [mean[tuple(sorted(order[count:]))] for count in (1, 2, 5)]
        faithful = faithfulness(np.array([*kept, mean[()]]), dense=mean[()], empty=mean[heads])
        return circuit_areas(np.array([0.1, 0.2, 0.5, 1.0]), faithful)

    expected = [areas(heads).cpr, areas(heads[::-1]).cmd]
    assert_allclose(found.areas("nll")["value"][2:], expected)


def test_circuits_need_something_to_be_faithful_to() -> None:
    removals = Removals(((0, 1), (0, 0)), ((0, 1), (0, 0)), (1,), draws=1)
    flat = curve({heads: [1.0, 1.0] for heads in removals.sets}, removals)
    areas = flat.areas("nll").set_index("area")
    assert areas["value"].isna().to_dict() == {"most": False, "least": False, "cpr": True, "cmd": True}
    assert_array_equal(areas["p_value"], [1, 1, np.nan, np.nan])


def test_weights_of_resamples() -> None:
    weights = question_weights(5, resamples=100, seed=0)
    assert_allclose(weights.sum(axis=1), 1)
    assert_allclose(weights[0], 0.2)
    assert_allclose(weights[1:] * 5, np.round(weights[1:] * 5))


def test_an_order_that_is_scored_again_by_hand() -> None:
    """Heads 0 and 1 do the same work: each alone is of no use, until the other is gone."""

    def effects(removed: tuple[Head, ...]) -> np.ndarray:
        asked.append(removed)
        left = {head for head in ((0, 0), (0, 1), (0, 2)) if head not in removed}
        backed_up = {(0, 0), (0, 1)} <= left
        return np.array([[0.1 * backed_up or 5.0, 0.2 * backed_up or 5.0, 1.0]])

    asked: list[tuple[Head, ...]] = []
    assert rescored_order(effects, (1, 2)) == ((0, 1), (0, 2), (0, 0))
    assert asked == [(), ((0, 0),), ((0, 0), (0, 2))]
    asked.clear()
    assert rescored_order(effects, (2,)) == ((0, 2), (0, 1), (0, 0)), "without scoring again both go"


def test_what_cannot_be_removed_gets_a_sentence(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(2)
    scores, blocks = exact_scores(tiny_model, examples), cv.score_blocks(tiny_model, examples, progress=False)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "give one of the two"),
        ({"scores": blocks}, "order heads by effects of heads"),
        ({"order": EVERY[:-1]}, "lists each of the 12 heads"),
        ({"scores": scores, "shares": (0.5, 1.0)}, "above 0 and below 1"),
        ({"scores": scores, "draws": 0}, "0 random orders are no control"),
    ]
    for options, words in cases:
        with pytest.raises(UsageError, match=words):
            removal_curve(tiny_model, examples, **options, progress=False)
    with pytest.raises(UsageError, match="choose one of gradient, exact"):
        greedy_order(tiny_model, examples, estimator="hybrid", progress=False)
    with pytest.raises(UsageError, match="ascend from 1 to 11"):
        Removals(EVERY, EVERY, (2, 1)).check(3, 4)
    assert counts_of((0.5, 0.01, 0.02, 0.999), 12) == (1, 6, 11)


def test_the_figure_shows_ends_and_random_orders() -> None:
    figure = two_heads()[0].plot()
    lines: list[Any] = [trace for trace in figure.data if trace.mode == "lines+markers"]  # pyright: ignore
    assert [list(line.x) for line in lines] == [[0, 50]] * 3
    assert [line.y[-1] for line in lines][1:] == [4, 0]
    assert [note.text for note in figure.layout.annotations] == [  # pyright: ignore
        "random orders",
        "most important first",
        "least important first",
    ]


# As a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def test_a_stored_curve_holds_what_is_measured(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted, it resumes to the same bits."""
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 1)
    ranked_on = calibration_set("tiny", 4, 3)
    spec = RemovalSpec(
        tiny_model.ref, evaluation_set("tiny", 3), EVERY[::-1], (1, 6), ablation="mean", reference=ranked_on,
        draws=2, ranked_on=ranked_on,
    )  # fmt: skip
    assert spec_from_dict(spec_dict(spec)) == spec
    assert describe(spec) == "up to 6 of 12 heads removed in an order, 2 random orders, mean ablation"
    steps = run_steps(spec, tiny_model, store)
    while not list(store.partial_run_dir(spec).glob("batch-*")):
        next(steps)
    steps.close()
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] >= 1
    stored = load_removal(store, run)
    fresh = removal_curve(
        tiny_model,
        tiny_task.evaluation(3),
        order=EVERY[::-1],
        shares=(0.01, 0.5),
        draws=2,
        ablation="mean",
        reference=tiny_task.calibration(4, 3),
        progress=False,
    )
    assert (stored.shared, fresh.shared) == (0, None)
    assert_array_equal(stored.joint.ablated, fresh.joint.ablated)
    assert len(numbers_of(store, run)) == 5 * 2 * 4
    overlapping = replace(spec, counts=(1,), draws=1, ranked_on=replace(spec.examples, ids=spec.examples.ids[:2]))
    assert load_removal(store, finish(run_steps(overlapping, tiny_model, store))).shared == 2


def test_scores_with_heads_out_are_runs_of_their_own(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", 3), removed=((0, 1), (2, 3)))
    assert spec_from_dict(spec_dict(spec)) == spec
    assert describe(spec) == "exact, zero ablation, without L0 H1, L2 H3"
    run = finish(run_steps(spec, tiny_model, store))
    fresh = exact_scores(tiny_model, tiny_task.calibration(3), mask=without_heads(tiny_model, ((0, 1), (2, 3))))
    assert_array_equal(load_effects(store, run).effects("nll"), fresh.effects("nll"))
    assert score_runs(store.runs(), tiny_model.ref, "tiny") == []
    for wrong, words in (
        (replace(spec, ablation="mean"), "zero ablation"),
        (replace(spec, removed=((3, 0),)), "no head 0"),
    ):
        with pytest.raises(UsageError, match=words):
            finish(run_steps(wrong, tiny_model, store))


def test_a_greedy_order_scores_what_is_left(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(4)
    order = greedy_order(tiny_model, examples, estimator="exact", shares=(0.25, 0.5), progress=False)
    assert sorted(order) == list(EVERY)
    first = exact_scores(tiny_model, examples).mean_effect("nll")
    assert list(order[:-4:-1]) == sorted(EVERY, key=lambda head: first[head])[:3]
    out = exact_scores(tiny_model, examples, mask=without_heads(tiny_model, order[-3:])).mean_effect("nll")
    assert list(order[-4:-7:-1]) == sorted(order[:-3], key=lambda head: out[head])[:3]


# In the shell, and in MIB's format -----------------------------------------------------------------------------------


def test_the_shell_removes_heads(shell: Shell, tiny: list[str], tiny_model: ReasoningModel) -> None:
    few = [*tiny, "--n", "3", "--calibration", "4", "--draws", "2", "--shares", "0.25,0.5"]
    found = shell.json("removal", *few)
    assert (found["shared"], found["rescored"], len(found["heads"])) == (0, False, 12)
    assert [area["area"] for area in found["areas"]] == ["most", "least", "cpr", "cmd"]
    assert len(found["curves"]) == 5 * 2
    again = shell.json("removal", *few, "--rescore", "--estimator", "gradient")
    assert again["rescored"]
    order = greedy_order(tiny_model, load_task("tiny").calibration(4), shares=(0.25, 0.5), progress=False)
    assert again["heads"] == [list(head) for head in order]
    code, out, _ = shell("removal", *few)
    assert code == 0
    assert "6 (50%)" in out
    code, _, err = shell("removal", *few, "--rescore", "--ablation", "mean")
    assert code == 2
    assert "under zero ablation" in err


def test_importances_have_the_documented_structure() -> None:
    """Numbers of nodes and edges of MIB's own example, a graph of GPT-2; names as its reader builds them."""
    effects = np.arange(144.0).reshape(12, 12)
    graph = mib_graph(effects, d_model=768, parallel=False)
    assert list(graph) == ["cfg", "nodes", "edges"]
    assert graph["cfg"] == {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    assert (len(graph["nodes"]), len(graph["edges"])) == (158, 32491)
    assert list(graph["nodes"])[:2] == ["input", "a0.h0"]
    assert list(graph["nodes"])[-2:] == ["m11", "logits"]
    assert graph["nodes"]["a3.h5"] == {"in_graph": False, "score": 41.0}
    assert {name for name, node in graph["nodes"].items() if "score" in node} == {
        f"a{layer}.h{head}" for layer in range(12) for head in range(12)
    }
    assert list(graph["edges"])[:4] == ["input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>", "input->a0.h1<q>"]
    assert {"a0.h0->m0", "a0.h0->a1.h2<v>", "m10->m11", "a11.h0->m11", "m11->logits"} <= set(graph["edges"])
    assert not {"a0.h0->a0.h1<q>", "m0->m0", "logits->m0", "m11->a11.h0<q>"} & set(graph["edges"])
    assert graph["edges"]["m10->m11"] == {"score": 0.0, "in_graph": False}
    side_by_side = mib_graph(effects, d_model=768, parallel=True)
    assert len(graph["edges"]) - len(side_by_side["edges"]) == 144
    assert "a0.h0->m0" not in side_by_side["edges"]


def test_importances_are_written_once(
    shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tmp_path: Path
) -> None:
    file = tmp_path / "importances.json"
    scored = shell.json("score", *tiny, "--n", "3", "--mib", str(file))
    graph = json.loads(file.read_text())
    assert graph["nodes"]["a2.h3"]["score"] == pytest.approx(scored["mean_effect"][2][3])
    scores = exact_scores(tiny_model, load_task("tiny").calibration(3))
    assert cv.mib_importances(tiny_model, scores)["cfg"] == graph["cfg"]
    code, _, err = shell("score", *tiny, "--n", "3", "--mib", str(file))
    assert code == 2
    assert "is there already" in err
    code, _, err = shell("score", *tiny, "--n", "3", "--mib", str(tmp_path / "no_folder" / "importances.json"))
    assert code == 2
    assert "there is no folder" in err
    blocks = cv.score_blocks(tiny_model, tiny_examples(2), progress=False)
    other = replace(scores, ablated=scores.ablated[:2])
    for wrong, words in ((blocks, "of whole attention layers"), (other, "are of 2 layers × 4 heads")):
        with pytest.raises(UsageError, match=words):
            cv.mib_importances(tiny_model, wrong)
