"""Overview: the chosen task leads, the best criterion is the best of all stored ones, and none where all is chance."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cap_viz.dashboard.components.panels import origin_words
from cap_viz.dashboard.frame import Frame, measured_size
from cap_viz.dashboard.overview.data import TaskSummary, accuracy_points, best_sentence, summarise, usual_group
from cap_viz.dashboard.stored import report_of, stored_runs
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.run_queries import model_ref
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set
from tests.test_ui_pages import computed, opened, scores, store, text
from tests.tiny import listed_run
from tests.words import numbers, saying

__all__ = ["scores", "store"]

# A hover box may use less than half of a figure that is 300 pixels wide.
LONGEST_HOVER_LINE = 22


def summary_of(model_id: str, task_name: str) -> tuple[Frame, TaskSummary]:
    """The shipped results of a task on its usual size."""
    shipped, task = Store(), load_task(task_name)
    runs, model = stored_runs(shipped), model_ref(shipped, model_id)
    n = measured_size(runs, model, task_name)
    assert n is not None
    view = Frame(shipped, runs, model, task, n, installed=False, install_hint="")
    return view, summarise(view, task, "nll")


@pytest.mark.usefixtures("all_shipped")
def test_the_best_criterion_is_the_best_of_all_at_that_sparsity() -> None:
    """Guards: it was the best of the four in the figure; whole heads, with few of the weights removed, are left out."""
    view, summary = summary_of(TOY_MODEL, "toy_math")
    assert summary.dense_run is not None
    group = usual_group(view, summary.dense_run)
    for best in summary.best:
        stored = {
            criterion: report_of(view.store, run).acc
            for (criterion, sparsity), run in group.items()
            if sparsity == best.sparsity and criterion != "head"
        }
        assert best.accuracy == max(stored.values())
        assert best.n_criteria == len(stored) > len({item.mask.criterion for item in summary.pruned})
        assert {str(best.n_criteria), f"{100 * best.accuracy:.1f}"} <= numbers(best_sentence(best))
    assert [best.sparsity for best in summary.best] == sorted({item.mask.sparsity for item in summary.pruned})


@pytest.mark.usefixtures("all_shipped")
@pytest.mark.parametrize("task", ["strategyqa", "arc_challenge"])
def test_nothing_is_best_where_the_dense_model_guesses(task: str) -> None:
    _, summary = summary_of(DEFAULT_MODEL, task)
    assert summary.dense is not None
    assert not summary.dense.clearly_above
    assert summary.pruned
    assert not summary.best


@pytest.mark.usefixtures("all_shipped")
def test_hover_boxes_are_narrow() -> None:
    _, summary = summary_of(DEFAULT_MODEL, "mini_science")
    points = accuracy_points(summary.pruned)
    lines = [line for point in points for line in re.sub("</?b>", "", point.hover).split("<br>")]
    assert max(map(len, lines)) <= LONGEST_HOVER_LINE


def test_the_chosen_task_leads_though_nothing_is_stored_for_it(store: Store, scores: StoredRun) -> None:
    """Guards: results of another task were shown, and the chosen one nowhere."""
    at = opened("app.py", model=scores.spec.model.id, task="mini_strategy")
    assert not at.exception
    shown = text(at)
    assert shown.index(f"#### {load_task('mini_strategy').title}") < shown.index("**Tiny**")
    first = {str(button.key) for button in at.button if str(button.key).startswith("overview_first_")}
    assert first == {"overview_first_prune_mini_strategy", "overview_first_heads_mini_strategy"}
    assert saying(at, f"{len(load_task('mini_strategy').evaluation(None))} questions")
    # Timed by the run of the other task.
    assert [one for one in saying(at, "16 examples") if re.search(r"\d+ (s|min)$", one)]


def test_a_run_taken_from_a_longer_one_has_its_origin() -> None:
    """Guards: "live" stood beside numbers cut from a shipped run."""
    ids = tuple(map(str, range(6)))
    model, examples = ModelRef("m", "0123456789abcdef"), ExampleSet("arc_easy", 1, ids, "evaluation")
    longer = listed_run(EvalSpec(model, examples), key="longer", origin="precomputed")
    taken = listed_run(EvalSpec(model, replace(examples, ids=ids[:2])), taken_from="longer", taken_of=6)
    assert origin_words(longer, [longer, taken]) == "precomputed"
    assert origin_words(taken, [longer, taken]).startswith("precomputed")
    assert numbers(origin_words(taken, [longer, taken])) == {"2", "6"}
    assert origin_words(taken, [taken]) == "live"


def test_head_scores_by_gradient_are_shown(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> None:
    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", 8), estimator="gradient", metric="nll")
    computed(store, tiny_model, spec)
    at = opened("app.py", model=tiny_model.ref.id, task="tiny")
    assert not at.exception
    assert len(at.get("plotly_chart")) == 1
    assert "gradient" in text(at)
    assert "overview_first_prune_tiny" in [button.key for button in at.button]
    assert "overview_first_heads_tiny" not in [button.key for button in at.button]
