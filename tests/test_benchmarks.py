"""What benchmarks time or count is computed there and then: guarded on the tiny model, without the real ones."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Page
from scipy import stats

import cap_viz.attribution.forward.shortcut_checks
import cap_viz.evaluation.choice
from benchmarks import circuit, estimators, limits, live_pruning, pruned_cost, rankings, replay_vs_naive, toy_heads
from benchmarks.guards import CountingBackend, self_checks_made, shipped_only
from benchmarks.sessions import CLICKED, VIEWS, check_busy, click_seconds
from cap_viz.attribution import exact
from cap_viz.attribution.exact import exact_scores
from cap_viz.attribution.forward.llama_fast_path import DirectModel
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from studies import cap_fine
from studies.shipped import publish
from tests.tiny import tiny_examples

SPARSITY = 0.5


class Counted:
    """A function in whose place it stands, with the number of its calls and of the examples it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.calls, self.examples, self.real = 0, 0, getattr(module, name)
        monkeypatch.setattr(module, name, self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls += 1
        self.examples += len(arguments[1]) if len(arguments) > 1 and hasattr(arguments[1], "__len__") else 0
        return self.real(*arguments, **options)


@pytest.fixture
def shipped(tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Shipped are the tiny model's head scores, and its answers to all 20 questions, dense and pruned."""
    store, folder = Store(shipped=tmp_path / "none", local=tmp_path / "work"), tmp_path / "shipped"
    scores, examples = ScoreSpec(tiny_model.ref, calibration_set("tiny", 12)), evaluation_set("tiny", 20)
    masks = [mask_spec_for(tiny_model.ref, name, SPARSITY, task="tiny", n=12) for name in ("cap", "wanda")]
    specs = (scores, *(EvalSpec(tiny_model.ref, examples, mask) for mask in (None, *masks)))
    publish([finish(run_steps(spec, tiny_model, store)) for spec in specs], folder)
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: folder)
    return Store(local=tmp_path / "local")


def test_live_pruning_computes_what_longer_shipped_runs_would_answer(
    shipped: Store, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cut both pruned runs from shipped ones of more questions, and timed the reading of files."""
    monkeypatch.setattr(live_pruning, "load_model", lambda _: tiny_model)
    monkeypatch.setattr(live_pruning, "tasks_for", lambda _: ["tiny"])
    answered = Counted(monkeypatch, cap_viz.evaluation.choice, "dense_logliks")
    found = live_pruning.measure("tiny", 10, SPARSITY)
    assert answered.examples == 20
    assert found["computed"] == {"dense": 0, "cap": 10, "wanda": 10}


def test_an_answer_that_was_read_ends_the_benchmark(shipped: Store, tiny_model: ReasoningModel) -> None:
    backend, mask = CountingBackend(), mask_spec_for(tiny_model.ref, "cap", SPARSITY, task="tiny", n=12)
    read = EvalSpec(tiny_model.ref, evaluation_set("tiny", 10), mask)
    other = mask_spec_for(tiny_model.ref, "cap", 0.25, task="tiny", n=12)
    made = EvalSpec(tiny_model.ref, evaluation_set("tiny", 10), other)
    for spec in (read, made):
        finish(run_steps(spec, tiny_model, shipped, backend))
    backend.check_computed({"made": made})
    with pytest.raises(SystemExit, match="10 of the 10 answers of read were read from a store"):
        backend.check_computed({"made": made, "read": read})


def test_every_repeat_of_replay_vs_naive_makes_its_self_checks(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made once per loaded model, so that the median of the repeats was one without."""
    checks = Counted(monkeypatch, cap_viz.attribution.forward.shortcut_checks, "replay_dense")
    monkeypatch.setattr(replay_vs_naive, "matmul_rate", lambda clock: 1.0)
    for _ in range(2):
        checks.calls = 0
        replay_vs_naive.one_turn(tiny_model, tiny_examples(2), [(0, 0)], lambda: 0.0)
        assert checks.calls == 1


def test_the_loop_over_paths_and_the_engine_give_the_same_numbers(tiny_model: ReasoningModel) -> None:
    paths = circuit.query_paths(tiny_model, 3)
    assert len(paths) == 3
    turn = circuit.path_turn(tiny_model, tiny_examples(3), paths, range(len(paths)), lambda: 0.0)
    assert turn.difference < 1e-4


def test_every_turn_of_estimators_makes_its_self_checks(
    tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`exact_seconds_once` was the time of a plan without the self-checks it names."""
    examples, checks = (
        tiny_examples(2),
        Counted(monkeypatch, cap_viz.attribution.forward.shortcut_checks, "replay_dense"),
    )
    for _ in range(2):
        checks.calls = 0
        estimators.time_once(tiny_model, examples, examples, [(0, 0)], lambda: 0.0)
        assert checks.calls == 1


def test_limits_times_self_checks_at_every_size(tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = Counted(monkeypatch, cap_viz.attribution.forward.shortcut_checks, "replay_dense")
    run = Counted(monkeypatch, exact, "exact_scores")
    found = limits.seconds_by_budget(
        tiny_model, lambda: run(tiny_model, tiny_examples(2)), exact, ["TOKENS_PER_FORWARD"], (0.5, 1.0), 2
    )
    assert len(found) == 2
    assert checks.calls == run.calls == 4


def test_limits_times_forwards_of_the_size_it_names(
    tiny_model: ReasoningModel, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At twice the usual size the heads of a layer went through in two parts, each of the usual size."""
    for name in ("TOKENS_PER_FORWARD", "MOST_TOKENS_PER_STEP"):
        monkeypatch.setattr(exact, name, 120)
    for name in ("product_share", "gflops_by_shape", "bfloat16_noise", "left_by_covariate"):
        monkeypatch.setattr(limits, name, lambda *_, **__: 0.0)
    monkeypatch.setattr(limits, "TASK", "tiny")
    monkeypatch.setattr(limits, "MANY", 1)
    groups: set[int] = set()
    real = DirectModel.ablate_heads

    def noted(direct: DirectModel, *arguments: Any) -> Any:
        groups.update(len(one) for one in arguments if isinstance(one, range))
        return real(direct, *arguments)

    monkeypatch.setattr(DirectModel, "ablate_heads", noted)
    assert list(limits.measure(tiny_model, 12)["exact_seconds"]) == ["60", "120", "240"]
    assert groups == {tiny_model.shape.n_heads}


def test_limits_takes_products_in_bfloat16(tiny_model: ReasoningModel) -> None:
    """It ended with an error of torch once evaluations went by the direct blocks."""
    noise = limits.bfloat16_noise(tiny_model, tiny_examples(4))
    assert 1e-5 < noise < 0.5


def test_self_checks_that_nobody_makes_end_the_benchmark(tiny_model: ReasoningModel) -> None:
    exact_scores(tiny_model, tiny_examples(2))
    before = set(tiny_model.passed)
    assert before
    with pytest.raises(SystemExit, match="No self-check was made"), self_checks_made(tiny_model):
        pass
    assert tiny_model.passed == before
    assert type(tiny_model.passed) is set


def test_rankings_that_may_be_read_are_not_timed(
    tiny_model: ReasoningModel, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`seconds` held whatever of the head scores was not stored yet."""
    now = [0.0]
    monkeypatch.setattr(rankings, "TASK", "tiny")
    monkeypatch.setattr(rankings, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    removed, order = rankings.joint_effects, tuple((layer, head) for layer in range(3) for head in range(4))

    def slow_ranking(*_: Any) -> dict[str, rankings.Removals]:
        now[0] += 1000
        return {"exact": rankings.Removals(order, order, (1, 6), draws=2)}

    def removal(*arguments: Any) -> Any:
        now[0] += 10
        return removed(*arguments)

    monkeypatch.setattr(rankings, "rankings", slow_ranking)
    monkeypatch.setattr(rankings, "joint_effects", removal)
    found = rankings.measure(tiny_model, items=4, n=4, big_n=8, orders=2)
    assert found["seconds"] == 10


class Seen(Exception):
    """Ends a benchmark where it has shown what the test asks."""


@pytest.mark.parametrize(
    ("module", "measure"),
    [
        (toy_heads, lambda model: toy_heads.measure(1, 2)),
        (pruned_cost, lambda model: pruned_cost.measure(model, n_tokens=4, repeats=1, shares=())),
    ],
)
def test_shipped_scores_are_not_those_of_this_machine(
    module: Any, measure: Any, shipped: Store, tiny_model: ReasoningModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head scores on more examples that somebody had computed here came before the shipped ones."""
    here = finish(run_steps(ScoreSpec(tiny_model.ref, calibration_set("tiny", 4)), tiny_model, Store()))
    assert Path(os.environ["CAP_VIZ_CACHE"]) in here.folder.parents
    taken: list[str] = []

    def take(runs: Any, *_: Any) -> Any:
        taken.extend(run.key for run in runs)
        raise Seen

    monkeypatch.setattr(module, "score_runs", take)
    monkeypatch.setattr(toy_heads, "load_model", lambda _: tiny_model)
    with pytest.raises(Seen):
        measure(tiny_model)
    assert taken
    assert here.key not in taken
    with shipped_only() as store:
        assert sorted(taken) == sorted(run.key for run in store.runs())


@pytest.fixture
def fine(
    tiny_model: ReasoningModel, tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Counter[str]]:
    """`cap_fine` on the tiny model with two candidates that measure the same; its file, and gradient passes by name."""
    passes: Counter[str] = Counter()
    turn = [""]
    take_row = cap_fine.take_row

    def counted(*arguments: Any) -> None:
        passes[turn[0]] += 1
        take_row(*arguments)

    def candidate(name: str) -> Any:
        def made(lab: cap_fine.Lab) -> Any:
            turn[0] = name
            return cap_fine.global_cut(cap_fine.kfac)(lab)

        return made

    monkeypatch.setattr(cap_fine, "take_row", counted)
    names = (cap_fine.BASELINE, "first", "second")
    monkeypatch.setattr(cap_fine, "CANDIDATES", {name: candidate(name) for name in names})
    monkeypatch.setattr(cap_fine.cv, "load_model", lambda _: tiny_model, raising=False)
    monkeypatch.setattr(cap_fine, "TASK", "tiny")
    monkeypatch.setattr(cap_fine, "N_CALIBRATION", 4)
    monkeypatch.setattr(cap_fine, "validation", lambda n: tiny_examples(20)[:n])
    return tmp_path / "fine.jsonl", passes


def run_fine(monkeypatch: pytest.MonkeyPatch, out: Path, n: int) -> list[dict[str, Any]]:
    monkeypatch.setattr("sys.argv", ["cap_fine", "--only", "first", "second", "--n", str(n), "--out", str(out)])
    cap_fine.main()
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def test_a_candidate_of_cap_fine_is_timed_with_all_it_measures(
    fine: tuple[Path, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mask_seconds` left out what an earlier candidate had measured."""
    out, passes = fine
    run_fine(monkeypatch, out, 8)
    assert len(set(passes.values())) == 1
    assert passes["first"] == passes["second"] > 0


def test_a_candidate_of_cap_fine_on_other_questions_is_computed(
    fine: tuple[Path, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, passes = fine
    assert [line["n"] for line in run_fine(monkeypatch, out, 8)] == [8, 8, 8]
    before = passes["first"]
    assert len(run_fine(monkeypatch, out, 8)) == 3
    assert passes["first"] == before
    assert [line["n"] for line in run_fine(monkeypatch, out, 6)] == [8, 8, 8, 6, 6, 6]


def test_sessions_clicks_on_layers_that_no_view_shows() -> None:
    """A layer that is shown already was clicked on in no time."""
    layers = {int(value) for view in VIEWS for value in parse_qs(urlsplit(view).query).get("layer", [])}
    assert layers
    assert layers.isdisjoint(CLICKED)


def test_a_click_that_changes_nothing_and_a_job_that_is_over_end_sessions() -> None:
    page = Mock(spec=Page)
    page.get_by_text.return_value.count.return_value = 1
    with pytest.raises(SystemExit, match="speaks of layer 3 before it is clicked on"):
        click_seconds(page, 3)
    page.get_by_role.return_value.first.is_visible.return_value = False
    with pytest.raises(SystemExit, match="The job ended"):
        check_busy(page)
    page.get_by_role.return_value.first.is_visible.return_value = True
    check_busy(page)


def test_exact_examples_for_a_half_width():
    # At n = 25 a spread of 10 leaves t(24)·10/5.
    width = stats.t.ppf(0.975, 24) * 2
    needed = estimators.exact_examples_for(np.array([10.0, 20.0]), np.array([width, 2 * width]))
    assert needed == pytest.approx([25, 25])
