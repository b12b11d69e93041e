"""Heads of a pruned model: the engine against plain forwards of it, the changes by hand, the run and its command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

import cap_viz as cv
from cap_viz.attribution.effect_changes import EffectChanges, effect_changes
from cap_viz.attribution.exact import direct_effects, encode_all, exact_scores, score_blocks
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.attribution.results import GradientEffects, HeadScores, Questions
from cap_viz.attribution.self_test import weights_digest
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import prune_mask
from cap_viz.pruning.mask import Mask
from cap_viz.runs.execute import mask_steps, run_steps
from cap_viz.runs.kinds import describe
from cap_viz.runs.kinds.joint import load_pairs
from cap_viz.runs.kinds.scores import load_changes, load_effects
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import MaskSpec, PairSpec, ScoreSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.shell import Shell
from tests.test_engine import mean_z
from tests.test_replacement import plain_loglik
from tests.tiny import tiny_examples, write_tiny_model


@pytest.fixture(scope="module")
def mask(tiny_model: ReasoningModel) -> Mask:
    return prune_mask(tiny_model, "magnitude", sparsity=0.4, progress=False)


# The engine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_blocks", [False, True])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_scores_under_a_mask_equal_forwards_of_the_pruned_model(
    tiny_model: ReasoningModel, mask: Mask, monkeypatch: pytest.MonkeyPatch, own_blocks: bool, ablation: Any
) -> None:
    """The mean is that of the pruned model, too; the dense one comes back bit by bit."""
    if own_blocks:
        monkeypatch.setattr("cap_viz.attribution.forward.shortcut_checks.direct_model", lambda model: None)
    examples, before = tiny_examples(3), weights_digest(tiny_model)
    found = exact_scores(tiny_model, examples, ablation=ablation, mask=mask)
    assert weights_digest(tiny_model) == before
    with tiny_model.masked(mask.keep):
        value = np.zeros((3, 4)) if ablation == "zero" else mean_z(tiny_model, examples)
        for i, encoded in enumerate(encode_all(tiny_model, examples)):
            assert plain_loglik(tiny_model, encoded, 0, []) == pytest.approx(float(found.dense[i, 0]), abs=1e-4)
            for layer, head in ((0, 1), (1, 3), (2, 0)):

                def replaced(z: Tensor, hook: Any, layer: int = layer, head: int = head) -> Tensor:
                    by_head = z.reshape(*z.shape[:2], 4, -1).clone()
                    by_head[:, :, head] = value[layer][head]
                    return by_head.reshape(z.shape)

                for option in range(len(encoded.branches)):
                    plain = plain_loglik(tiny_model, encoded, option, [(f"blocks.{layer}.attn.hook_z", replaced)])
                    assert plain == pytest.approx(float(found.ablated[layer, head, i, option]), abs=1e-4)
    dense = exact_scores(tiny_model, examples, ablation=ablation)
    assert np.nanmax(np.abs(dense.ablated - found.ablated)) > 1e-2


@pytest.mark.parametrize("ablation", ["zero", "resample"])
def test_all_other_effects_are_those_of_the_pruned_model(tiny_model: ReasoningModel, mask: Mask, ablation: Any) -> None:
    """Swapping the weights in within each step gives what scoring a model pruned all along gives."""
    examples, options = tiny_examples(4), {"ablation": ablation, "seed": 2}
    quiet = {**options, "progress": False}

    def all_of(**more: Any) -> list[np.ndarray]:
        return [
            score_blocks(tiny_model, examples, **quiet, **more).ablated,
            direct_effects(tiny_model, examples, **quiet, **more).ablated,
            gradient_effects(tiny_model, examples, metric="choice_nll", **options, **more).per_example,
            cv.pair_effects(tiny_model, examples, [(0, 1), (2, 3)], **quiet, **more).joint.ablated,
            cv.joint_effects(tiny_model, examples, [[(0, 1), (1, 2), (2, 3)]], **quiet, **more).ablated,
        ]

    under = all_of(mask=mask)
    with tiny_model.masked(mask.keep):
        pruned = all_of()
    for one, other in zip(under, pruned, strict=True):
        assert_allclose(one, other, atol=1e-5)
    assert max(float(np.nanmax(np.abs(a - b))) for a, b in zip(under, all_of(), strict=True)) > 1e-2


def test_a_mask_reaches_every_estimator(tiny_model: ReasoningModel, mask: Mask) -> None:
    examples = tiny_examples(20)
    hybrid = cv.score_heads(tiny_model, examples, estimator="hybrid", mask=mask, progress=False)
    with tiny_model.masked(mask.keep):
        pruned = cv.score_heads(tiny_model, examples, estimator="hybrid", progress=False)
    assert_allclose(hybrid.mean_effect("nll"), pruned.mean_effect("nll"), atol=1e-4)


# Changes by hand -----------------------------------------------------------------------------------------------------


def questions(n: int, prefix: str = "q") -> Questions:
    width = np.ones((n, 2), dtype=np.int64)
    return Questions(tuple(f"{prefix}{i}" for i in range(n)), np.zeros(n, dtype=np.int64), width, width)


def by_gradient(*effects: tuple[float, ...], metric: str = "nll", prefix: str = "q") -> GradientEffects:
    """Effects of the heads of one layer."""
    values = np.array([effects])
    return GradientEffects(questions(values.shape[-1], prefix), np.zeros((values.shape[-1], 2)), values, metric)


def test_changes_by_hand() -> None:
    """Each kind by its means before and after, with the same small spread; and a change that may be chance."""
    noise = np.array([-0.1, 0.1, 0.0])
    means = {
        "stronger": (1, 3),
        "weaker": (3, 1),
        "gained": (0, 2),
        "lost": (2, 0),
        "hurts less": (-3, -1),
        "hurts more": (-1, -3),
    }
    before = [mean + 0 * noise for mean, _ in means.values()] + [np.zeros(3)]
    after = [mean + noise for _, mean in means.values()] + [np.array([-1.0, 2.0, 0.5])]
    found = effect_changes(by_gradient(*map(tuple, before)), by_gradient(*map(tuple, after)))
    assert found.kinds("nll") == [[*means, "not shown"]]
    table = found.to_pandas()
    assert_allclose(table["change"], [2, -2, 2, -2, 2, -2, 0.5])
    assert_allclose(table["before"] + table["change"], table["after"])
    # Standard error 0.1 / √3, and Student's 97.5 % quantile with 2 degrees of freedom is 4.3027.
    assert_allclose(table["ci_high"][0] - 2, 4.3027 * 0.1 / np.sqrt(3), rtol=1e-4)
    assert found.headline == (
        "1 layers × 7 heads, 3 examples: 1 gained, 1 lost, 1 stronger, 1 weaker, 1 hurts less, 1 hurts more, "
        "1 not shown (nll)"
    )
    assert len(found.overview()) == 5
    reversed_ = effect_changes(found.after, found.before)
    assert_allclose(reversed_.changes("nll"), -found.changes("nll"))


def test_a_map_of_changes_fades_what_is_unclear() -> None:
    found = effect_changes(by_gradient((1.0, 1.1, 0.9), (0, 0, 0)), by_gradient((3.0, 3.0, 3.1), (-1.0, 2.0, 0.5)))
    figure = found.plot()
    clear, faded = (np.asarray(figure.data[layer].z) for layer in (1, 2))  # pyright: ignore
    assert np.isnan(clear).tolist() == [[False, True]]
    assert np.isnan(faded).tolist() == [[True, False]]
    assert any("needed more" in note.text for note in figure.layout.annotations)  # pyright: ignore
    assert "before +1.000" in " ".join(figure.data[-1].text)  # pyright: ignore


def test_what_cannot_be_paired_gets_a_sentence(tiny_model: ReasoningModel) -> None:
    one = by_gradient((0.0, 1.0))
    scores = exact_scores(tiny_model, tiny_examples(2))
    exact = HeadScores(scores.questions, scores.dense, scores.ablated)
    hybrid = cv.score_heads(tiny_model, tiny_examples(20), estimator="hybrid", progress=False)
    for after, words in (
        (by_gradient((0.0, 1.0), metric="choice_nll"), "on different metrics: nll and choice_nll"),
        (by_gradient((0.0, 1.0), prefix="p"), "of different questions"),
        (by_gradient((0.0, 1.0), (1.0, 1.0)), "differ in shape: 1 layers × 1 heads and 1 layers × 2 heads"),
        (exact, "Gradient effects of heads and exact effects of heads are not comparable"),
        (hybrid, "HybridScores have no effect for each question"),
    ):
        with pytest.raises(UsageError, match=words):
            effect_changes(one, after)
    blocks = score_blocks(tiny_model, tiny_examples(2), progress=False)
    table = effect_changes(blocks, blocks).to_pandas("nll")
    assert list(table["part"][:2]) == ["attention", "mlp"]


# As a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.mark.parametrize("estimator", ["exact", "gradient"])
def test_a_run_under_a_mask_holds_what_is_measured(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, estimator: Any
) -> None:
    """It is never taken for scores of the dense model."""
    made = mask_spec_for(tiny_model.ref, "cap", 0.5, task="tiny", n=4)
    dense = ScoreSpec(tiny_model.ref, calibration_set("tiny", 5, 3), estimator)
    dense = replace(dense, metric="nll") if estimator == "gradient" else dense
    spec = replace(dense, mask=made, ablation="mean")
    assert spec_from_dict(spec_dict(spec)) == spec
    assert spec_key(spec) != spec_key(replace(spec, mask=None))
    assert describe(spec).endswith("mean ablation, cap at 50%")
    run = finish(run_steps(spec, tiny_model, store))
    stored, mask = load_effects(store, run), finish(mask_steps(made, tiny_model, store))
    fresh = cv.score_heads(
        tiny_model, tiny_task.calibration(5, 3), estimator=estimator, ablation="mean", mask=mask, progress=False
    )
    assert_array_equal(stored.effects("nll"), fresh.effects("nll"))
    assert score_runs(store.runs(), tiny_model.ref, "tiny", estimator=estimator) == (
        [] if estimator == "gradient" else [store.get(made.scores)]  # pyright: ignore
    )


def test_pairs_under_a_mask_are_a_run_of_their_own(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    made, heads = mask_spec_for(tiny_model.ref, "wanda", 0.5, task="tiny", n=4), ((0, 1), (2, 3))
    spec = PairSpec(tiny_model.ref, evaluation_set("tiny", 3), heads, mask=made)
    assert spec_from_dict(spec_dict(spec)) == spec
    assert describe(spec).endswith("zero ablation, wanda at 50%")
    stored = load_pairs(store, finish(run_steps(spec, tiny_model, store)))
    mask = finish(mask_steps(made, tiny_model, store))
    fresh = cv.pair_effects(tiny_model, tiny_task.evaluation(3), heads, mask=mask, progress=False)
    assert_array_equal(stored.joint.ablated, fresh.joint.ablated)
    with pytest.raises(UsageError, match="use a mask of this model"):
        finish(run_steps(replace(spec, mask=foreign(made)), tiny_model, store))


def foreign(mask: MaskSpec) -> MaskSpec:
    """The recipe of a mask on head scores of another model."""
    scores = ScoreSpec(ModelRef("other", "0" * 16), calibration_set("tiny", 4))
    return replace(mask, criterion="cap", scores=scores)


def test_runs_under_different_ablations_are_not_paired(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store
) -> None:
    zero = ScoreSpec(tiny_model.ref, calibration_set("tiny", 3), parts="writes")
    mean = replace(zero, ablation="mean")
    other = replace(mean, reference=calibration_set("tiny", 4))
    runs = [finish(run_steps(spec, tiny_model, store)) for spec in (zero, mean, other)]
    assert load_changes(store, runs[0], runs[0]).kind == "DirectScores"
    for first, second, words in ((0, 1, "under different ablations: zero and mean"), (1, 2, "from different examples")):
        with pytest.raises(UsageError, match=words):
            load_changes(store, runs[first], runs[second])


def test_a_mask_of_other_weights_is_refused(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    other = mask_spec_for(ModelRef("other", "0" * 16), "cap", 0.5, task="tiny", n=4)
    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", 2), mask=other)
    with pytest.raises(UsageError, match="The mask is built on head scores of other with fingerprint 0000"):
        finish(run_steps(spec, tiny_model, store))


def test_the_shell_scores_a_pruned_model_and_compares(
    shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tmp_path: Path
) -> None:
    scored = shell.json("score", *tiny, "--n", "3", "--criterion", "magnitude", "--sparsity", "0.4")
    assert (scored["criterion"], scored["sparsity"]) == ("magnitude", 0.4)
    changed = shell.json("changes", *tiny, "--n", "6", "--criterion", "magnitude", "--sparsity", "0.4")
    assert (changed["criterion"], changed["against"], changed["n"]) == ("magnitude", None, 6)
    assert len(changed["changes"]) == 12
    row = changed["changes"][5]
    assert row["change"] == pytest.approx(row["after"] - row["before"], abs=1e-6)
    code, out, _ = shell("changes", *tiny, "--n", "6", "--criterion", "magnitude", "--sparsity", "0.4")
    assert code == 0
    assert "The 12 largest of 12 changes." in out
    other = str(write_tiny_model(tmp_path / "other", seed=1))
    between = shell.json("changes", *tiny, "--n", "4", "--against", other, "--estimator", "gradient")
    assert between["runs"]["before"]["fingerprint"] != between["runs"]["after"]["fingerprint"]
    for extra in ([], ["--criterion", "wanda", "--against", other]):
        code, _, err = shell("changes", *tiny, *extra)
        assert code == 2
        assert "give one" in err


def test_changes_are_saved_with_what_they_are_of(tiny_model: ReasoningModel, tmp_path: Path) -> None:
    effects = gradient_effects(tiny_model, tiny_examples(4), metric="choice_nll")
    again = cv.load(effect_changes(effects, effects).save(tmp_path / "changes"))
    assert isinstance(again, EffectChanges)
    assert (again.kind, again.metric, again.kinds("choice_nll")[0][0]) == ("GradientEffects", "choice_nll", "not shown")
