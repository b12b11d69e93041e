"""The Prune page: what it knows from stored runs, its figures, and the page itself on a tiny model's real runs."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.results import EvalReport, Questions
from cap_viz.dashboard.components.job_card import together_sentence
from cap_viz.dashboard.components.measured_column import Column, column_of
from cap_viz.dashboard.components.paired import (
    ColumnDifference,
    compare_columns,
    difference_table,
    differences,
    p_cell,
    verdict_lines,
)
from cap_viz.dashboard.prune.accuracy import CHOICES, accuracy_row, flip_table, option_table
from cap_viz.dashboard.prune.export import items_csv
from cap_viz.dashboard.prune.setting import (
    PruneSetting,
    counting_spec,
    eval_spec,
    mask_spec,
    measured_percents,
)
from cap_viz.dashboard.prune.written import WRITTEN, answers_table
from cap_viz.dashboard.serving import check_job
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.eval_metrics import ACC, CHOICE_LOSS
from cap_viz.evaluation.flips import flips_by_filter, flips_of
from cap_viz.figures.prune import (
    LayerShares,
    accuracy_whiskers,
    importance_histogram,
    zeros_by_head,
    zeros_by_layer,
    zeros_by_matrix,
)
from cap_viz.figures.text_difference import text_html, word_difference
from cap_viz.figures.theme import criterion_colour, criterion_glyph, criterion_symbol
from cap_viz.models.catalogue import ModelRef, resolve
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.progress import Progress, finish
from cap_viz.pruning import CRITERIA, criterion_named
from cap_viz.pruning.criterion import MaskRequest
from cap_viz.pruning.mask import SCOPES, Scope
from cap_viz.pruning.options import MaskOptions
from cap_viz.runs.execute import run_steps
from cap_viz.runs.exports import export_folder
from cap_viz.runs.jobs import ExportedModel, Job
from cap_viz.runs.kinds.evaluation import load_answers, load_report
from cap_viz.runs.kinds.profile import load_zeros
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.prefix_reuse import expected_seconds
from cap_viz.runs.protocols import generation_spec
from cap_viz.runs.queue import JobQueue, shared_queue
from cap_viz.runs.run_labels import change_words
from cap_viz.runs.run_queries import missing_tasks
from cap_viz.runs.spec import EvalSpec, ProfileSpec, ScoreSpec, spec_key
from cap_viz.runs.store import Store, StoredRun
from cap_viz.runs.zero_counts import head_zeros_of, matrix_sizes, shape_from, zeros_by_rule, zeros_of
from cap_viz.settings import PROJECT
from cap_viz.stats import Interval, compare_means, compare_paired, widest_outlier, wilson
from cap_viz.tasks import TASKS, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, evaluation_set
from tests.tiny import listed_run, tiny_examples, write_tiny_model
from tests.words import numbers, saying

TASK, N_ITEMS, N_CALIBRATION = "mini_science", 100, 4


@dataclass(frozen=True)
class World:
    """A tiny model with real runs: head scores, accuracies at 20 %, and CAP's profile."""

    model: ReasoningModel
    cache: Path
    shipped: Path
    setting: PruneSetting

    @property
    def store(self) -> Store:
        return Store(shipped=self.shipped, local=self.cache)

    @property
    def id(self) -> str:
        return self.model.ref.id


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("prune")
    model = load(resolve(str(write_tiny_model(folder / "tiny"))))
    calibration = calibration_set(TASK, N_CALIBRATION, 0)
    setting = PruneSetting(
        model=model.ref,
        evaluation=evaluation_set(TASK, N_ITEMS),
        criteria=("cap", "wanda"),
        sparsity=0.2,
        options=MaskOptions(metric="nll", kv_combine="mean"),
        scores=ScoreSpec(model=model.ref, examples=calibration),
        calibration=calibration,
    )
    made = World(model, folder / "cache", folder / "shipped", setting)
    profile = counting_spec(setting, "cap")
    assert profile is not None
    assert setting.scores is not None
    for spec in (setting.scores, *(eval_spec(setting, name) for name in setting.columns), profile):
        finish(run_steps(spec, model, made.store))
    return made


@pytest.fixture
def page(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppTest]:
    """The Prune page before its first run, on a copy of the world's runs."""
    cache = tmp_path / "cache"
    shutil.copytree(world.cache, cache)
    monkeypatch.setenv("CAP_VIZ_CACHE", str(cache))
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: world.shipped)
    shared_queue.cache_clear()
    yield AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    for job in shared_queue().listing():
        shared_queue().cancel(job)
    wait_for_jobs()
    shared_queue.cache_clear()


def wait_for_jobs() -> None:
    deadline = time.monotonic() + 60
    while any(job.active for job in shared_queue().listing()) and time.monotonic() < deadline:
        time.sleep(0.05)


def opened(test: AppTest, world: World, **query: str) -> AppTest:
    """A deep link: the page is the first thing the session runs."""
    test.switch_page("pages/prune.py")
    for key, value in {"model": world.id, "n": str(N_ITEMS), **query}.items():
        test.query_params[key] = value
    test.run()
    assert not test.exception
    return test


def texts(test: AppTest) -> str:
    elements = [*test.markdown, *test.caption, *test.info, *test.warning, *test.error]
    return "\n".join(str(element.value) for element in elements).replace("\\", "")


def helps(test: AppTest) -> str:
    """What the marks with a question beside captions explain."""
    return "\n".join(caption.proto.help for caption in test.caption)


def traces(figure: go.Figure) -> list[Any]:
    """A figure's traces, as one of the many kinds they may have."""
    return list(cast(Any, figure.data))


def report_of(correct: list[bool], ids: list[str] | None = None) -> EvalReport:
    """Two options each, the first one right; `correct` says which is chosen."""
    n = len(correct)
    logliks = np.array([[-1.0, -2.0] if right else [-2.0, -1.0] for right in correct], dtype=np.float32)
    questions = Questions(
        ids=tuple(ids or [f"q{i}" for i in range(n)]),
        gold=np.zeros(n, dtype=np.int64),
        tokens=np.ones((n, 2), dtype=np.int64),
        chars=np.ones((n, 2), dtype=np.int64),
    )
    return EvalReport(questions=questions, logliks=logliks)


