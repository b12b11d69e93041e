"""Effects on models whose circuit is known by construction: heads, paths, signs and pairs, against numbers by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

import cap_viz as cv
from cap_viz.attribution.path_scores import PATH_PARTS, PathPart, PathScores, strongest_heads
from cap_viz.attribution.results import DirectScores, HeadScores
from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import ReasoningModel, load
from tests.known_circuits import (
    ANSWER_LOGIT,
    CIRCUITS,
    CONTROLS,
    INDUCTION,
    OTHER_PREVIOUS,
    PREVIOUS,
    REPAIR,
    VOCABULARY,
    repeated_words,
    write_known_model,
)

EXAMPLES = repeated_words(24)
# Values of mean ablation come from other prompts than those that are scored.
ABLATIONS: dict[str, dict[str, Any]] = {
    "zero": {},
    "mean": {"ablation": "mean", "reference": repeated_words(12, seed=1)},
}


def loss(logit: float) -> float:
    """Answer loss where the right word has this logit and all others 0."""
    return float(np.log1p((len(VOCABULARY) - 1) * np.exp(-logit)))


# What the answer's logit is worth, and what writing it twice adds. The mean of an induction head's output holds a
# little of every word, so that under mean ablation not all is lost.
WORTH, TWICE = loss(0) - loss(ANSWER_LOGIT), loss(2 * ANSWER_LOGIT) - loss(ANSWER_LOGIT)
NOTHING = 2e-3
WITHIN = {"zero": 2e-3, "mean": 0.06}

Known = Callable[[str], ReasoningModel]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """The models by name, each loaded once."""

    @cache
    def loaded(name: str) -> ReasoningModel:
        folder = tmp_path_factory.mktemp("models") / name
        return load(resolve(str(write_known_model(folder, CIRCUITS[name]))))

    return loaded


@pytest.fixture(params=ABLATIONS)
def ablation(request: pytest.FixtureRequest) -> str:
    return request.param


def effects_of(model: ReasoningModel, ablation: str) -> cv.EffectSplit:
    options = ABLATIONS[ablation]
    total = cv.score_heads(model, EXAMPLES, progress=False, **options)
    direct = cv.direct_effects(model, EXAMPLES, progress=False, **options)
    assert isinstance(total, HeadScores)
    return cv.split_effects(total, direct)


def paths_of(
    model: ReasoningModel, ablation: str, senders: Sequence[tuple[int, int]], parts: Sequence[PathPart] = ("all",)
) -> PathScores:
    """Paths from the senders to all heads that do something."""
    receivers = [head for head in (*CONTROLS[1:], INDUCTION, REPAIR) if head[0] > senders[0][0]]
    options = {**ABLATIONS[ablation], "receivers": receivers, "parts": parts}
    return cv.path_effects(model, EXAMPLES, senders, progress=False, **options)


def by_path(paths: PathScores, metric: str = "nll") -> dict[str, float]:
    return {str(path): float(effect.mean()) for path, effect in zip(paths.paths, paths.effects(metric), strict=True)}


def others(effects: HeadScores | DirectScores, *heads: tuple[int, int]) -> np.ndarray:
    """Mean effects of all heads but these on the answer loss."""
    means = effects.mean_effect("nll").copy()
    means[tuple(np.transpose(heads))] = 0
    return means


# A circuit of two heads ----------------------------------------------------------------------------------------------


def test_the_model_answers_as_its_weights_say(known: Known) -> None:
    report = cv.evaluate(known("induction"), EXAMPLES, progress=False)
    assert report.acc == 1
    np.testing.assert_allclose(report.losses("nll"), loss(ANSWER_LOGIT), atol=NOTHING)


def test_induction_is_found_as_its_two_heads_and_the_path_between_their_keys(known: Known, ablation: str) -> None:
    model = known("induction")
    split = effects_of(model, ablation)
    assert strongest_heads(split.total.estimated("nll"), 2) == (PREVIOUS, INDUCTION)
    total, direct = split.total.mean_effect("nll"), split.direct.mean_effect("nll")
    assert total[PREVIOUS] == pytest.approx(WORTH, abs=NOTHING), "without it the second head rests"
    assert total[INDUCTION] == pytest.approx(WORTH, abs=WITHIN[ablation])
    np.testing.assert_allclose(others(split.total, PREVIOUS, INDUCTION), 0, atol=NOTHING)

    assert direct[INDUCTION] == pytest.approx(total[INDUCTION], abs=NOTHING), "nothing reads what it writes"
    np.testing.assert_allclose(others(split.direct, INDUCTION), 0, atol=NOTHING)
    assert split.repaired("nll").max() < NOTHING

    effects = by_path(paths_of(model, ablation, [PREVIOUS], PATH_PARTS))
    edges = {f"L0H1 → L1H3{part}" for part in ("", " (k)")}
    for path, effect in effects.items():
        carries = path in edges or path.endswith("everything")
        assert effect == pytest.approx(WORTH if carries else 0, abs=NOTHING), path


def test_the_paths_of_the_first_head_add_up_to_its_effect(known: Known, ablation: str) -> None:
    """Only one of them carries anything, so that there is nothing they could do together."""
    (row,) = paths_of(known("induction"), ablation, [PREVIOUS]).balance("nll").to_dict("records")
    assert row["heads"] == pytest.approx(row["total"], abs=NOTHING)
    assert row["remainder"] == pytest.approx(0, abs=NOTHING)


def test_heads_in_series_overlap_but_each_alone_reaches_the_ceiling(known: Known) -> None:
    pairs = cv.pair_effects(known("induction"), EXAMPLES, [PREVIOUS, INDUCTION, CONTROLS[1]], progress=False)
    series, *rest = pairs.to_pandas("nll").to_dict("records")
    assert (series["first"], series["second"], series["kind"]) == ("L0H1", "L1H3", "ceiling")
    assert series["pair_effect"] == pytest.approx(-WORTH, abs=NOTHING)
    np.testing.assert_allclose([pair["pair_effect"] for pair in rest], 0, atol=NOTHING)


def test_a_gradient_does_not_see_a_match_beyond_doubt(known: Known) -> None:
    """Attention of 1 has no slope, so that the first head gets nothing; the second gets (1 - p) of its logit."""
    found = cv.score_heads(known("induction"), EXAMPLES, estimator="gradient", progress=False).mean_effect("nll")
    wrong = 1 - np.exp(-loss(ANSWER_LOGIT))
    assert found[PREVIOUS] == pytest.approx(0, abs=NOTHING)
    assert found[INDUCTION] == pytest.approx(ANSWER_LOGIT * wrong, abs=NOTHING)


# Two heads of which either suffices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["nll", "logit_diff"])
def test_redundant_heads_are_found_in_pairs_alone(known: Known, ablation: str, metric: str) -> None:
    heads = [PREVIOUS, OTHER_PREVIOUS, INDUCTION, CONTROLS[0]]
    pairs = cv.pair_effects(known("redundant"), EXAMPLES, heads, progress=False, **ABLATIONS[ablation])
    worth = {"nll": WORTH, "logit_diff": ANSWER_LOGIT}[metric]
    singles = pairs.singles(metric).mean
    np.testing.assert_allclose(singles[[0, 1, 3]], 0, atol=NOTHING)
    assert singles[2] == pytest.approx(worth, abs=2 * WITHIN[ablation])
    twins, *rest = pairs.to_pandas(metric).to_dict("records")
    assert (twins["first"], twins["second"], twins["kind"]) == ("L0H1", "L0H2", "back-up")
    assert twins["effect_both"] == pytest.approx(worth, abs=NOTHING)
    assert twins["pair_effect"] == pytest.approx(worth, abs=NOTHING)
    np.testing.assert_allclose([pair["pair_effect"] for pair in rest], 0, atol=NOTHING)


def test_single_heads_and_paths_do_not_show_redundant_heads(known: Known) -> None:
    model = known("redundant")
    split = effects_of(model, "zero")
    for effects in (split.total, split.direct):
        assert effects.mean_effect("nll")[INDUCTION] == pytest.approx(WORTH, abs=NOTHING)
        np.testing.assert_allclose(others(effects, INDUCTION), 0, atol=NOTHING)
    paths = by_path(paths_of(model, "zero", [PREVIOUS, OTHER_PREVIOUS], PATH_PARTS))
    np.testing.assert_allclose(list(paths.values()), 0, atol=NOTHING)


# A head that is repaired later ---------------------------------------------------------------------------------------


def test_a_repaired_head_has_a_direct_effect_and_hardly_a_total_one(known: Known, ablation: str) -> None:
    split = effects_of(known("repaired"), ablation)
    total, direct = split.total.mean_effect("nll"), split.direct.mean_effect("nll")
    assert direct[INDUCTION] == pytest.approx(WORTH, abs=WITHIN[ablation])
    assert total[INDUCTION] == pytest.approx(0, abs=WITHIN[ablation])
    repaired = split.repaired("nll")
    assert np.argwhere(repaired > NOTHING).tolist() == [list(INDUCTION)]
    assert repaired[INDUCTION] == pytest.approx(WORTH, abs=WITHIN[ablation])
    assert direct[REPAIR] == pytest.approx(0, abs=NOTHING), "it rests as long as the other one writes"
    assert total[REPAIR] == pytest.approx(0, abs=NOTHING)


def test_the_path_to_the_repairing_head_is_negative(known: Known, ablation: str) -> None:
    """It leads through the queries: not seeing the answer, the head writes it a second time.

    Logits are sums, so that the paths add up on the margin; on the loss the second write is worth less than the first.
    """
    paths = paths_of(known("repaired"), ablation, [INDUCTION], PATH_PARTS)
    edges, answer = {"L1H3 → L2H2", "L1H3 → L2H2 (q)"}, "L1H3 → answer"
    for metric, once, twice in (("nll", WORTH, TWICE), ("logit_diff", ANSWER_LOGIT, -ANSWER_LOGIT)):
        for path, effect in by_path(paths, metric).items():
            expected = once if path == answer else twice if path in edges else 0
            assert effect == pytest.approx(expected, abs=WITHIN[ablation]), path
        (row,) = paths.balance(metric).to_dict("records")
        assert row["remainder"] == pytest.approx(-once - twice, abs=WITHIN[ablation])


def test_the_head_and_its_repair_back_each_other_up(known: Known) -> None:
    pairs = cv.pair_effects(known("repaired"), EXAMPLES, [INDUCTION, REPAIR], progress=False)
    (row,) = pairs.to_pandas("nll").to_dict("records")
    assert row["kind"] == "back-up"
    assert row["pair_effect"] == pytest.approx(WORTH, abs=NOTHING)


def test_a_repair_hides_the_paths_that_lead_to_either_head(known: Known) -> None:
    """The first head feeds both: through each alone nothing is lost, so that all of its effect is in the remainder."""
    (row,) = paths_of(known("repaired"), "zero", [PREVIOUS]).balance("nll").to_dict("records")
    assert row["total"] == pytest.approx(WORTH, abs=NOTHING)
    assert row["paths"] == pytest.approx(0, abs=NOTHING)
    assert row["remainder"] == pytest.approx(WORTH, abs=NOTHING)
