"""One rule for differences, and the fixed question: its family, its runs, and the same numbers everywhere."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from cap_viz.attribution.results import EvalReport, Questions
from cap_viz.errors import UsageError
from cap_viz.evaluation.eval_metrics import ACC, CHOICE_LOSS, PERPLEXITY
from cap_viz.evaluation.verdict import NO_DIFFERENCE, difference_words, grade_of, hint_reason, outcome_words
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.comparison import CONTROL
from cap_viz.runs.fixed_question import (
    AT_CHANCE,
    ON_NOTHING,
    ON_TASK,
    ON_TEXT,
    RIVAL,
    Verdict,
    answers,
    fixed_question,
    missing_text,
    question_runs,
    role_of,
)
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import PROJECT
from cap_viz.stats import Interval, PairedComparison, compare_paired
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet
from studies.study import setting_of
from studies.tables import TABLES, Study

MODEL = ModelRef(id="m", fingerprint="f")


def result(difference: float, low: float, high: float, p: float) -> PairedComparison:
    made = compare_paired(np.array([True, False]), np.array([True, True]))
    return replace(made, difference=difference, ci=Interval(low, high), p_value=p)


# The rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "p", "adjusted", "grade"),
    [
        (0.01, 0.05, 0.001, 0.004, "clear"),
        (-0.05, -0.01, 0.001, None, "clear"),
        (0.003, 0.039, 0.026, 0.051, "hint"),
        (0.002, 0.035, 0.0625, None, "hint"),
        (-0.001, 0.041, 0.01, 0.02, "hint"),
        (-0.001, 0.041, 0.04, 0.12, "none"),
        (-0.02, 0.03, 0.6, None, "none"),
    ],
)
def test_interval_and_words_never_disagree(
    low: float, high: float, p: float, adjusted: float | None, grade: str
) -> None:
    """Pages printed “within noise of Wanda (−6.1 to −0.2)”: a word by the test beside an interval that says no."""
    found = result((low + high) / 2, low, high, p)
    assert grade_of(found, adjusted) == grade
    said = outcome_words(found, ACC, "CAP", "Wanda", p=adjusted)
    assert (said == NO_DIFFERENCE) == (grade == "none")
    assert said.startswith("hint") == bool(hint_reason(found, adjusted)) == (grade == "hint")
    if grade != "none":
        assert ("CAP" in said) == (low + high > 0)
        assert ("CAP" in outcome_words(found, CHOICE_LOSS, "CAP", "Wanda", p=adjusted)) == (low + high < 0)


def test_differences_are_written_in_the_unit_of_the_measure() -> None:
    found = result(0.0211, 0.003, -0.039, 0.02)
    assert difference_words(found, ACC) == "+2.1 points [+0.3, −3.9]"
    assert difference_words(found, CHOICE_LOSS) == "+0.021 nats [+0.003, −0.039]"
    assert difference_words(result(0.0, np.log(0.5), np.log(2.0), 1.0), PERPLEXITY) == "× 1.000 [0.500, 2.000]"
    # A tiny difference that is clear is not written as zero.
    assert difference_words(result(-2e-5, -3e-5, -1e-5, 0.01), CHOICE_LOSS).startswith("−0.000020")


# The family -------------------------------------------------------------------------------------------------------


def answered_by(right: int, n: int = 40) -> EvalReport:
    """Two options each, the first `right` questions answered correctly."""
    questions = Questions(
        ids=tuple(f"q{i}" for i in range(n)),
        gold=np.zeros(n, dtype=np.int64),
        tokens=np.ones((n, 2), dtype=np.int64),
        chars=np.ones((n, 2), dtype=np.int64),
    )
    values = np.where(np.arange(n) < right, 1.0, -1.0)
    return EvalReport(questions, np.stack([values, np.zeros(n)], axis=1).astype(np.float32))


def test_three_sparsities_are_the_family_measured_or_not() -> None:
    # 7 flips to 0: exact p 2/2^7 = .015625; 5 to 0: .0625. The third sparsity counts as a test that did not reject.
    two = {0.1: (answered_by(27), {ON_TASK: answered_by(20)}), 0.5: (answered_by(25), {ON_TASK: answered_by(20)})}
    first, second = answers(ACC, two)
    assert (first.p, second.p) == (pytest.approx(3 * 0.015625), pytest.approx(2 * 0.0625))
    (alone,) = answers(ACC, {0.1: two[0.1]})
    assert alone.p == first.p, "measuring another sparsity does not move this one"


def test_the_better_opponent_is_the_better_by_the_measure() -> None:
    found = {0.5: (answered_by(30), {ON_TASK: answered_by(20), ON_TEXT: answered_by(22)})}
    (answer,) = answers(ACC, found)
    assert (answer.chosen, answer.opponents) == (ON_TEXT, (ON_TASK, ON_TEXT))
    assert answer.result.difference == pytest.approx(8 / 40)
    (loss,) = answers(CHOICE_LOSS, found)
    assert loss.result.difference < 0
    assert loss.outcome("Wanda") == "CAP ahead"


def test_between_two_guesses_nobody_is_ahead() -> None:
    # These have two options each: guessing is right on half of them.
    task = load_task("mini_science")
    (answer,) = answers(ACC, {0.5: (answered_by(20), {ON_TASK: answered_by(8)})}, task)
    assert answer.result.is_clear
    assert (answer.grade, answer.outcome("Wanda")) == ("none", AT_CHANCE)
    (clear,) = answers(ACC, {0.5: (answered_by(38), {ON_TASK: answered_by(8)})}, task)
    assert clear.outcome("Wanda") == "CAP ahead"


# The runs ---------------------------------------------------------------------------------------------------------

DRAWN = ExampleSet(task="t", version=1, ids=tuple(f"c{i}" for i in range(48)), split="calibration", seed=0)
TEXT = replace(DRAWN, task="generic_text")
CAP = MaskSpec("cap", 0.5, scores=ScoreSpec(MODEL, DRAWN), metric="nll", kv_combine="mean")
WANDA = MaskSpec("wanda", 0.5, calibration=DRAWN)


@pytest.mark.parametrize(
    ("mask", "role"),
    [
        (CAP, ("cap", ON_TASK)),
        (WANDA, ("wanda", ON_TASK)),
        (replace(WANDA, calibration=TEXT), ("wanda", ON_TEXT)),
        (MaskSpec("global_magnitude", 0.5), ("global_magnitude", ON_NOTHING)),
        (replace(WANDA, calibration=replace(DRAWN, seed=1)), None),
        (replace(WANDA, calibration=replace(DRAWN, ids=DRAWN.ids[:16])), None),
        (replace(WANDA, calibration=replace(DRAWN, task="other")), None),
        (replace(WANDA, scope="mlp"), None),
        (replace(CAP, metric="choice_nll"), None),
        (replace(CAP, allocation="owl"), None),
        (replace(CAP, scores=ScoreSpec(MODEL, DRAWN, ablation="mean")), None),
        (replace(CAP, scores=ScoreSpec(MODEL, DRAWN, estimator="gradient", metric="nll")), None),
        (replace(CAP, scores=ScoreSpec(MODEL, TEXT)), None),
    ],
)
def test_only_usual_masks_answer_the_question(mask: MaskSpec, role: tuple[str, str] | None) -> None:
    assert role_of(mask, MODEL, "t") == role


@cache
def shipped() -> tuple[Store, tuple[StoredRun, ...]]:
    store = Store()
    return store, tuple(store.runs())


@cache
def shipped_verdict(model: str, task: str, against: str = RIVAL) -> Verdict:
    store, runs = shipped()
    ref = next(run.spec.model for run in runs if run.spec.model.id == model)
    found = fixed_question(store, runs, ref, load_task(task), against)
    assert found is not None
    return found


def numbers_of(verdict: Verdict) -> dict[tuple[str, float], tuple[float, float]]:
    return {
        (one.measure.name, one.sparsity): (one.result.difference, one.p) for one in (*verdict.accuracy, *verdict.loss)
    }


@pytest.mark.usefixtures("all_shipped")
@pytest.mark.parametrize(("against", "table"), [(RIVAL, "ordering"), (CONTROL, "causality")])
def test_pages_and_study_have_the_same_numbers(against: str, table: str) -> None:
    # The toy reasoner's tasks are everywhere; SmolLM2's are compared by the README's table below.
    store, runs = shipped()
    ref = next(run.spec.model for run in runs if run.spec.model.id == TOY_MODEL)
    study = Study(store, ref, setting_of(ref))
    for name, measure in ((table, ACC), (f"{table}_loss", CHOICE_LOSS)):
        rows = TABLES[name](study).set_index(["task", "sparsity"])
        for task in study.asked.main:
            found = shipped_verdict(TOY_MODEL, task, against)
            for sparsity in (0.1, 0.2, 0.5):
                row = rows.loc[(task, sparsity)]
                assert numbers_of(found)[measure.name, sparsity] == (row["difference"], row["p_holm"])
                assert row["n"] == found.n


@pytest.mark.usefixtures("all_shipped")
def test_the_readme_has_the_same_p() -> None:
    """README said “CAP is ahead” where the page called the same difference unclear, with another p."""
    text = (PROJECT / "README.md").read_text("utf-8")
    rows = [row for row in text.splitlines() if re.match(r"\| (arc_easy|mini_science)?[^|]*\| \d\d % \|", row)]
    assert len(rows) == 6
    task = ""
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        task = cells[0].partition(",")[0] or task
        found = numbers_of(shipped_verdict(DEFAULT_MODEL, task))
        for measure, cell in zip((ACC, CHOICE_LOSS), cells[5:7], strict=True):
            difference, p = found[measure.name, int(cells[1].removesuffix(" %")) / 100]
            digits = 1 if measure.is_share else 3
            assert cell.startswith(f"{measure.scale * difference:+.{digits}f}".replace("-", "−"))
            (said,) = re.findall(r"p ([<=]) (\.\d+)$", cell)
            assert p < float(said[1]) if said[0] == "<" else p == pytest.approx(float(said[1]), abs=0.006)


@pytest.mark.usefixtures("all_shipped")
def test_nothing_else_that_is_stored_moves_a_p() -> None:
    """Unticking a criterion turned “not clear” into “better”, and another size gave a third answer."""
    store, runs = shipped()
    task = load_task("mini_science")
    whole = shipped_verdict(DEFAULT_MODEL, "mini_science")
    assert whole.n == 628
    few = [
        run for run in runs_of(runs, EvalSpec) if run.spec.mask is None or run.spec.mask.criterion in ("cap", "wanda")
    ]
    alone = fixed_question(store, few, whole.model, task)
    assert alone is not None
    assert numbers_of(alone) == numbers_of(whole)
    # Without the largest set the next one that is complete answers.
    fewer = [run for run in runs if len(run.spec.examples.ids) != 628]
    smaller = fixed_question(store, fewer, whole.model, task)
    assert smaller is not None
    assert smaller.n == 600
    assert {one.opponents for one in smaller.accuracy} == {(ON_TASK,)}


@pytest.mark.usefixtures("all_shipped")
def test_running_text_is_paired_by_window() -> None:
    store, runs = shipped()
    found = shipped_verdict(DEFAULT_MODEL, "arc_easy").text
    assert found is not None
    assert (found.task, found.windows, found.length) == ("generic_text", 16, 1024)
    (half,) = [one for one in found.answers if one.sparsity == 0.5]
    of = question_runs(runs, next(r.spec.model for r in runs if r.spec.model.id == DEFAULT_MODEL), "arc_easy")
    assert of is not None
    (pair,) = [one for one in of.read if one.sparsity == 0.5]
    cap, wanda = (load_report(store, run).losses("nll") for run in (pair.subject, pair.opponents[0][1]))
    assert half.result.difference == pytest.approx(float((cap - wanda).mean()))
    # Masks of mini_science are not measured on text, and other tasks' masks do not stand in for them.
    assert shipped_verdict(DEFAULT_MODEL, "mini_science").text is None


@pytest.mark.usefixtures("all_shipped")
def test_the_best_is_named_only_where_it_is_clearly_ahead() -> None:
    best = shipped_verdict(DEFAULT_MODEL, "mini_science").best
    assert best is not None
    assert (best.criteria, best.sparsity) == (("cap_fine",), 0.5)
    assert best.p > best.result.p_value, "chosen from many, so adjusted over them"
    for task in ("strategyqa", "arc_challenge"):
        guessed = shipped_verdict(DEFAULT_MODEL, task)
        assert not guessed.dense.clearly_above
        assert guessed.best is None
        assert {one.outcome("Wanda") for one in guessed.accuracy} == {AT_CHANCE}


@pytest.mark.usefixtures("all_shipped")
def test_nothing_is_said_where_the_runs_are_not_there() -> None:
    store, runs = shipped()
    ref = next(run.spec.model for run in runs if run.spec.model.id == DEFAULT_MODEL)
    assert fixed_question(store, runs, ref, load_task("mini_math")) is None


def test_running_text_is_offered_only_where_it_can_be_measured(tiny_model: ReasoningModel) -> None:
    store = Store()
    with pytest.raises(UsageError, match="exact head scores on 48"):
        missing_text(store, tiny_model.ref, load_task("mini_science"))
    with pytest.raises(UsageError, match="not on this machine"):
        missing_text(store, tiny_model.ref, load_task("arc_easy"))
    toy = ModelRef(id=TOY_MODEL, fingerprint="f")
    with pytest.raises(UsageError, match="no running text that this model can read"):
        missing_text(store, toy, load_task("toy_math"))


@pytest.mark.usefixtures("all_shipped")
def test_what_running_text_lacks_is_planned() -> None:
    store, runs = shipped()
    ref = next(run.spec.model for run in runs if run.spec.model.id == DEFAULT_MODEL)
    wanted = missing_text(store, ref, load_task("mini_science"))
    masks = [spec.mask for spec in wanted]
    assert [(mask.criterion, mask.sparsity) for mask in masks if mask is not None] == [
        (criterion, sparsity) for sparsity in (0.1, 0.2, 0.5) for criterion in ("cap", "wanda")
    ]
    assert {role_of(mask, ref, "mini_science") for mask in masks if mask is not None} == {
        ("cap", ON_TASK),
        ("wanda", ON_TASK),
    }