def reports_of(columns: Iterable[Column[EvalReport]]) -> dict[str, EvalReport]:
    return {one.name: one.report for one in columns if one.report is not None}


MODEL = ModelRef(id="m", fingerprint="f")
ITEMS = ExampleSet(task=TASK, version=1, ids=("a", "b"), split="evaluation")


def column(name: str, correct: list[bool], **changes: object) -> Column[EvalReport]:
    spec = EvalSpec(model=MODEL, examples=ITEMS)
    return replace(Column(name=name, wanted=spec, shown=spec, report=report_of(correct)), **changes)


# Specs and zeros -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
def test_masks_have_the_keys_the_library_gives_them(
    world: World, criterion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The text that goes with other models has to be fetched.
    monkeypatch.setattr("cap_viz.tasks.example_sets.companion_task", lambda model: "mini_text")
    monkeypatch.setattr("cap_viz.tasks.example_sets.N_TEXT_PASSAGES", 2)
    theirs = mask_spec_for(
        world.model.ref, criterion, 0.2, task=TASK, n=N_CALIBRATION, seed=0, metric="choice_nll", kv_combine="max"
    )
    ours = mask_spec(replace(world.setting, options=MaskOptions(metric="choice_nll", kv_combine="max")), criterion)
    assert ours == theirs
    examples = world.setting.evaluation
    assert spec_key(EvalSpec(world.model.ref, examples, ours)) == spec_key(EvalSpec(world.model.ref, examples, theirs))


def test_cap_without_head_scores_says_what_to_do(world: World) -> None:
    with pytest.raises(CapVizError) as refused:
        mask_spec(replace(world.setting, scores=None), "cap")
    assert all(name in str(refused.value) for name in ("CAP", TASKS[TASK].title, "head"))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.23, 0.9])
@pytest.mark.parametrize("criterion", ["wanda", "wanda_oneshot", "magnitude"])
def test_zeros_by_rule_are_those_of_the_mask(world: World, criterion: str, sparsity: float, scope: Scope) -> None:
    request = MaskRequest(sparsity=sparsity, scope=scope, calibration=tiny_examples(2))
    mask = finish(criterion_named(criterion).steps(world.model, request))
    setting = replace(world.setting, options=MaskOptions(scope=scope), sparsity=sparsity)
    counts = zeros_by_rule(mask_spec(setting, criterion), matrix_sizes(world.model.shape, scope))
    assert counts is not None
    assert counts.matrices == mask.counts.matrices
    np.testing.assert_array_equal(counts.zeros, mask.counts.zeros)


def test_a_global_threshold_has_no_rule(world: World) -> None:
    assert zeros_by_rule(mask_spec(world.setting, "cap"), matrix_sizes(world.model.shape, "both")) is None


def test_zeros_come_from_the_measured_run_then_the_profile_then_the_rule(world: World) -> None:
    store, runs, ref = world.store, world.store.runs(), world.model.ref
    assert shape_from(runs, ref) == world.model.shape
    masks = [
        mask_spec(world.setting, "cap"),
        mask_spec(world.setting, "cap", 0.37),
        mask_spec(world.setting, "magnitude"),
    ]
    found = [zeros_of(store, runs, mask, ref) for mask in masks]
    assert [one.source for one in found if one] == ["measured run", "stored profile", "exact rule"]
    run = store.get(EvalSpec(ref, world.setting.evaluation, masks[0]))
    assert run is not None
    assert found[0] is not None
    np.testing.assert_array_equal(found[0].counts.zeros, load_zeros(store, run).zeros)
    assert found[1] is not None
    assert found[1].reached == pytest.approx(0.37, abs=1e-4)
    assert zeros_of(store, runs, mask_spec(world.setting, "global_magnitude"), ref) is None


def test_shares_of_the_parts_add_up_to_what_is_reached(world: World) -> None:
    zeros = zeros_of(world.store, world.store.runs(), mask_spec(world.setting, "cap"), world.model.ref)
    assert zeros is not None
    sizes, names = zeros.counts.sizes, [matrix.part for matrix in zeros.counts.matrices]
    attention = sizes[[name == "attention" for name in names]].sum()
    in_attention = zeros.parts["attention"] * attention
    assert in_attention + zeros.parts["mlp"] * (sizes.sum() - attention) == pytest.approx(zeros.counts.zeros.sum())
    assert zeros.attention_share_of_zeros == pytest.approx(in_attention / zeros.counts.zeros.sum())


def test_marks_are_where_accuracies_are_stored_for_the_same_question(world: World) -> None:
    runs = world.store.runs()
    assert measured_percents(runs, world.setting) == {20: {"cap", "wanda"}}
    assert measured_percents(runs, replace(world.setting, criteria=("cap", "magnitude"))) == {20: {"cap"}}
    by_choices = replace(world.setting, options=MaskOptions(metric="choice_nll"))
    assert measured_percents(runs, by_choices) == {20: {"wanda"}}
    assert measured_percents(runs, replace(world.setting, evaluation=evaluation_set(TASK, 12))) == {}


def test_the_outlier_is_the_head_without_which_the_scale_shrinks_most() -> None:
    flat = np.full((3, 4), 1.1)
    flat[0, 0], flat[1, 2], flat[2, 1] = 1.0, 10.0, 1.9
    outlier = widest_outlier(flat)
    assert (outlier.layer, outlier.head, outlier.importance) == (1, 2, 10.0)
    assert outlier.range_left == pytest.approx(0.1)
    assert widest_outlier(11 - flat).importance == 1.0
    assert widest_outlier(np.ones((2, 2))).range_left == 1.0


# Accuracy --------------------------------------------------------------------------------------------------------


