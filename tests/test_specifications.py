"""Specification curves: ranks and shares by hand, what is stored and missing, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cap_viz.attribution.exact import exact_scores
from cap_viz.attribution.specification_curve import Specification, SpecificationCurve
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds import describe
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.run_queries import direct_spec, score_runs
from cap_viz.runs.sample_plan import can_combine, hybrid_specs
from cap_viz.runs.score_sources import stored_sources
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.specifications import (
    ScoringChoices,
    curve_of,
    expected_seconds_of,
    missing_runs,
    specification_curve,
    stored_choices,
)
from cap_viz.runs.store import Store
from cap_viz.stats import mean_with_ci
from cap_viz.stats.hybrid import FEWEST_EXACT
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, evaluation_set
from cap_viz.tasks.wordings import reworded
from tests.shell import Shell

PROMPT = "Q: {question}\nA:"
NAMES = tuple(Specification("nll", "zero", seed, 3, "exact") for seed in range(3))
MISSING = Specification("nll", "mean", 0, 3, "exact")


def by_hand() -> SpecificationCurve:
    """One layer of three heads under three draws: head 0 is first twice, head 2 once; head 1 surely hurts once."""
    effects = [
        [[3.0, 3.1, 2.9], [-1.0, -1.1, -0.9], [1.0, 1.1, 0.9]],
        [[3.0, 3.1, 2.9], [0.0, 5.0, -5.0], [1.0, 1.1, 0.9]],
        [[1.0, 9.0, -7.0], [0.0, 0.1, -0.1], [2.0, 2.1, 1.9]],
    ]
    estimates = {name: mean_with_ci(np.array([heads])) for name, heads in zip(NAMES, effects, strict=True)}
    return SpecificationCurve.of(estimates, missing=(MISSING,))


def test_shares_and_ranks_by_hand() -> None:
    curve = by_hand()
    assert curve.rank.tolist() == [[[1, 3, 2]], [[1, 3, 2]], [[2, 3, 1]]]
    assert_allclose(curve.share_in_top(1), [[2 / 3, 0, 1 / 3]])
    assert_allclose(curve.share_in_top(2), [[1, 0, 1]])
    table = curve.to_pandas(top=1)
    assert_allclose(table["share_top"], [2 / 3, 0, 1 / 3])
    assert_allclose(table["share_helps"], [2 / 3, 0, 1])
    assert_allclose(table["share_hurts"], [0, 1 / 3, 0])
    assert table[["rank_low", "rank_median", "rank_high"]].to_numpy().tolist() == [[1, 1, 2], [3, 3, 3], [1, 2, 2]]
    assert curve.first_head == (0, 0)
    assert "3 specifications, 1 missing" in repr(curve)


def test_one_head_under_every_specification_best_first_and_missing_last() -> None:
    table = by_hand().of_head(0, 2)
    assert table["rank"].tolist()[:3] == [1, 2, 2]
    assert np.isnan(table["rank"].iloc[3])
    assert table["seed"].tolist() == [2, 0, 1, 0]
    assert_allclose(table["mean_effect"].iloc[:3], [2, 1, 1])
    assert table["ablation"].iloc[3] == "mean"
    with pytest.raises(UsageError, match="no head 3 in layer 0"):
        by_hand().of_head(0, 3)


def test_the_figure_marks_every_choice_and_leaves_out_the_rank_of_what_is_missing() -> None:
    figure: Any = by_hand().plot((0, 0))
    curve, *choices = figure.data
    assert list(curve.y)[:3] == [1, 1, 2]
    assert np.isnan(curve.y[3])
    assert list(curve.marker.symbol) == ["circle", "circle", "circle-open", "circle-open"]
    # A row per metric, ablation, estimator and draw; every specification is marked once for each kind of choice.
    assert [list(row.x) for row in choices] == [[0, 1, 2, 3], [0, 1, 2], [3], [0, 1, 2, 3], [0, 3], [1], [2]]


def test_a_curve_of_one_and_of_other_shapes_is_refused() -> None:
    estimate = mean_with_ci(np.ones((1, 3, 4)))
    with pytest.raises(CapVizError, match="at least 2"):
        SpecificationCurve.of({NAMES[0]: estimate})
    with pytest.raises(CapVizError, match="different shapes"):
        SpecificationCurve.of({NAMES[0]: estimate, NAMES[1]: mean_with_ci(np.ones((2, 3, 4)))})
    with pytest.raises(UsageError, match="top 4 of 3"):
        by_hand().share_in_top(4)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: tmp_path / "shipped")
    return Store()


def test_what_is_stored_is_the_curve_and_the_rest_is_missing(
    store: Store, tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    exact = ScoreSpec(tiny_model.ref, calibration_set("tiny", 4, 0))
    gradient = ScoreSpec(tiny_model.ref, calibration_set("tiny", 4, 1), "gradient", metric="nll")
    # Direct effects and other questions are no specification of the same scores.
    others = [direct_spec(exact), ScoreSpec(tiny_model.ref, evaluation_set("tiny", 3))]
    runs = {spec: finish(run_steps(spec, tiny_model, store)) for spec in (exact, gradient, *others)}
    choices = stored_choices(store.runs(), tiny_model.ref, tiny_task)
    metrics = ("nll", "choice_nll", "logit_diff", "accuracy")
    assert choices == ScoringChoices(metrics, ("zero",), ((0, 4), (1, 4)), ("exact", "gradient"))
    curve = curve_of(store, tiny_model.ref, tiny_task, choices)
    assert curve.specifications == (
        *(Specification(metric, "zero", 0, 4, "exact") for metric in metrics),
        Specification("nll", "zero", 1, 4, "gradient"),
    )
    assert_allclose(curve.mean[1], load_scores(store, runs[exact]).mean_effect("choice_nll"), rtol=1e-4)
    assert_allclose(curve.mean[4], load_gradient(store, runs[gradient]).mean_effect("nll"), rtol=1e-4)
    # Exact scores of draw 1; gradients of three metrics for draw 0 and of two more for draw 1.
    missing = missing_runs(store, tiny_model.ref, tiny_task, choices)
    assert len(missing) == 1 + 3 + 2
    assert len(curve.missing) == 4 + 3 + 2
    assert (expected_seconds_of(store.runs(), missing) or 0) > 0
    assert repr(specification_curve(tiny_model, "tiny")) == repr(curve)


def test_a_question_is_scored_as_if_it_were_asked_in_the_other_words(
    store: Store, tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    own, other = (calibration_set("tiny", 4, prompt=prompt) for prompt in (None, PROMPT))
    runs = {
        examples: finish(run_steps(ScoreSpec(tiny_model.ref, examples), tiny_model, store)) for examples in (own, other)
    }
    by_hand = [replace(one, prompt=f"Q: {one.question}\nA:") for one in tiny_task.calibration(4)]
    assert reworded(tiny_task.calibration(4), PROMPT) == tuple(by_hand)
    expected = exact_scores(tiny_model, by_hand)
    found = load_scores(store, runs[other])
    assert_allclose(found.mean_effect("nll"), expected.mean_effect("nll"), atol=1e-5)
    assert not np.allclose(found.mean_effect("nll"), load_scores(store, runs[own]).mean_effect("nll"), atol=1e-3)
    # Pages and masks use the task's own prompt; the other one can be chosen by its name and is an axis of the curve.
    assert score_runs(store.runs(), tiny_model.ref, "tiny") == [store.get(runs[own].spec)]
    names = [source.name for source in stored_sources(store.runs(), tiny_model.ref, "tiny")]
    assert names == ["n4-seed0-zero", f"n4-seed0-zero-prompt-{runs[other].key[:6]}"]
    assert describe(runs[other].spec).endswith(', asked as "Q: {question}\\nA:"')
    choices = stored_choices(store.runs(), tiny_model.ref, tiny_task)
    assert choices.prompts == (None, PROMPT)
    curve = curve_of(store, tiny_model.ref, tiny_task, choices)
    assert [one.prompt for one in curve.specifications if one.metric == "nll"] == ["own", "Q: {question}\\nA:"]
    assert not curve.missing
    again = SpecificationCurve.from_tables(curve.to_tables())
    assert again.specifications == curve.specifications
    figure: Any = curve.plot((0, 0))
    assert list(figure.layout.yaxis2.ticktext)[-2:] == ["own prompt", "Q: {question}\\nA:"]


def test_parts_of_a_hybrid_run_ask_alike() -> None:
    model = ModelRef("m", "0" * 16)
    few, many = (ExampleSet("t", 1, tuple(map(str, range(n))), "calibration", 0) for n in (FEWEST_EXACT, 40))
    parts = hybrid_specs(ScoreSpec(model, few), "nll", many)
    assert can_combine(**parts)
    reworded_many = replace(parts["gradient"], examples=replace(many, prompt=PROMPT))
    assert not can_combine(parts["exact"], reworded_many)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("Answer:", "should hold {question} once"), ("{question} {question}", "should hold {question} once")],
)
def test_a_prompt_without_a_place_for_the_question_is_refused(prompt: str, reason: str, tiny_task: Task) -> None:
    with pytest.raises(UsageError, match=reason):
        calibration_set(tiny_task, 2, prompt=prompt)


def test_running_text_cannot_be_asked_in_other_words() -> None:
    with pytest.raises(UsageError, match="asks no question"):
        calibration_set("mini_text", 2, prompt=PROMPT)


def test_the_command_scores_another_prompt(tiny: list[str], shell: Shell) -> None:
    for prompt in ([], ["--prompt", r"Q: {question}\nA:"]):
        shell.json("score", *tiny, "--n", "4", *prompt)
    found = shell.json("specifications", *tiny, "--metrics", "nll")
    assert [one["prompt"] for one in found["specifications"]] == ["own", r"Q: {question}\nA:"]
    prompts = ["--prompt", "own", "--prompt", "{question}"]
    found = shell.json("specifications", *tiny, "--metrics", "nll", *prompts, "--compute")
    assert [one["prompt"] for one in found["specifications"]] == ["own", "{question}"]
    code, _, err = shell("score", *tiny, "--n", "4", "--prompt", "Answer:")
    assert code == 2
    assert "should hold {question} once" in " ".join(err.split())


def test_the_command_computes_what_is_missing(tiny: list[str], shell: Shell) -> None:
    grid = ["--seeds", "0,1", "--n", "4", "--ablations", "zero,mean", "--estimators", "exact", "--metrics", "nll"]
    code, _, err = shell("specifications", *tiny, *grid)
    assert code != 0
    assert "at least 2 ways" in " ".join(err.split())
    found = shell.json("specifications", *tiny, *grid, "--compute", "--head", "L1H2")
    assert len(found["specifications"]) == 4
    assert found["missing"] == []
    assert len(found["heads"]) == 12
    assert len(found["head"]) == 4
    code, out, _ = shell("specifications", *tiny, "--ablations", "zero,mean,resample", "--metrics", "nll")
    assert code == 0
    assert "2 specifications are missing (2 runs, about" in " ".join(out.split())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--head", "L1H2,L0H0"], "single head"),
        (["--head", "first"], "'first' is no head"),
        (["--seeds", "0,x"], "'x' is no seed"),
        (["--ablations", "half"], "half"),
        (["--estimators", "hybrid"], "hybrid"),
        (["--metrics", "bleu"], "bleu"),
        ([], "No scores of the heads of"),
    ],
)
def test_mistakes_of_the_command_are_sentences(options: list[str], reason: str, tiny: list[str], shell: Shell) -> None:
    code, out, err = shell("specifications", *tiny, *options)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())
