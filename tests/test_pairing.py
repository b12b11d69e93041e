"""Only the same items are paired: ids repeat from task to task, so task, version, answers and lengths must agree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cap_viz.attribution.hybrid import hybrid_scores
from cap_viz.attribution.results import EvalReport, questions_of
from cap_viz.dashboard.components.measured_column import Column, with_last
from cap_viz.dashboard.components.paired import compare_columns
from cap_viz.dashboard.prune.accuracy import CHOICES
from cap_viz.dashboard.prune.written import WRITTEN
from cap_viz.dashboard.runs.picked import paired_evaluations
from cap_viz.dashboard.stored import paired_in
from cap_viz.errors import UsageError
from cap_viz.evaluation.choice import EvalArrays, EvalBlock, evaluate, make_eval_plan
from cap_viz.evaluation.comparison import compare
from cap_viz.evaluation.eval_metrics import ACC, CHOICE_LOSS, TOKEN_LOSS, paired
from cap_viz.evaluation.flips import flips_of
from cap_viz.evaluation.generation import GenerationReport
from cap_viz.evaluation.perplexity import perplexity_plan, text_task
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_answers, load_report
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.protocols import generation_spec, perplexity_spec, solution_spec
from cap_viz.runs.spec import EvalSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import TASKS, Example, Task, load_task
from cap_viz.tasks.example_sets import evaluation_set
from studies.tables import factor, loss_difference
from tests.test_generation import WORD

OFFLINE = ("toy_math", "toy_strategy", "toy_choice", "mini_science", "mini_math", "mini_strategy")
N = 8


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture
def twins(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two tasks that differ in name and prompts only: ids, right answers and lengths are the same."""
    return registered(tiny_task, monkeypatch)


