"""Heads in pairs: the engine against plain forwards, the pair effects by hand, the run and its command."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from torch import Tensor

from cap_viz.attribution.exact import encode_all
from cap_viz.attribution.joint_ablation import pair_effects, set_groups
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.attribution.pair_scores import PairScores, sets_of_pairs
from cap_viz.attribution.results import Questions
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds import numbers_of
from cap_viz.runs.kinds.joint import load_pairs
from cap_viz.runs.spec import PairSpec, spec_dict, spec_from_dict
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import evaluation_set
from tests.shell import Shell
from tests.test_engine import mean_z
from tests.test_replacement import plain_loglik
from tests.tiny import tiny_examples

# Two of one layer, and heads of the first and of the last one.
HEADS = ((0, 1), (1, 2), (1, 0), (2, 3))


@pytest.mark.parametrize("own_blocks", [False, True])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_pairs_equal_plain_forwards_with_both_heads_replaced(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch, own_blocks: bool, ablation: Any
) -> None:
    if own_blocks:
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    examples = (*tiny_examples(3), tiny_examples(5, n_options=5)[4])
    value = np.zeros((3, 4)) if ablation == "zero" else mean_z(tiny_model, examples)

    def replace(layer: int, head: int) -> Any:
        def hook(z: Tensor, hook: Any) -> Tensor:
            by_head = z.reshape(*z.shape[:2], 4, -1).clone()
            by_head[:, :, head] = value[layer][head]
            return by_head.reshape(z.shape)

        return f"blocks.{layer}.attn.hook_z", hook

    found = pair_effects(tiny_model, examples, HEADS, ablation=ablation, progress=False)
    for i, encoded in enumerate(encode_all(tiny_model, examples)):
        for option in range(len(encoded.branches)):
            expected = [
                plain_loglik(tiny_model, encoded, option, [replace(*head) for head in heads])
                for heads in found.joint.sets
            ]
            assert_allclose(found.joint.ablated[:, i, option], expected, atol=1e-4)
    assert np.abs(found.effects("nll")).max() > 1e-3


def test_sets_that_begin_together_run_together() -> None:
    sets = sets_of_pairs(HEADS)
    assert sets == ((), *((head,) for head in HEADS), *combinations(HEADS, 2))
    groups = set_groups(sets, 10, 35)
    # Sets 1 and 5 to 7 hold the head of layer 0; three at a time fit. Set 4 alone begins in layer 2. Sets with the same
    # first head stand together: 3, 8 and 10 begin with head 0 of layer 1.
    assert groups == [(1, 6, 5), (7,), (3, 8, 10), (2, 9), (4,)]
    assert set_groups(sets, 100, 35) == [(one,) for one in (1, 6, 5, 7, 3, 8, 10, 2, 9, 4)]


def scores_of(losses: dict[tuple[int, ...], list[float]], n_options: int = 1) -> PairScores:
    """Pair scores of heads 0, 1, … of layer 0 whose nll with the named heads removed is given, 0 for the dense model.

    Further options have the log-likelihood of the first in the dense model, 0.
    """
    heads = tuple((0, number) for number in range(1 + max(one for numbers in losses for one in numbers)))
    sets = sets_of_pairs(heads)
    n = len(next(iter(losses.values())))
    tokens = np.ones((n, n_options), dtype=np.int64)
    questions = Questions(tuple(map(str, range(n))), np.zeros(n, dtype=np.int64), tokens, tokens)
    ablated = np.zeros((len(sets), n, n_options), dtype=np.float32)
    for number, chosen in enumerate(sets[1:], start=1):
        ablated[number, :, 0] = [-loss for loss in losses[tuple(head for _, head in chosen)]]
    return PairScores(JointScores(questions=questions, sets=sets, ablated=ablated))


def test_pair_effects_by_hand() -> None:
    """Heads 0 and 1 back each other up by 4; 0 and 2 overlap by 1; whether 1 and 2 do cannot be told."""
    scores = scores_of(
        {
            (0,): [1.0, 1.1, 0.9],
            (1,): [0.0, 0.0, 0.0],
            (2,): [2.0, 2.0, 2.0],
            (0, 1): [5.0, 5.11, 4.89],
            (0, 2): [2.0, 2.11, 1.89],
            (1, 2): [1.0, 3.0, 2.3],
        }
    )
    assert_allclose(scores.effects("nll"), [[4, 4.01, 3.99], [-1, -0.99, -1.01], [-1, 1, 0.3]], atol=1e-6)
    estimate = scores.estimated("nll")
    assert estimate.std_error[0] == pytest.approx(0.01 / np.sqrt(3), rel=1e-3)
    assert scores.kinds("nll") == ["back-up", "overlap", "not shown"]
    table = scores.to_pandas("nll")
    assert table[["first", "second"]].to_numpy().tolist() == [["L0H0", "L0H1"], ["L0H0", "L0H2"], ["L0H1", "L0H2"]]
    assert_allclose(table["effect_both"] - table["effect_first"] - table["effect_second"], table["pair_effect"])
    assert "1 back-up, 1 overlap, 0 ceiling" in scores.headline
    assert not scores.at_ceiling().any(), "a text has no options to guess among"


def test_an_overlap_with_a_head_that_alone_makes_the_model_guess_is_a_ceiling() -> None:
    """Two options: without head 0 the right one is 2 nats worse than the other, beyond log 2 of an even guess."""
    losses = {(0,): [2.0, 2.01, 1.99], (1,): [-2.0, -2.0, -2.0], (0, 1): [-1.0, -1.0, -1.01]}
    scores = scores_of(losses, n_options=2)
    assert scores.at_ceiling().tolist() == [True, False]
    assert scores.estimated("nll").mean[0] == pytest.approx(-1.00333, abs=1e-5)
    assert scores.kinds("nll") == ["ceiling"]


@pytest.mark.parametrize(
    ("heads", "reason"),
    [(((0, 1),), "two heads"), (((0, 1), (0, 1)), "twice"), (((0, 1), (5, 0)), "no head 0 in layer 5")],
)
def test_what_is_no_pair_is_refused(
    heads: Any, reason: str, tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path
) -> None:
    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    spec = PairSpec(tiny_model.ref, evaluation_set("tiny", 3), heads)
    with pytest.raises(UsageError, match=reason):
        list(run_steps(spec, tiny_model, store))
    with pytest.raises(UsageError, match=reason):
        pair_effects(tiny_model, tiny_examples(2), heads, progress=False)


def test_a_run_that_is_cut_short_goes_on_where_it_was(
    tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 15)
    store = Store(shipped=tmp_path / "shipped", local=tmp_path / "local")
    spec = PairSpec(tiny_model.ref, evaluation_set("tiny", 6), HEADS)
    assert spec_from_dict(spec_dict(spec)) == spec
    steps = run_steps(spec, tiny_model, store)
    while not list(store.partial_run_dir(spec).glob("batch-*")):
        next(steps)
    steps.close()
    run = finish(run_steps(spec, tiny_model, store))
    scores = load_pairs(store, run)
    assert_allclose(
        scores.joint.ablated, pair_effects(tiny_model, tiny_task.evaluation(6), HEADS, progress=False).joint.ablated
    )
    assert scores.heads == HEADS
    assert 0 < run.provenance["resumed_batches"] < len(run.provenance["plan"]["batches"])
    assert len(numbers_of(store, run)) == 6 * len(scores.joint.questions.metrics)


def test_the_command(tiny: list[str], shell: Shell) -> None:
    found = shell.json("pairs", *tiny, "--n", "4", "--top", "3", "--calibration", "4")
    assert len(found["pairs"]) == 3
    assert len(found["effects"]) == len(found["heads"]) == 3
    named = ",".join(f"L{layer}H{head}" for layer, head in found["heads"])
    again = shell.json("pairs", *tiny, "--n", "4", "--heads", named)
    assert again == found, "the same heads by name are the same run"
    code, out, _ = shell("pairs", *tiny, "--n", "4", "--heads", named)
    assert code == 0
    assert all(f"L{layer}H{head}" in out for layer, head in found["heads"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--top", "13"], "--top 13: name from 2 to 12 heads"),
        (["--top", "1"], "--top 1"),
        (["--heads", "L0H1,third"], "'third' is no head"),
        (["--heads", "L0H1"], "two heads"),
        (["--metric", "no"], "no"),
    ],
)
def test_mistakes_of_the_command_are_sentences(options: list[str], reason: str, tiny: list[str], shell: Shell) -> None:
    code, out, err = shell("pairs", *tiny, "--n", "3", "--calibration", "3", *options)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())
