"""Measures, contrasts, groups and the paper's points, with numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cap_viz.attribution.results import EvalReport, Questions
from cap_viz.errors import UsageError
from cap_viz.evaluation.contrasts import contrasts
from cap_viz.evaluation.eval_metrics import (
    ACC,
    ACC_NORM,
    CHOICE_LOSS,
    guessing,
    level_of,
    measure_named,
    paired,
    paired_p,
    per_question,
)
from cap_viz.figures.reported import ACCURACY, reported_accuracy
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning.mask import Scope
from cap_viz.runs.comparison import DENSE, comparison_rows, control_pairs, reference_pairs
from cap_viz.runs.mask_provenance import groups_of, provenance_of
from cap_viz.runs.spec import EvalSpec, MaskSpec, ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import wilson
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet
from tests.tiny import listed_run

MODEL = ModelRef(id="m", fingerprint="f")
ITEMS = ExampleSet(task="t", version=1, ids=("a", "b"), split="evaluation")
DRAWN = ExampleSet(task="t", version=1, ids=("c", "d"), split="calibration", seed=0)
OTHER = replace(DRAWN, ids=("c", "e"), seed=1)


def report(gold_logliks: list[float], other: float = 0.0, chars: tuple[int, int] = (1, 1)) -> EvalReport:
    """Two options each: the right one first, with the given log-likelihood, and one with `other`."""
    n = len(gold_logliks)
    questions = Questions(
        ids=tuple(f"q{i}" for i in range(n)),
        gold=np.zeros(n, dtype=np.int64),
        tokens=np.ones((n, 2), dtype=np.int64),
        chars=np.tile(np.array(chars, dtype=np.int64), (n, 1)),
    )
    return EvalReport(questions, np.array([[value, other] for value in gold_logliks], dtype=np.float32))


def answers(right: int, n: int) -> EvalReport:
    return report([1.0] * right + [-1.0] * (n - right))


def run(mask: MaskSpec | None, created: str = "2026-01-01T00:00:00Z", items: ExampleSet = ITEMS) -> StoredRun:
    spec = EvalSpec(model=MODEL, examples=items, mask=mask)
    return listed_run(spec, key=f"{hash((spec, created)):x}", created=created)


def cap(sparsity: float = 0.5, metric: str = "nll") -> MaskSpec:
    scores = ScoreSpec(model=MODEL, examples=DRAWN)
    return MaskSpec("cap", sparsity, scores=scores, metric=metric, kv_combine="mean")


def wanda(sparsity: float = 0.5, examples: ExampleSet = DRAWN) -> MaskSpec:
    return MaskSpec("wanda", sparsity, calibration=examples)


def magnitude(sparsity: float = 0.5, scope: Scope = "both") -> MaskSpec:
    return MaskSpec("global_magnitude", sparsity, scope=scope)


# Measures ---------------------------------------------------------------------------------------------------------


def test_accuracy_is_a_share_with_wilson_s_interval() -> None:
    level = level_of(answers(3, 4), ACC)
    assert (level.value, level.ci) == (0.75, wilson(3, 4))


def test_normalised_accuracy_divides_by_characters() -> None:
    # −3 / 3 characters beats −2 / 1 character, though −2 > −3.
    shown = report([-3.0], other=-2.0, chars=(3, 1))
    assert (level_of(shown, ACC).value, level_of(shown, ACC_NORM).value) == (0.0, 1.0)


def test_choice_loss_is_the_mean_log_softmax() -> None:
    # Equal options: ln 2 each; a gold option 1 nat behind: ln(1 + e).
    level = level_of(report([0.0, 0.0, -1.0, -1.0]), CHOICE_LOSS)
    assert level.value == pytest.approx((np.log(2) + np.log(1 + np.e)) / 2)
    assert np.log(2) <= level.ci.low < level.value < level.ci.high <= np.log(1 + np.e)


def test_guessing_spreads_evenly_over_the_options() -> None:
    shown = answers(1, 4)
    assert guessing(load_task("mini_science"), shown, ACC) == 0.5
    assert guessing(load_task("mini_science"), shown, CHOICE_LOSS) == pytest.approx(np.log(2))


def test_pairs_are_right_and_wrong_for_shares_and_means_for_losses() -> None:
    first, second = report([1.0, 1.0, -1.0]), report([1.0, -1.0, -1.0])
    shares, losses = paired(first, second, ACC), paired(first, second, CHOICE_LOSS)
    assert (shares.only_a, shares.only_b, shares.difference) == (1, 0, pytest.approx(1 / 3))
    assert (losses.only_a, losses.only_b) == (None, None)
    # The one question that differs: ln(1 + 1/e) − ln(1 + e) = −1, over three questions.
    assert losses.difference == pytest.approx(-1 / 3)


def test_other_items_and_unknown_measures_are_refused() -> None:
    with pytest.raises(UsageError, match="different items"):
        paired(answers(1, 2), answers(1, 3), ACC)
    with pytest.raises(UsageError, match="different items"):
        paired_p(answers(1, 2), answers(1, 3), ACC)
    with pytest.raises(UsageError, match="Unknown measure 'f1'"):
        measure_named("f1")


# Tables -----------------------------------------------------------------------------------------------------------


def test_the_pairs_of_a_table() -> None:
    cells = [DENSE, ("cap", 0.2), ("wanda", 0.2), ("global_magnitude", 0.2), ("cap", 0.5)]
    assert reference_pairs(cells, "wanda") == [
        (("cap", 0.2), ("wanda", 0.2)),
        (("global_magnitude", 0.2), ("wanda", 0.2)),
    ]
    assert [first for first, second in reference_pairs(cells, "dense") if second == DENSE] == cells[1:]
    assert control_pairs(cells, "wanda") == [(("cap", 0.2), ("global_magnitude", 0.2))]
    assert control_pairs(cells, "global_magnitude") == []
    cells.append(("shuffled_cap", 0.2))
    assert [second for _, (second, _) in control_pairs(cells, "wanda")] == ["global_magnitude", "shuffled_cap"]
    assert control_pairs(cells, "global_magnitude") == [(("cap", 0.2), ("shuffled_cap", 0.2))]
    assert control_pairs(cells, "cap") == []
    # Whole heads count heads, and are compared with no criterion that counts weights.
    cells.append(("head", 0.2))
    assert ("head", 0.2) not in [first for first, _ in reference_pairs(cells, "wanda")]
    assert reference_pairs(cells, "head") == []
    assert (("head", 0.2), DENSE) in reference_pairs(cells, "dense")


def test_p_values_of_contrasts_computed_together_are_adjusted() -> None:
    # Exact McNemar: 7 flips to 0 gives 2/2^7 = .015625, 5 to 0 gives .0625. Holm: times 2, and times 1 but not below.
    reports = {DENSE: answers(8, 8), ("wanda", 0.1): answers(1, 8), ("wanda", 0.2): answers(3, 8)}
    reports |= {("cap", 0.1): answers(8, 8), ("cap", 0.2): answers(8, 8)}
    pairs = reference_pairs(reports, "wanda")
    found = contrasts(pairs, lambda first, second: paired(reports[first], reports[second], ACC))
    assert [one.result.p_value for one in found] == pytest.approx([0.015625, 0.0625])
    assert [one.p_holm for one in found] == pytest.approx([0.03125, 0.0625])
    # The rows of a table are comparisons by themselves.
    rows = comparison_rows(load_task("mini_science"), reports, "wanda")
    alone = [row["against"]["p"] for row in rows if row["against"] is not None]
    assert alone == pytest.approx([0.015625, 0.0625])


def test_rows_carry_the_paired_difference() -> None:
    reports = {DENSE: answers(4, 8), ("cap", 0.5): answers(8, 8), ("wanda", 0.5): answers(1, 8)}
    rows = {row["criterion"]: row for row in comparison_rows(load_task("mini_science"), reports, "wanda")}
    assert rows["wanda"]["against"] is None
    assert rows["dense"]["against"] is None
    assert rows["cap"]["against"]["difference"] == pytest.approx(7 / 8)
    assert rows["cap"]["against"]["p"] == pytest.approx(2 / 2**7)


def test_rows_are_about_the_measure_asked_for() -> None:
    reports = {DENSE: answers(4, 8), ("cap", 0.5): answers(8, 8), ("wanda", 0.5): answers(1, 8)}
    task = load_task("mini_science")
    for measure in (ACC, CHOICE_LOSS):
        rows = {row["criterion"]: row for row in comparison_rows(task, reports, "wanda", measure)}
        values = {name: per_question(reports[name, 0.5], measure).mean() for name in ("cap", "wanda")}
        assert rows["cap"]["value"] == pytest.approx(values["cap"])
        assert rows["cap"]["against"]["difference"] == pytest.approx(values["cap"] - values["wanda"])
        assert rows["cap"]["acc"] == 1


# Groups -----------------------------------------------------------------------------------------------------------


def test_criteria_built_on_the_same_examples_belong_together() -> None:
    runs = [run(cap()), run(wanda()), run(magnitude()), run(None)]
    (group,) = groups_of(runs, run(None))
    assert set(group.runs) == {("cap", 0.5), ("wanda", 0.5), ("global_magnitude", 0.5)}
    assert group.name == "t-n2-seed0"
    assert group.basis.examples == DRAWN


def test_other_examples_metrics_and_scopes_are_other_groups() -> None:
    runs = [
        run(cap()),
        run(cap(metric="choice_nll")),
        run(wanda()),
        run(wanda(examples=OTHER)),
        run(magnitude()),
        run(magnitude(scope="mlp")),
    ]
    groups = {group.name: set(group.runs) for group in groups_of(runs, run(None))}
    shared = {("wanda", 0.5), ("global_magnitude", 0.5)}
    assert groups == {
        "t-n2-seed0": {("cap", 0.5), *shared},
        "t-n2-seed0-metric-choice_nll": {("cap", 0.5), *shared},
        "t-n2-seed1": shared,
        "no-calibration-scope-mlp": {("global_magnitude", 0.5)},
    }


def test_the_fullest_group_comes_first_then_the_newest() -> None:
    new, old = run(wanda(examples=OTHER), "2026-02-01T00:00:00Z"), run(wanda())
    assert [group.name for group in groups_of([new, old], run(None))] == ["t-n2-seed1", "t-n2-seed0"]
    more = [new, old, run(wanda(0.2))]
    assert [group.name for group in groups_of(more, run(None))] == ["t-n2-seed0", "t-n2-seed1"]


def test_of_two_runs_of_a_cell_the_newest_counts() -> None:
    new, old = run(wanda(), "2026-02-01T00:00:00Z"), run(wanda())
    (group,) = groups_of([new, old], run(None))
    assert group.runs["wanda", 0.5] is new


def test_other_items_or_weights_are_not_compared() -> None:
    elsewhere = run(wanda(), items=replace(ITEMS, ids=("a",)))
    assert groups_of([elsewhere], run(None)) == ()


def test_groups_with_the_same_description_get_different_names() -> None:
    again = replace(DRAWN, ids=("c", "x"))
    names = [group.name for group in groups_of([run(wanda()), run(wanda(examples=again))], run(None))]
    assert len(set(names)) == 2
    assert all(name.startswith("t-n2-seed0-") for name in names)


def test_activations_on_other_examples_than_the_scores_are_part_of_the_basis() -> None:
    basis = provenance_of(replace(cap(), calibration=OTHER))
    assert basis.examples == DRAWN
    assert basis.get("activations") == OTHER


# The paper --------------------------------------------------------------------------------------------------------


def test_the_paper_s_points() -> None:
    assert len(ACCURACY) == 18
    found = {(point.criterion, point.sparsity): point.value for point in reported_accuracy("arc_challenge")}
    assert found["cap", 0.5] == pytest.approx(0.301)
    assert found["wanda", 0.2] == pytest.approx(0.439)
    assert reported_accuracy("mini_science") == ()