def found_column(
    world: World, queue: JobQueue, setting: PruneSetting, name: str, last: EvalSpec | None = None
) -> Column[EvalReport]:
    return column_of(CHOICES, world.store, queue, name, lambda: eval_spec(setting, name), last)


def idle_queue(world: World) -> JobQueue:
    def refuse(model_id: str) -> ReasoningModel:
        raise AssertionError(f"Nothing should load {model_id} here.")

    return JobQueue(world.store, refuse)


def test_a_stored_result_is_shown_as_it_is(world: World) -> None:
    shown = found_column(world, idle_queue(world), world.setting, "cap")
    assert shown.fresh
    assert shown.report is not None
    run = world.store.get(eval_spec(world.setting, "cap"))
    assert run is not None
    np.testing.assert_array_equal(shown.report.correct, load_report(world.store, run).correct)


def test_after_the_slider_moved_the_last_result_stays_and_says_so(world: World) -> None:
    moved = replace(world.setting, sparsity=0.23)
    last = eval_spec(world.setting, "cap")
    stale = found_column(world, idle_queue(world), moved, "cap", last)
    assert numbers(stale.stale) == {"20", "23"}
    assert stale.measurable
    assert not stale.fresh
    empty = found_column(world, idle_queue(world), moved, "cap")
    assert (empty.report, empty.measurable) == (None, True)
    elsewhere = replace(last, model=MODEL)
    assert found_column(world, idle_queue(world), moved, "cap", elsewhere).report is None


def test_what_has_arrived_of_a_running_job_is_partial(world: World) -> None:
    moved, queue = replace(world.setting, sparsity=0.31), idle_queue(world)
    job = Job(number=1, spec=eval_spec(moved, "cap"), title="t", state="running")
    queue.jobs[1] = job
    assert found_column(world, queue, moved, "cap").report is None
    job.progress = Progress(1, 4, "answering", report_of([True, False, True]))
    running = found_column(world, queue, moved, "cap")
    assert running.partial
    assert running.report is not None
    assert len(running.report) == 3
    assert not running.measurable
    job.state, job.error = "failed", "It went wrong."
    failed = found_column(world, queue, moved, "cap")
    assert (failed.job, failed.problem, failed.measurable) == (job, "", True), "the job tells its reason, once"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sparsity": 0.5}, ["20 %", "50 %"]),
        ({"options": MaskOptions(scope="mlp")}, ["scope", "both", "mlp"]),
        ({"options": MaskOptions(metric="choice_nll")}, ["metric", " nll", " choice_nll"]),
        ({"options": MaskOptions(kv_combine="max")}, ["key-value", "mean", "max"]),
    ],
)
def test_staleness_names_what_differs_then_and_now(world: World, changes: dict[str, object], words: list[str]) -> None:
    asked = eval_spec(replace(world.setting, **changes), "cap")
    said = change_words(eval_spec(world.setting, "cap"), asked)
    places = [said.index(word) for word in words]
    assert places == sorted(places)
    assert ";" not in said, "nothing else differs"


def test_a_smaller_measurement_is_stale_as_well(world: World) -> None:
    fewer = eval_spec(replace(world.setting, evaluation=evaluation_set(TASK, 12)), "dense")
    words = change_words(fewer, eval_spec(world.setting, "dense"))
    assert numbers(words) == {"12", str(N_ITEMS)}


def test_columns_are_compared_on_the_items_both_have_answered() -> None:
    dense = report_of([True, True, False, True], ["a", "b", "c", "d"])
    arriving = report_of([False, True, True], ["d", "a", "c"])
    found = compare_columns(
        CHOICES, Column("cap", None, None, arriving, partial=True), Column("dense", None, None, dense)
    )
    assert found.results[ACC.name] == compare_paired(np.array([False, True, True]), np.array([True, True, False]))
    assert found.results[CHOICE_LOSS.name] == compare_means(
        arriving.losses("choice_nll"), dense.losses("choice_nll")[[3, 0, 2]]
    )
    assert found.provisional


def test_the_first_items_of_a_longer_run_are_taken_at_once(world: World) -> None:
    """Fewer items were “stale” until a click cut them from the shipped run, and then called measured here."""
    n = 12
    setting = replace(world.setting, evaluation=evaluation_set(TASK, n))
    found = found_column(world, idle_queue(world), setting, "cap")
    assert found.fresh
    assert found.report is not None
    assert found.run is not None
    whole = load_report(world.store, found.run)
    assert len(whole) == N_ITEMS
    assert found.report.questions.ids == whole.questions.ids[:n]
    np.testing.assert_array_equal(found.report.logliks, whole.logliks[:n])
    assert len(pd.read_csv(io.StringIO(items_csv(world.store, [found])))) == n


def test_two_criteria_at_different_sparsities_are_not_compared(world: World) -> None:
    masks = [eval_spec(replace(world.setting, sparsity=sparsity), "cap") for sparsity in (0.2, 0.5)]
    first, second = (column("cap", [True, False], shown=spec) for spec in masks)
    refused = compare_columns(CHOICES, first, second)
    not_yet = compare_columns(CHOICES, first, replace(second, report=None))
    assert not refused.results
    assert not not_yet.results
    assert "" not in (refused.reason, not_yet.reason)
    assert refused.reason != not_yet.reason
    assert compare_columns(CHOICES, first, column("dense", [True, True])).results


def test_differences_are_the_library_s(world: World) -> None:
    queue = idle_queue(world)
    columns = [found_column(world, queue, world.setting, name) for name in world.setting.columns]
    found = differences(CHOICES, columns)
    assert [(one.first, one.second) for one in found] == [("cap", "wanda"), ("cap", "dense"), ("wanda", "dense")]
    reports = {one.name: one.report for one in columns}
    assert reports["cap"] is not None
    assert reports["wanda"] is not None
    assert found[0].main == compare_paired(reports["cap"].correct, reports["wanda"].correct)
    table = difference_table(found, CHOICES.measures)
    assert table["Lost"].tolist() == [str(one.main.only_b) for one in found if one.main is not None]


