"""The frame: what redraws a page, and what the status line says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cap_viz.dashboard.frame import PAGES, PageEntry, is_outdated, job_ends, queue_sentence
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.jobs import Job, PrunedWeights
from cap_viz.runs.spec import EvalSpec, MaskSpec, RunSpec, ScoreSpec
from cap_viz.tasks.example_sets import ExampleSet

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