def registered(task: Task, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    for name in ("twin_a", "twin_b"):
        monkeypatch.setitem(TASKS, name, replace(task, name=name))
    return "twin_a", "twin_b"


def computed(spec: RunSpec, model: ReasoningModel, store: Store) -> StoredRun[Any]:
    return finish(run_steps(spec, model, store))


def report_of(examples: Sequence[Example]) -> EvalReport:
    """A report without a model: every option is as likely as any other."""
    questions = questions_of(examples, [[1] * len(example.options) for example in examples])
    return EvalReport(questions, np.where(questions.tokens > 0, -1.0, np.nan).astype(np.float32))


def names_both(error: pytest.ExceptionInfo[UsageError], *names: str) -> bool:
    return all(name in str(error.value) for name in names)


def refusal(first: EvalReport | GenerationReport, second: EvalReport | GenerationReport) -> str:
    """A pattern of the refusal to pair two results: it says what items either is about."""
    return rf"{re.escape(str(first.items))}.*{re.escape(str(second.items))}"


# Accuracies --------------------------------------------------------------------------------------------------------


def test_reports_of_two_toy_tasks_are_not_compared_though_their_ids_agree(
    tiny_model: ReasoningModel, store: Store
) -> None:
    """Guards against a McNemar p for toy_math against toy_strategy, in memory, stored and mixed."""
    names = ("toy_math", "toy_strategy")
    made = [evaluate(tiny_model, load_task(name).evaluation(N)) for name in names]
    runs = [computed(EvalSpec(tiny_model.ref, evaluation_set(name, N)), tiny_model, store) for name in names]
    read = [load_report(store, run) for run in runs]
    assert made[0].questions.ids == made[1].questions.ids
    for first, second in ((made[0], made[1]), (read[0], read[1]), (made[0], read[1]), (read[0], made[1])):
        with pytest.raises(UsageError) as refused:
            compare(first, second)
        assert names_both(refused, "toy_math version", "toy_strategy version")
        for measure in (ACC, CHOICE_LOSS):
            with pytest.raises(UsageError, match=refusal(first, second)):
                paired(first, second, measure)
    with pytest.raises(UsageError, match=refusal(*read)):
        paired_evaluations(store, *runs)
    for here, stored in zip(made, read, strict=True):
        assert here.items == stored.items
        assert compare(here, stored).difference == 0


def test_two_tasks_of_the_same_ids_answers_and_lengths_are_told_apart(
    tiny_model: ReasoningModel, store: Store, twins: tuple[str, str]
) -> None:
    runs = [computed(EvalSpec(tiny_model.ref, evaluation_set(name, N)), tiny_model, store) for name in twins]
    first, second = (load_report(store, run) for run in runs)
    assert first.questions.gold.tolist() == second.questions.gold.tolist()
    with pytest.raises(UsageError) as refused:
        compare(first, second)
    assert names_both(refused, "twin_a", "twin_b")


@pytest.mark.parametrize("second", OFFLINE)
@pytest.mark.parametrize("first", OFFLINE)
def test_only_evaluations_of_one_task_pair(first: str, second: str) -> None:
    a, b = (report_of(load_task(name).evaluation(N)) for name in (first, second))
    if first == second:
        assert compare(a, b).p_value == 1
    else:
        with pytest.raises(UsageError, match=refusal(a, b)):
            compare(a, b)


def changed(example: Example, what: str) -> Example:
    if what == "answer":
        return replace(example, gold=(example.gold + 1) % len(example.options))
    if what == "length":
        return replace(example, options=(f"{example.options[0]}s", *example.options[1:]))
    return replace(example, options=(*example.options, " none of these"))


@given(task=st.sampled_from(OFFLINE), row=st.integers(0, N - 1), what=st.sampled_from(("answer", "length", "options")))
def test_one_changed_item_is_enough_to_refuse(task: str, row: int, what: str) -> None:
    examples = load_task(task).evaluation(N)
    others = [changed(example, what) if i == row else example for i, example in enumerate(examples)]
    first, second = report_of(examples), report_of(others)
    assert str(N) in str(first.items)
    assert str(first.items) != str(second.items)
    with pytest.raises(UsageError, match=refusal(first, second)):
        compare(first, second)


def test_another_version_of_a_task_is_another_task() -> None:
    task = load_task("toy_math")
    newer = replace(task, version=task.version + 1)
    with pytest.raises(UsageError) as refused:
        compare(report_of(task.evaluation(N)), report_of(newer.evaluation(N)))
    assert names_both(refused, f"toy_math version {task.version}", f"toy_math version {newer.version}")


def test_examples_made_by_hand_pair_with_each_other_and_not_with_a_task() -> None:
    examples = load_task("toy_math").evaluation(N)
    by_hand = [Example(one.id, one.question, one.prompt, one.options, one.gold) for one in examples]
    assert compare(report_of(by_hand), report_of(by_hand)).p_value == 1
    with pytest.raises(UsageError, match=refusal(report_of(by_hand), report_of(examples))):
        compare(report_of(by_hand), report_of(examples))


def test_a_mixture_of_tasks_pairs_with_the_same_mixture() -> None:
    math, strategy = (load_task(name).evaluation(N) for name in ("toy_math", "toy_strategy"))
    mixed = report_of([*math[:3], *strategy[3:]])
    assert compare(mixed, report_of([*math[:3], *strategy[3:]])).p_value == 1
    assert all(name in str(mixed.items) for name in ("toy_math", "toy_strategy"))
    with pytest.raises(UsageError, match=refusal(mixed, report_of(math))):
        compare(mixed, report_of(math))


# What arrives -------------------------------------------------------------------------------------------------------


def test_what_has_arrived_pairs_with_what_is_stored(tiny_model: ReasoningModel, store: Store) -> None:
    """The Prune page: a job's partial report against the whole dense one, and not against another task's."""
    task = load_task("toy_math")
    plan = make_eval_plan(tiny_model, task.evaluation(N))
    arrays = EvalArrays(plan)
    members = plan.batches.batches[-1]
    arrays.add(EvalBlock(len(plan.batches.batches) - 1, np.zeros((len(members), 2), dtype=np.float32)))
    partial = arrays.report()
    whole = load_report(store, computed(EvalSpec(tiny_model.ref, evaluation_set("toy_math", N)), tiny_model, store))
    arriving = Column("cap", None, None, partial, partial=True)
    found = compare_columns(CHOICES, arriving, Column("dense", None, None, whole)).main
    assert found is not None
    assert found.n == len(members)
    other = Column("dense", None, None, report_of(load_task("toy_strategy").evaluation(N)))
    assert re.search(r"toy_math\b.*toy_strategy\b", compare_columns(CHOICES, arriving, other).reason)


def test_the_prune_page_gives_no_difference_and_no_flips_between_tasks(tiny_model: ReasoningModel) -> None:
    columns = []
    for name, task in (("cap", "toy_math"), ("dense", "toy_strategy")):
        spec = EvalSpec(tiny_model.ref, evaluation_set(task, N))
        columns.append(Column(name, spec, spec, report_of(load_task(task).evaluation(N))))
    found = compare_columns(CHOICES, *columns)
    assert not found.results
    assert "toy_math" in found.reason
    assert "toy_strategy" in found.reason
    with pytest.raises(UsageError, match=r"toy_math\b.*toy_strategy\b"):
        flips_of({one.name: one.report for one in columns})


def test_a_result_of_another_version_is_not_shown_as_stale(tiny_model: ReasoningModel, store: Store) -> None:
    wanted = EvalSpec(tiny_model.ref, evaluation_set("toy_math", N))
    run = computed(wanted, tiny_model, store)
    older = replace(wanted, examples=replace(wanted.examples, version=0))
    store.save(older, {"options": store.table(run, "options")}, run.provenance)
    fewer = replace(wanted, examples=evaluation_set("toy_math", N - 1))
    assert with_last(CHOICES, store, Column("dense", fewer), wanted).report is not None
    assert with_last(CHOICES, store, Column("dense", fewer), older).report is None


# Written answers, texts ---------------------------------------------------------------------------------------------


def test_written_answers_of_two_tasks_are_not_compared(
    tiny_task: Task, tiny_model: ReasoningModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = registered(replace(tiny_task, writing=WORD), monkeypatch)
    runs = [written(store, generation_spec(tiny_model.ref, evaluation_set(name, N))) for name in names]
    reports = [load_answers(store, run) for run in runs]
    with pytest.raises(UsageError) as refused:
        paired_evaluations(store, *runs)
    assert names_both(refused, *names)
    columns = [Column(name, None, None, report) for name, report in zip(names, reports, strict=True)]
    refused = compare_columns(WRITTEN, *columns)
    assert not refused.results
    assert re.search(refusal(*reports), refused.reason)
    found = compare_columns(WRITTEN, columns[0], columns[0]).main
    assert found is not None
    assert found.n == N


def written(store: Store, spec: EvalSpec) -> StoredRun[Any]:
    zeros = np.zeros(N, dtype=int)
    said = ("sun",) * N
    report = GenerationReport(spec.examples.ids, said, said, said, said, zeros, zeros, zeros)
    shape = {"n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "d_model": 32, "d_head": 8, "d_mlp": 48, "n_ctx": 128}
    return store.save(spec, report.to_tables(), {"seconds": 1.0, "shape": {**shape, "n_params": 40_000}})


def test_answers_made_here_and_read_back_are_about_the_same_items(
    tiny_task: Task, tiny_model: ReasoningModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = tiny_task.splits
    solved = replace(
        splits,
        calibration=tuple(replace(example, solution=" the sun .") for example in splits.calibration),
        evaluation=tuple(replace(example, solution=" the sun .") for example in splits.evaluation),
    )
    task = replace(tiny_task, writing=WORD, load=lambda: solved)
    monkeypatch.setitem(TASKS, "tiny", task)
    arrived: list[GenerationReport] = []
    steps = run_steps(generation_spec(tiny_model.ref, evaluation_set("tiny", 3), max_tokens=4), tiny_model, store)
    while True:
        try:
            arrived.append(next(steps).partial)
        except StopIteration as end:
            run = end.value
            break
    whole = [report for report in arrived if len(report) == 3]
    assert whole[-1].items == load_answers(store, run).items


def test_losses_of_two_texts_are_not_compared(
    tiny_task: Task, tiny_model: ReasoningModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worked solutions: the study's tables, Compare's table and the overlay on Runs."""
    names = registered(replace(tiny_task, kind="text"), monkeypatch)
    runs = [computed(solution_spec(tiny_model.ref, evaluation_set(name, N)), tiny_model, store) for name in names]
    first, second = (load_report(store, run) for run in runs)
    refusing = (
        lambda: loss_difference("dense", first, second),
        lambda: paired_in(store, runs[0], runs[1], TOKEN_LOSS),
        lambda: paired_evaluations(store, *runs),
    )
    for call in refusing:
        with pytest.raises(UsageError) as refused:
            call()
        assert names_both(refused, *names)
    assert loss_difference("dense", first, first)["minus_dense"] == 0


def test_windows_of_two_texts_or_lengths_are_not_compared(
    tiny_task: Task, tiny_model: ReasoningModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows have the same ids whatever the text: window-0, window-1, …"""
    names = registered(replace(tiny_task, kind="text", running_text=lambda: "sun moon water " * 40), monkeypatch)
    specs = [perplexity_spec(tiny_model.ref, name, n_windows=3, length=16) for name in names]
    specs.append(perplexity_spec(tiny_model.ref, names[0], n_windows=3, length=20))
    runs = [computed(spec, tiny_model, store) for spec in specs]
    reports = [load_report(store, run) for run in runs]
    assert len({report.questions.ids for report in reports}) == 1
    for other in (1, 2):
        with pytest.raises(UsageError, match=refusal(reports[0], reports[other])):
            factor("dense", reports[0], reports[other])
        with pytest.raises(UsageError, match=refusal(reports[0], reports[other])):
            paired_evaluations(store, runs[0], runs[other])
    assert factor("dense", reports[0], reports[0])["against_dense"] == 1
    planned = perplexity_plan(tiny_model, text_task(names[0]), specs[0].examples.ids, 16)
    assert EvalArrays(planned).questions.items == reports[0].items


# Estimators ---------------------------------------------------------------------------------------------------------


def test_exact_and_gradient_effects_of_two_tasks_are_not_combined(
    tiny_model: ReasoningModel, store: Store, monkeypatch: pytest.MonkeyPatch, tiny_task: Task
) -> None:
    names = registered(tiny_task, monkeypatch)
    exact, gradient = [], []
    for name in names:
        few = ScoreSpec(tiny_model.ref, evaluation_set(name, 16))
        many = ScoreSpec(tiny_model.ref, evaluation_set(name, 20), estimator="gradient", metric="nll")
        exact.append(load_scores(store, computed(few, tiny_model, store)))
        gradient.append(load_gradient(store, computed(many, tiny_model, store)))
    with pytest.raises(UsageError) as refused:
        hybrid_scores(exact[0], gradient[1])
    assert names_both(refused, *names)
    assert np.isfinite(hybrid_scores(exact[0], gradient[0]).mean_effect("nll")).all()
