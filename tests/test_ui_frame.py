"""The frame: what redraws a page, and what the status line says."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.dashboard import selection
from cap_viz.dashboard.frame import (
    PAGES,
    SIZES,
    PageEntry,
    is_outdated,
    job_ends,
    queue_sentence,
    sizes_offered,
)
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, ModelRef
from cap_viz.runs.jobs import Job, PrunedWeights
from cap_viz.runs.run_queries import dense_sizes, measured_size, model_ref
from cap_viz.runs.spec import EvalSpec, MaskSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import PROJECT
from cap_viz.tasks.example_sets import ExampleSet
from cap_viz.tasks.readable import tasks_for
from tests.tiny import listed_run
from tests.words import numbers

MODEL = ModelRef("m", "0123456789abcdef")
EXAMPLES = ExampleSet("arc_easy", 1, ("a",), "evaluation")
EVALUATION, SCORE = EvalSpec(MODEL, EXAMPLES), ScoreSpec(MODEL, EXAMPLES)


def page(label: str) -> PageEntry:
    return next(entry for entry in PAGES if entry.label == label)


@pytest.mark.parametrize(
    ("label", "spec", "shown"),
    [
        ("Heads", SCORE, True),
        ("Heads", EVALUATION, False),
        ("Prune", EVALUATION, True),
        ("Prune", replace(EVALUATION, examples=replace(EXAMPLES, task="mini_science")), False),
        ("Compare", EVALUATION, True),
        ("Compare", replace(EVALUATION, model=replace(MODEL, id="other")), False),
        ("Runs", replace(EVALUATION, model=replace(MODEL, id="other")), True),
        ("Glossary", EVALUATION, False),
    ],
)
def test_a_page_is_redrawn_for_runs_it_shows(label: str, spec: RunSpec, shown: bool) -> None:
    """Guards: every visitor's whole page was drawn again when anyone's job changed its state."""
    assert page(label).shows(spec, MODEL.id, EXAMPLES.task) is shown


def test_weights_pruned_for_the_playground_concern_no_page() -> None:
    assert not any(entry.shows(PrunedWeights(MODEL, MaskSpec("wanda", 0.5)), MODEL.id, "") for entry in PAGES)


def test_a_job_redraws_when_it_comes_and_when_it_ends_but_not_when_it_starts() -> None:
    job = Job(1, SCORE, "scores")
    before = job_ends([])
    assert is_outdated(before, [job])
    queued = job_ends([job])
    job.enter("loading")
    job.enter("running")
    assert not is_outdated(queued, [job])
    job.enter("done")
    assert is_outdated(queued, [job])
    assert not is_outdated(job_ends([job]), [])


def test_the_status_line_counts_what_runs_and_waits() -> None:
    first, second, third = (Job(number, SCORE, f"job {number}") for number in range(3))
    assert queue_sentence([]) == "Queue: idle"
    assert queue_sentence([third]) == "Queue: 1 waiting"
    for job in (first, second):
        job.enter("loading")
    assert queue_sentence([first, second, third]) == "Queue: job 0, 0% and 1 more, 1 waiting"


def stored_evaluations(size: int, *masks: MaskSpec | None) -> list[StoredRun]:
    """Evaluations of these masks on the first `size` questions; None is the dense model."""
    examples = replace(EXAMPLES, ids=tuple(map(str, range(size))))
    return [listed_run(EvalSpec(MODEL, examples, mask)) for mask in masks]


def test_the_size_with_most_settings_comes_first_and_needs_dense_accuracy() -> None:
    wanda, magnitude = MaskSpec("wanda", 0.5), MaskSpec("magnitude", 0.5)
    small = stored_evaluations(20, None, wanda, magnitude)
    large = stored_evaluations(40, None, wanda)
    without_dense = stored_evaluations(60, wanda, magnitude, replace(wanda, sparsity=0.2))
    assert measured_size([], MODEL, "arc_easy") is None
    assert measured_size([*small, *large, *without_dense], MODEL, "arc_easy") == 20
    assert measured_size([*large, *stored_evaluations(20, None, wanda)], MODEL, "arc_easy") == 40
    assert measured_size(small, MODEL, "mini_science") is None


def test_offered_sizes_exist_for_the_task() -> None:
    assert sizes_offered({500, 600}, 628) == [100, 200, 300, 400, 500, 600, 628]
    assert sizes_offered(set(), 28) == [28]
    assert sizes_offered({150, 229}, None) == [100, 150, 200, 229]
    assert sizes_offered(set(), None) == list(SIZES)


def opened(page: str, **params: str) -> AppTest:
    """A page by deep link, in a new session."""
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    at.switch_page(page)
    for name, value in params.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def size_of(at: AppTest) -> int:
    return int(at.selectbox(key="n").value or 0)


@pytest.mark.usefixtures("all_shipped")
def test_a_link_without_a_size_opens_one_with_shipped_accuracies() -> None:
    """Guards: the toy model opened with 600 questions, on which nothing is stored."""
    store = Store()
    for model in (TOY_MODEL, DEFAULT_MODEL):
        at = opened("pages/prune.py", model=model)
        assert size_of(at) in dense_sizes(store.runs(), model_ref(store, model), tasks_for(model)[0])
        assert all("%" in tile.value for tile in at.metric[:3])


@pytest.mark.usefixtures("all_shipped")
def test_sizes_with_stored_accuracies_are_marked() -> None:
    store = Store()
    options = opened("pages/glossary.py", task="mini_science").selectbox(key="n").options
    marked = {int(number) for option in options if "stored" in option for number in numbers(option)}
    assert marked == dense_sizes(store.runs(), model_ref(store, DEFAULT_MODEL), "mini_science")
    assert 0 < len(marked) < len(options)


def test_a_size_of_a_link_is_kept_and_one_that_does_not_exist_is_said() -> None:
    at = opened("pages/glossary.py", task="mini_science", n="500")
    assert size_of(at) == 500
    assert not at.selectbox(key="task").set_value("mini_math").run().info
    at = opened("pages/glossary.py", task="mini_science", n="1000")
    assert size_of(at) <= 628
    (said,) = at.info
    assert {"1000", str(size_of(at))} <= numbers(said.value)


def test_a_size_belongs_to_its_model_and_task() -> None:
    at = opened("pages/glossary.py", model=TOY_MODEL)
    usual = size_of(at)
    at.selectbox(key="n").set_value("1000").run()
    assert size_of(at) == 1000 != usual
    at.selectbox(key="task").set_value("toy_choice").run()
    assert size_of(at) == usual
    at.selectbox(key="n").set_value("1000").run()
    at.button(key="other_model").click().run()
    assert size_of(at) == size_of(opened("pages/glossary.py"))


def test_back_wins_over_what_the_widgets_still_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of a second, quick Back named the former group, and the address became that one again."""
    at = opened("pages/glossary.py", group="Tasks")
    monkeypatch.setattr("cap_viz.dashboard.selection.is_back", lambda: True)
    at.query_params["group"] = "Metrics"
    at.segmented_control(key="group").set_value("Criteria").run()
    assert at.segmented_control(key="group").value == "Metrics"
    assert at.query_params["group"] == "Metrics"


@pytest.mark.parametrize(
    ("drawn_in", "ticking", "chosen"), [(None, ["a"], False), ("a", ["a"], True), (None, [], True)]
)
def test_the_tick_of_a_fragment_chooses_nothing_elsewhere(
    drawn_in: str | None, ticking: list[str], chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick right after a click on a cell named the former layer, and the address went back to that."""
    choices: list[object] = []
    monkeypatch.setattr(selection.st, "session_state", {"layer": 3})
    monkeypatch.setattr(selection, "choose", lambda changes, keep: choices.append(changes))
    context = SimpleNamespace(is_history_navigation=False, fragment_ids_this_run=ticking)
    monkeypatch.setattr(selection, "get_script_run_ctx", lambda: context)
    monkeypatch.setattr(selection.ThreadState, "get", lambda: SimpleNamespace(fragment_id=drawn_in))
    selection.take("layer", {}, None)
    assert choices == ([{"layer": 3}] if chosen else [])