def test_cost_is_judged_from_past_runs_that_were_not_resumed(world: World) -> None:
    runs = world.store.runs()
    seconds = {"dense": 10.0, "cap": 16.0, "wanda": 30.0}
    made = []
    for run in runs:
        if isinstance(run.spec, EvalSpec):
            name = "dense" if run.spec.mask is None else run.spec.mask.criterion
            made.append(listed_run(run.spec, **{**run.provenance, "seconds": seconds[name], "resumed_batches": 0}))
    asked = replace(world.setting, sparsity=0.3)
    specs = [eval_spec(asked, name) for name in asked.criteria]
    assert [expected_seconds(made, spec) for spec in specs] == [pytest.approx(16.0), pytest.approx(30.0)]
    # A task that was never timed is judged by the others, question by question.
    half = ExampleSet("new", 1, specs[0].examples.ids[: len(specs[0].examples.ids) // 2], "evaluation")
    share = len(half.ids) / len(specs[0].examples.ids)
    assert expected_seconds(made, replace(specs[0], examples=half, mask=None)) == pytest.approx(10.0 * share)
    resumed = [listed_run(run.spec, **{**run.provenance, "resumed_batches": 1}) for run in made]
    assert expected_seconds(resumed, specs[0]) is None


# Figures ---------------------------------------------------------------------------------------------------------


def test_zeros_per_layer_are_drawn_per_part_in_the_criterion_s_colour(world: World) -> None:
    runs = world.store.runs()
    found = [zeros_of(world.store, runs, mask_spec(world.setting, name), world.model.ref) for name in ("cap", "wanda")]
    zeros = [one for one in found if one is not None]
    parts = [{part: one.by_layer(part) for part in one.parts} for one in zeros]
    figure = zeros_by_layer([LayerShares(one.criterion, "", by) for one, by in zip(zeros, parts, strict=True)], 0.2)
    assert [trace.line.color for trace in traces(figure)] == [criterion_colour("cap"), criterion_colour("wanda")] * 2
    np.testing.assert_allclose(traces(figure)[0].x, 100 * zeros[0].by_layer("attention"))
    np.testing.assert_allclose(traces(figure)[3].x, 100 * zeros[1].by_layer("mlp"))
    top, bottom = cast(Any, figure.layout).yaxis.range
    assert top > bottom
    for axis in (cast(Any, figure.layout).xaxis, cast(Any, figure.layout).xaxis2):
        assert max(axis.tickvals) < 0.95 * axis.range[1], "a number at the end meets the next panel's zero"
    grid = zeros_by_matrix({one.criterion: one.by_kind() for one in zeros})
    assert list(traces(grid)[0].x) == ["q", "k", "v", "o", "gate", "up", "down"]
    np.testing.assert_allclose(np.asarray(traces(grid)[0].z).ravel(), 100 * zeros[0].counts.share[0])


def test_a_scope_without_attention_draws_one_panel(world: World) -> None:
    setting = replace(world.setting, options=MaskOptions(scope="mlp"))
    zeros = zeros_of(world.store, world.store.runs(), mask_spec(setting, "wanda"), world.model.ref)
    assert zeros is not None
    assert list(zeros.parts) == ["mlp"]
    layers = LayerShares("wanda", "Wanda", {part: zeros.by_layer(part) for part in zeros.parts})
    assert len(traces(zeros_by_layer([layers], 0.2))) == 1


def test_accuracy_whiskers_are_wilson_s_and_hollow_while_items_arrive() -> None:
    dense = column("dense", [True, True, False, True])
    arriving = column("cap", [True, False], partial=True)
    rows = [accuracy_row(one) for one in (dense, arriving, column("wanda", [True], report=None))]
    figure = accuracy_whiskers(rows, chance=0.5)
    assert [trace.marker.symbol for trace in traces(figure)] == ["circle", "circle-open"]
    interval = wilson(3, 4)
    assert traces(figure)[0].error_x.arrayminus[0] == pytest.approx(100 * (0.75 - interval.low))
    assert list(cast(Any, figure.layout).yaxis.ticktext) == ["Dense", "CAP", "Wanda"]


def test_the_histogram_counts_every_head() -> None:
    scaled = np.array([[1.0, 10.0, 4.0], [4.1, 4.2, 3.9]])
    figure = importance_histogram(scaled, widest_outlier(scaled))
    assert sum(traces(figure)[0].y) == scaled.size


# Flips and files -------------------------------------------------------------------------------------------------


def test_flips_are_the_items_answered_differently() -> None:
    columns = [
        column("dense", [True, True, False, False]),
        column("cap", [True, False, True, False]),
        column("wanda", [True, True, True, False]),
    ]
    flips = flips_of(reports_of(columns))
    assert [flip.id for flip in flips] == ["q1", "q2"]
    sizes = {name: len(found) for name, found in flips_by_filter(flips, list(reports_of(columns)), "dense").items()}
    assert sizes == {"all": 2, "lost_cap": 1, "gained_cap": 1, "lost_wanda": 0, "gained_wanda": 1, "apart": 1}
    table = flip_table(flips, columns, {})
    assert table["CAP"].tolist() == ["✗ B", "✓ A"]
    examples = {flip.id: replace(tiny_examples(1)[0], id=flip.id, gold=0) for flip in flips}
    assert flip_table(flips, columns, examples)["Question"].tolist() == [tiny_examples(1)[0].question] * 2


def test_the_file_holds_every_item_of_every_model(world: World) -> None:
    queue = idle_queue(world)
    columns = [found_column(world, queue, world.setting, name) for name in world.setting.columns]
    table = pd.read_csv(io.StringIO(items_csv(world.store, columns)))
    assert table["model"].value_counts().to_dict() == {"Dense": N_ITEMS, "CAP": N_ITEMS, "Wanda": N_ITEMS}
    for one in columns:
        assert one.report is not None
        assert table.loc[table["model"] == one.title, "right"].tolist() == one.report.correct.tolist()


def test_every_criterion_has_a_colour_and_a_shape_of_its_own() -> None:
    assert len({criterion_colour(name) for name in CRITERIA}) == len(CRITERIA)
    assert len({criterion_symbol(name) for name in CRITERIA}) == len(CRITERIA)
    assert len({criterion_glyph(name) for name in CRITERIA}) == len(CRITERIA)


def test_zeros_of_heads_come_from_the_measured_run_or_the_profile_of_heads(world: World) -> None:
    runs = list(world.store.runs())
    mask = mask_spec(world.setting, "cap")
    measured = head_zeros_of(world.store, runs, mask, world.model.ref)
    assert measured is not None
    assert measured.shape == (3, 4)
    assert head_zeros_of(world.store, runs, replace(mask, sparsity=0.3), world.model.ref) is None
    figure = zeros_by_head({"cap": measured, "wanda": measured})
    np.testing.assert_allclose(traces(figure)[0].z, 100 * measured)


# The page --------------------------------------------------------------------------------------------------------


def test_the_page_shows_stored_accuracies_at_once(world: World, page: AppTest) -> None:
    opened(page, world)
    reports = [load_report(world.store, run) for run in stored_evaluations(world)]
    shown = [metric.value for metric in page.metric]
    assert shown == [f"{100 * report.acc:.1f} %" for report in reports]
    assert len(page.get("plotly_chart")) == 3
    assert "CAP: measured run; Wanda: measured run" in helps(page)
    assert "prune_measure" not in [button.key for button in page.button]
    assert not shared_queue().listing()


def stored_evaluations(world: World) -> list[StoredRun]:
    runs = [world.store.get(eval_spec(world.setting, name)) for name in world.setting.columns]
    return [run for run in runs if run is not None]


def test_moving_the_slider_keeps_the_result_and_offers_to_measure(world: World, page: AppTest) -> None:
    opened(page, world)
    before = [metric.value for metric in page.metric]
    page.slider(key="sparsity").set_value(23).run()
    assert [metric.value for metric in page.metric] == before
    assert [said for said in saying(page, "20 %", "23 %") if "-badge[stale]" in said]
    assert "prune_measure" in [button.key for button in page.button]
    assert not shared_queue().listing(), "nothing may be computed before the button is pressed"
    page.button(key="prune_mark_20").click().run()
    assert page.slider(key="sparsity").value == 20
    assert "-badge[stale]" not in texts(page)


def test_the_link_sets_every_control(world: World, page: AppTest) -> None:
    opened(page, world, criterion="wanda_oneshot", against="cap", sparsity="35", scope="mlp", kv="max")
    assert page.selectbox(key="criterion").value == "wanda_oneshot"
    assert page.selectbox(key="against").value == "cap"
    assert page.slider(key="sparsity").value == 35
    assert page.selectbox(key="kv").value == "max"
    assert [metric.value for metric in page.metric][1:] == ["–", "–"]
    assert "untouched" in page.table[0].value.to_string()


def test_a_link_with_nonsense_says_so_and_shows_the_default(world: World, page: AppTest) -> None:
    opened(page, world, criterion="magic", sparsity="99")
    shown = texts(page)
    assert "criterion “magic”" in shown
    assert "sparsity “99”" in shown
    assert page.slider(key="sparsity").value == 20


def test_measuring_computes_what_the_library_computes(world: World, page: AppTest) -> None:
    opened(page, world, sparsity="40")
    page.button(key="prune_measure").click().run()
    wait_for_jobs()
    page.run()
    asked = replace(world.setting, sparsity=0.4)
    for place, name in enumerate(asked.columns):
        run = finish(run_steps(eval_spec(asked, name), world.model, world.store))
        assert page.metric[place].value == f"{100 * load_report(world.store, run).acc:.1f} %"


def test_zeros_nobody_has_counted_are_counted_by_a_small_job(world: World, page: AppTest) -> None:
    """Guards: the page started jobs, of gradients too, by being drawn."""
    opened(page, world, criterion="global_magnitude")
    assert not shared_queue().listing(), "nothing starts by being drawn"
    page.button(key="prune_count").click().run()
    jobs = shared_queue().listing()
    assert [type(job.spec) for job in jobs] == [ProfileSpec]
    wait_for_jobs()
    page.run()
    assert "Global magnitude: stored profile" in helps(page)
    assert len(shared_queue().listing()) == 1


def test_zeros_of_heads_are_counted_by_a_small_job(world: World, page: AppTest) -> None:
    opened(page, world, criterion="global_magnitude", against="random")
    page.segmented_control(key="detail").set_value("heads").run()
    page.button(key="prune_count").click().run()
    wait_for_jobs()
    page.run()
    assert [job.spec.parts for job in shared_queue().listing() if isinstance(job.spec, ProfileSpec)].count("heads") == 2
    assert "prune_count" not in [button.key for button in page.button]
    assert not page.exception
    drawn = [json.loads(chart.proto.spec)["data"] for chart in page.get("plotly_chart")]
    assert [trace["type"] for data in drawn for trace in data].count("heatmap") == 2


def test_a_failed_count_is_told_and_not_started_again_by_itself(
    world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model_id: str) -> ReasoningModel:
        raise CapVizError("The weights have gone.")

    monkeypatch.setattr(shared_queue().models, "load", fail)
    opened(page, world, criterion="global_magnitude")
    page.button(key="prune_count").click().run()
    wait_for_jobs()
    page.run()
    page.run()
    assert "The weights have gone." in texts(page)
    assert len(shared_queue().listing()) == 1


def test_a_count_that_the_queue_refuses_says_its_reason(
    world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards: whatever the reason was, the page said that the queue is full."""

    def refuse(*args: object) -> Job:
        raise CapVizError("This server is shared and does not offer that.")

    opened(page, world, criterion="global_magnitude")
    monkeypatch.setattr(shared_queue(), "submit", refuse)
    page.button(key="prune_count").click().run()
    assert [error.value for error in page.error] == ["This server is shared and does not offer that."]


def test_a_damaged_accuracy_is_told_in_its_place_until_it_is_measured_again(world: World, page: AppTest) -> None:
    run = next(run for run in Store().runs() if run.key == spec_key(eval_spec(world.setting, "cap")))
    (run.folder / "options.parquet").write_bytes(b"not a table")
    opened(page, world)
    for _ in range(2):
        assert saying(page, run.title, "options.parquet")
        assert page.metric[1].value == "–"
        page.run()
    page.button(key="prune_measure").click().run()
    wait_for_jobs()
    page.run()
    assert "options.parquet" not in texts(page)
    assert page.metric[1].value != "–"


def test_without_head_scores_the_page_points_to_heads(world: World, page: AppTest) -> None:
    assert world.setting.scores is not None
    run = next(run for run in Store().runs() if run.spec == world.setting.scores)
    shutil.rmtree(run.folder)
    opened(page, world)
    assert saying(page, "CAP", TASKS[TASK].title)
    assert "prune_to_heads_cap" in [button.key for button in page.button]


def test_a_task_whose_data_is_not_here_says_how_to_get_it(
    world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CAP_VIZ_DATA", raising=False)
    opened(page, world, task="arc_easy")
    assert "CAP_VIZ_DATA" in texts(page)


def test_items_table_shows_the_questions(world: World, page: AppTest) -> None:
    opened(page, world)
    table: pd.DataFrame = page.dataframe[0].value
    questions = {example.question for example in load_task(TASK).evaluation(N_ITEMS)}
    assert set(table["Question"]) <= questions
    assert list(table.columns)[-4:] == ["Dense", "CAP", "Wanda", "Id"]


def test_two_sessions_at_different_sparsities_keep_their_own(world: World, page: AppTest) -> None:
    opened(page, world, sparsity="20")
    other = opened(AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60), world, sparsity="50")
    page.run()
    assert page.slider(key="sparsity").value == 20
    assert page.metric[1].value != "–"
    assert other.slider(key="sparsity").value == 50
    assert other.metric[1].value == "–"


# How zeros are spread, and what activations are measured on --------------------------------------------------------


def test_a_pattern_is_taken_at_half_the_weights_by_those_who_can(world: World) -> None:
    setting = replace(world.setting, options=MaskOptions(pattern="2:4"), sparsity=0.5)
    assert mask_spec(setting, "wanda").pattern == "2:4"
    assert mask_spec(setting, "cap").pattern is None
    assert mask_spec(replace(setting, sparsity=0.2), "wanda").pattern is None


def test_owl_goes_to_criteria_that_take_the_same_share_everywhere(world: World) -> None:
    setting = replace(world.setting, options=MaskOptions(allocation="owl"))
    assert mask_spec(setting, "magnitude").allocation == "owl"
    assert mask_spec(setting, "magnitude").calibration == setting.calibration
    assert mask_spec(setting, "cap").allocation is None


def test_the_link_sets_spread_text_and_control_seed(world: World, page: AppTest) -> None:
    opened(page, world, task=TASK, criterion="random", against="wanda", spread="4:8", sparsity="50")
    assert page.selectbox(key="spread").value == "4:8"
    page.selectbox(key="calibration").set_value("mini_text").run()
    page.number_input(key="control_seed").set_value(7).run()
    assert not page.exception
    assert [said for said in saying(page, "Random", "4:8") if "Wanda" not in said]


def test_a_pattern_has_its_own_sparsity(world: World, page: AppTest) -> None:
    """At another one its zeros are free, which a sentence had to say."""
    opened(page, world, task=TASK, spread="2:4", sparsity="20")
    assert page.slider[0].disabled
    assert page.slider[0].value == 50
    opened(page, world, task=TASK, spread="sideways")
    assert "sideways" in texts(page)


def test_word_and_interval_of_a_difference_agree() -> None:
    """“No difference stands out from noise” stood under a choice loss whose interval excludes 0."""
    base = compare_paired(np.arange(40) < 20, np.arange(40) < 20)
    loss = replace(base, ci=Interval(-0.18, -0.02), difference=-0.1, p_value=0.02)
    by_acc, by_loss = verdict_lines(
        ColumnDifference("cap", "wanda", {"acc": base, "choice_nll": loss}), CHOICES.measures
    )
    assert "ahead" not in by_acc
    assert "CAP ahead" in by_loss
    assert {"−0.180", "−0.020"} <= numbers(by_loss)
    for ci, p in ((Interval(-0.18, -0.02), 0.06), (Interval(-0.18, 0.01), 0.03)):
        doubtful = replace(loss, ci=ci, p_value=p)
        (hint,) = verdict_lines(ColumnDifference("cap", "wanda", {"choice_nll": doubtful}), CHOICES.measures)
        assert "hint: CAP ahead" in hint


def test_an_interim_difference_has_no_p_and_no_verdict() -> None:
    a, b = np.arange(40) < 30, np.arange(40) < 10
    final = ColumnDifference("cap", "dense", {"acc": compare_paired(a, b)})
    interim = replace(final, provisional=True)
    assert p_cell(final) == "< 0.001"
    assert numbers(p_cell(interim)) == {"40"}
    (said,), (so_far,) = (verdict_lines(one, CHOICES.measures) for one in (final, interim))
    assert "ahead" in said
    assert "ahead" not in so_far
    assert "40" in numbers(so_far)


def test_word_differences_rebuild_both_texts() -> None:
    first, second = "It has 3 eggs.\nSo 3.", "It has 4 eggs and\nSo 3."
    pieces = word_difference(first, second)
    assert "".join(piece.text for piece in pieces if piece.kind != "new") == first
    assert "".join(piece.text for piece in pieces if piece.kind != "gone") == second
    assert [piece.text for piece in pieces if piece.kind == "same"] == ["It has ", "So 3."]
    assert text_html("a", "<b>a") == (
        '<div style="white-space:pre-wrap;font-size:0.9rem;overflow-wrap:anywhere">'
        '<del style="opacity:0.6">a</del><ins><b>&lt;b&gt;a</b></ins></div>'
    )


def test_the_page_lets_the_models_write_and_shows_their_texts(
    world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Eight tokens an answer: the tiny model reads 128 in all.
    task = load_task("mini_math")
    assert task.writing is not None
    monkeypatch.setitem(TASKS, task.name, replace(task, writing=replace(task.writing, max_tokens=8)))
    opened(page, world, task="mini_math", written="16", format="zeroshot", criterion="magnitude", against="wanda")
    page.button(key="written_measure").click().run()
    wait_for_jobs()
    page.run()
    assert not page.exception
    spec = generation_spec(world.model.ref, evaluation_set("mini_math", 16), format="zeroshot")
    store = Store(shipped=world.shipped)
    run = store.get(spec)
    assert run is not None
    report = load_answers(store, run)
    right = int(report.correct.sum())
    assert saying(page, f"{right} of 16", f"{100 * report.parse_rate:.0f} %")
    assert page.table[-1].value["Exact match"].str.contains("points").tolist() == [True] * 3
    columns = [
        Column("dense", spec, spec, report, run),
        Column("wanda", spec, spec, replace(report, strict=report.gold), run),
    ]
    table = answers_table(columns)
    assert table["Wanda"].tolist() == [f"✓ {gold}" for gold in report.gold]
    assert table["Same text"].tolist() == [True] * 16
    found = compare_columns(WRITTEN, columns[1], columns[0]).main
    assert found is not None
    assert found.difference == pytest.approx(1 - float(report.correct.mean()))


def test_answers_leave_room_for_a_prompt(world: World, page: AppTest) -> None:
    """With 256 tokens for the answer the plan of a model that reads 128 could not start, and six messages said so."""
    opened(page, world, task="mini_math", written="16", format="zeroshot", criterion="magnitude", against="magnitude")
    page.button(key="written_measure").click().run()
    wait_for_jobs()
    page.run()
    assert {job.state for job in shared_queue().listing()} == {"done"}
    room = world.model.shape.n_ctx // 2
    spec = generation_spec(world.model.ref, evaluation_set("mini_math", 16), format="zeroshot", max_tokens=room)
    assert Store(shipped=world.shipped).get(spec) is not None


def test_a_format_the_model_does_not_know_is_not_offered(world: World, page: AppTest) -> None:
    opened(page, world, task="mini_math", written="16", format="chat", criterion="magnitude", against="wanda")
    assert len(saying(page, world.id, "chat template")) == 1
    assert "written_measure" not in [button.key for button in page.button]


def test_one_reason_is_told_once(world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model_id: str) -> ReasoningModel:
        raise CapVizError("The weights have gone.")

    monkeypatch.setattr(shared_queue().models, "load", fail)
    opened(page, world, sparsity="35")
    page.button(key="prune_measure").click().run()
    wait_for_jobs()
    page.run()
    assert len(saying(page, "The weights have gone.")) == 1


def test_what_cannot_be_measured_is_not_offered(world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """CAP fine also reads WikiText-2; the page offered to measure without it, and three errors named another task."""
    monkeypatch.delenv("CAP_VIZ_DATA", raising=False)
    cap_fine = eval_spec(replace(world.setting, criteria=("cap_fine", "wanda"), sparsity=0.35), "cap_fine")
    (text,) = missing_tasks(cap_fine)
    assert text.name == "generic_text"
    opened(page, world, criterion="cap_fine", sparsity="35")
    (said,) = saying(page, text.title, "CAP_VIZ_DATA", text.data_folder)
    assert "CAP fine" in said
    assert "prune_count" not in [button.key for button in page.button]
    page.button(key="prune_measure").click().run()
    masks = [job.spec.mask for job in shared_queue().listing() if isinstance(job.spec, EvalSpec)]
    assert [mask.criterion for mask in masks if mask is not None] == ["wanda"]


def test_whole_heads_say_their_share_of_the_weights(world: World, page: AppTest) -> None:
    """20 % of the heads stood beside 20 % of the weights under one slider."""
    setting = replace(world.setting, criteria=("head", "wanda"))
    mask = mask_spec(setting, "head")
    store = Store(shipped=world.shipped)
    run = finish(run_steps(eval_spec(setting, "head"), world.model, store))
    reached = float(load_zeros(store, run).reached[0])
    assert 0 < reached < 0.5 * mask.sparsity
    opened(page, world, criterion="head")
    share = f"{100 * reached:.1f}"
    assert len([caption for caption in page.caption if share in numbers(caption.value)]) == 1, "the tile"
    assert "Whole heads" in page.slider(key="sparsity").label
    columns = [
        column_of(CHOICES, store, idle_queue(world), name, partial(eval_spec, setting, name))
        for name in setting.columns
    ]
    found = {(one.first, one.second): one for one in differences(CHOICES, columns)}
    assert found["head", "dense"].results
    assert not found["head", "wanda"].results


def test_the_flip_tables_item_shows_every_option(world: World) -> None:
    spec = EvalSpec(world.model.ref, evaluation_set(TASK, N_ITEMS))
    run = world.store.get(spec)
    assert run is not None
    column = Column("dense", spec, shown=spec, report=load_report(world.store, run), run=run)
    example = load_task(TASK).evaluation(3)[2]
    table = option_table(example, [column])
    assert table["Option"].tolist() == [option.strip() for option in example.options]
    assert table["Right"].tolist().index("✓") == example.gold
    np.testing.assert_array_equal(table["Dense"], load_report(world.store, run).logliks[2])
    audit = pd.read_csv(io.StringIO(items_csv(world.store, [column])))
    assert len(audit) == N_ITEMS
    assert audit["prompt"].iloc[2] == example.prompt
    assert set(audit["model"]) == {"Dense"}


# The address, jobs and exports -------------------------------------------------------------------------------------


def test_the_address_holds_tab_filter_and_picked_item(world: World, page: AppTest) -> None:
    """They were in no link."""
    columns = [found_column(world, idle_queue(world), world.setting, name) for name in world.setting.columns]
    filters = flips_by_filter(flips_of(reports_of(columns)), world.setting.columns, "dense")
    chosen = next(name for name, found in filters.items() if name != "all" and found)
    item = filters[chosen][0]
    opened(page, world, detail="matrices", flips=chosen, item=item.id)
    assert page.segmented_control(key="detail").value == "matrices"
    assert page.segmented_control(key="flips").value == chosen
    example = next(one for one in load_task(TASK).evaluation(N_ITEMS) if one.id == item.id)
    assert [code.value for code in page.code] == [example.prompt]
    page.segmented_control(key="flips").set_value("all").run()
    page.segmented_control(key="detail").set_value("layers").run()
    page.selectbox(key="item").set_value("").run()
    held = {key: page.query_params[key] for key in ("flips", "detail", "item")}
    assert held == {"flips": "all", "detail": "layers", "item": ""}
    assert not page.code


def test_the_questions_only_one_gets_are_one_click_away(world: World, page: AppTest) -> None:
    opened(page, world)
    columns = [found_column(world, idle_queue(world), world.setting, name) for name in world.setting.columns]
    found = differences(CHOICES, columns)[0].main
    assert found is not None
    assert saying(page, f"{found.only_b} questions only Wanda", f"{found.only_a} only CAP")
    page.button(key="prune_see_flips").click().run()
    assert not page.exception
    assert page.segmented_control(key="flips").value == "apart"


def test_all_jobs_of_a_measurement_are_cancelled_at_once_and_discarded(
    world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense, CAP and Wanda were three jobs with a button each, and a cancelled one stayed on the page."""
    gate = threading.Event()
    monkeypatch.setattr(shared_queue().models, "load", lambda model_id: gate.wait(30) and world.model)
    opened(page, world, sparsity="35")
    page.button(key="prune_measure").click().run()
    page.button(key="prune_measure_cancel_all").click().run()
    gate.set()
    wait_for_jobs()
    page.run()
    jobs = shared_queue().listing()
    assert [job.state for job in jobs] == ["cancelled", "cancelled"]
    (again,) = [button.key for button in page.button if str(button.key).endswith("_again")]
    assert "prune_measure" not in [button.key for button in page.button], "one way to go on"
    page.button(key=str(again).replace("_again", "_discard")).click().run()
    assert "prune_measure" in [button.key for button in page.button]
    assert not saying(page, "cancelled")


def test_a_failed_measurement_says_why_and_can_be_tried_again(
    world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = shared_queue().models.load

    def fail(model_id: str) -> ReasoningModel:
        raise CapVizError("The weights have gone.")

    monkeypatch.setattr(shared_queue().models, "load", fail)
    opened(page, world, sparsity="35")
    page.button(key="prune_measure").click().run()
    wait_for_jobs()
    page.run()
    (again,) = [str(button.key) for button in page.button if str(button.key).endswith("_again")]
    assert len(saying(page, "The weights have gone.")) == 1
    monkeypatch.setattr(shared_queue().models, "load", load)
    page.button(key=again).click().run()
    wait_for_jobs()
    page.run()
    assert [metric.value for metric in page.metric if metric.value == "–"] == []


def test_time_left_of_several_jobs_adds_up_once_it_is_known() -> None:
    """It jumped from 15 to 17 to 9 to 4 minutes: it means nothing before 5 %, and jobs that take turns add up."""
    jobs = [Job(n, cast(Any, None), "", state="running", started=time.monotonic() - 40) for n in range(2)]
    for job, share in zip(jobs, (0.5, 0.03), strict=True):
        job.spent, job.progress = 20.0, Progress(share, 1)
    assert jobs[1].seconds_left is None
    assert numbers(together_sentence(jobs)) == {"2", "26"}
    jobs[1].progress = Progress(0.25, 1)
    assert "80" in numbers(together_sentence(jobs)), "20 s for its other half, 60 s for its other three quarters"


def test_the_pruned_model_is_exported_and_has_its_zeros(world: World, page: AppTest) -> None:
    from transformers import AutoModelForCausalLM

    opened(page, world)
    spec = ExportedModel(world.model.ref, mask_spec(world.setting, "cap"))
    store = Store(shipped=world.shipped)
    assert saying(page, "MiB") or "MiB" in page.button(key="prune_export_cap").label
    before = {matrix.name: matrix.weight.clone() for matrix in world.model.matrices()}
    page.button(key="prune_export_cap").click().run()
    wait_for_jobs()
    page.run()
    folder = export_folder(store, spec)
    assert str(folder) in [code.value for code in page.code]
    assert "prune_export_cap" not in [button.key for button in page.button]
    network = AutoModelForCausalLM.from_pretrained(folder)
    zeros = sum(int((weight == 0).sum()) for name, weight in network.named_parameters() if "_proj" in name)
    zeros_wanted = zeros_of(store, store.runs(), spec.mask, world.model.ref)
    assert zeros_wanted is not None
    assert zeros == int(zeros_wanted.counts.zeros.sum())
    assert "Wanda" not in (folder / "README.md").read_text()
    assert all(bool((matrix.weight == before[matrix.name]).all()) for matrix in world.model.matrices())


def test_an_export_that_cannot_be_is_not_offered(world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(world.cache)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        opened(page, world)
        assert len(saying(page, "exports", "MiB")) == 2
        assert not [button for button in page.button if str(button.key).startswith("prune_export_")]
    monkeypatch.setenv("CAP_VIZ_SERVER", "1")
    monkeypatch.setenv("CAP_VIZ_MODELS", "tiny")
    with pytest.raises(UsageError, match="shared"):
        check_job(ExportedModel(world.model.ref, mask_spec(world.setting, "cap")), [])


def test_a_failed_export_is_told(world: World, page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(page, world)
    usage = shutil.disk_usage(world.cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    page.button(key="prune_export_wanda").click().run()
    wait_for_jobs()
    page.run()
    assert saying(page, "Export of Wanda at 20 % stopped", "exports")
    assert not list((Path(Store().local).parent / "exports").glob("*"))
