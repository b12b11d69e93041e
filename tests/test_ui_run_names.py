"""Selectors name runs: every stored run has its own name, the name chooses it, and it stays when others are stored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cap_viz.attribution.results import ABLATIONS
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.controls import sources
from cap_viz.dashboard.prune.controls import score_label, usable_scores
from cap_viz.dashboard.selection import Selection
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.jobs import Job
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.score_sources import ScoreSource, run_name, stored_sources, told_apart
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set
from tests.maps import SEEN, drawn
from tests.test_ui_estimators import heads_page
from tests.test_ui_pages import opened
from tests.test_ui_text import computed, store, wait_for_jobs
from tests.tiny import listed_run

__all__ = ["store"]

MODEL = ModelRef(id="m", fingerprint="f")
TASK = "toy_math"
METRICS = ("nll", "choice_nll")


def drawn_set(version: int, split: str, seed: int | None, n: int) -> ExampleSet:
    """Nested for growing n, as draws are: examples measured exactly are among those measured by gradient."""
    ids = tuple(f"{version}-{split}-{seed}-{i}" for i in range(n))
    return ExampleSet(TASK, version, ids, split, seed)


SEEDS = st.sampled_from((0, 1))
CALIBRATION = st.builds(drawn_set, st.sampled_from((1, 2)), st.just("calibration"), SEEDS, st.sampled_from((16, 24)))
CHOSEN = st.builds(drawn_set, st.just(1), st.sampled_from(("evaluation", "ids")), st.none(), st.sampled_from((16, 24)))


@st.composite
def score_specs(draw: st.DrawFn) -> ScoreSpec:
    ablation = draw(st.sampled_from(ABLATIONS))
    estimator = draw(st.sampled_from(("exact", "gradient")))
    return ScoreSpec(
        MODEL,
        draw(CALIBRATION | CHOSEN),
        estimator=estimator,
        ablation=ablation,
        metric=None if estimator == "exact" else draw(st.sampled_from(METRICS)),
        reference=None if ablation == "zero" else draw(st.none() | CALIBRATION),
        parts=draw(st.sampled_from((None, None, None, "blocks"))) if estimator == "exact" else None,
    )


def stored(specs: Sequence[ScoreSpec], n_shipped: int) -> list[StoredRun]:
    """One stored after the other; the first ones come with the project."""
    return [
        listed_run(
            spec,
            created=f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00Z",
            origin="precomputed" if minute < n_shipped else "live",
        )
        for minute, spec in enumerate(specs)
    ]


def frame_of(runs: list[StoredRun], *jobs: Job) -> Frame:
    """A frame without a page: what sources are read from."""
    selection = Selection(cast(Any, None))
    return Frame(Store(), runs, selection, MODEL, load_task(TASK), 1, jobs=jobs)


def shown(runs: Sequence[StoredRun]) -> list[ScoreSource]:
    newest_first = list(reversed(runs))
    frame = frame_of(newest_first)
    return sources(frame)


def names_of(runs: Sequence[StoredRun]) -> dict[tuple[str, ...], str]:
    """By the keys of what a name shows: of one run, or of the two that are combined."""
    parts = {
        source.name: [part for part in (source.run, source.gradient) if part is not None] for source in shown(runs)
    }
    return {tuple(part.key for part in found): name for name, found in parts.items()}


RUNS = st.builds(stored, st.lists(score_specs(), min_size=1, max_size=12, unique=True), st.integers(0, 4))


@given(RUNS)
def test_every_stored_run_of_heads_has_its_own_name_and_the_name_gives_it(runs: list[StoredRun]) -> None:
    """Guards against a run that another of the same name hides, on Heads and among Prune's head scores."""
    found = shown(runs)
    names = [source.name for source in found]
    assert len(set(names)) == len(names)
    alone = [source.run.key for source in found if source.run is not None and source.gradient is None]
    heads = [run.key for run in runs if isinstance(run.spec, ScoreSpec) and run.spec.parts is None]
    assert sorted(alone) == sorted(heads)
    usual = {source.name: run_name(source.spec) for source in found if source.gradient is None}
    assert all(name.startswith(start) for name, start in usual.items())
    frame = frame_of(runs)
    scores = usable_scores(frame)
    assert len({score_label(run) for run in scores}) == len(scores)


def test_a_run_whose_job_ends_while_a_page_is_drawn_stays_among_the_sources() -> None:
    """It was neither among the runs, read before, nor among the active jobs, and the page fell back to another run."""
    (run,) = stored([ScoreSpec(MODEL, ExampleSet(TASK, 1, ("a", "b"), "calibration", 0))], 0)
    job = Job(1, run.spec, "scores")
    frame = frame_of([], job)
    (running,) = sources(frame)
    job.result, job.state = run, "done"
    (ended,) = sources(frame)
    assert running.job is job
    assert (ended.run, ended.name) == (run, running.name)
    job.result, job.state = None, "cancelled"
    assert sources(frame) == []


@given(RUNS)
def test_a_name_stays_when_other_runs_are_stored(runs: list[StoredRun]) -> None:
    """Links hold names: what was there first keeps its own, and a run that is alone has the usual one."""
    before: dict[tuple[str, ...], str] = {}
    for n in range(1, len(runs) + 1):
        after = names_of(runs[:n])
        assert before.items() <= after.items()
        before = after
    for run in runs:
        assert isinstance(run.spec, ScoreSpec)
        if run.spec.parts is None:
            assert names_of([run]) == {(run.key,): run_name(run.spec)}


def test_the_usual_names_are_what_links_hold() -> None:
    task = replace(calibration_set(TASK, 48), version=1)
    exact = ScoreSpec(MODEL, task)
    gradient = replace(exact, examples=calibration_set(TASK, 64), estimator="gradient", metric="nll")
    names = ["n48-seed0-zero", "n48of64-seed0-zero-hybrid-nll", "n64-seed0-zero-gradient-nll"]
    assert [source.name for source in shown(stored([exact, gradient], 0))] == names


def test_what_comes_with_the_project_keeps_its_name_whatever_is_stored() -> None:
    """Guards against a local run of the task's former version that takes over a shipped run's links."""
    exact = ScoreSpec(MODEL, calibration_set(TASK, 48))
    former = replace(exact, examples=replace(exact.examples, version=0))
    older, shipped = (
        replace(run, origin=origin)
        for run, origin in zip(stored([former, exact], 0), ("live", "precomputed"), strict=True)
    )
    assert names_of([older, shipped])[(shipped.key,)] == "n48-seed0-zero"


def referring(model: ReasoningModel, seed: int) -> ScoreSpec:
    examples, reference = calibration_set("mini_science", 3), calibration_set("mini_science", 4, seed)
    return ScoreSpec(model.ref, examples, ablation="mean", reference=reference)


def test_runs_with_other_reference_examples_are_both_shown(store: Store, tiny_model: ReasoningModel) -> None:
    """Both were called n3-seed0-mean-ref4, and the page showed one of them whatever was chosen."""
    runs = [computed(store, tiny_model, referring(tiny_model, seed)) for seed in (0, 1)]
    effects = [load_scores(store, run).mean_effect("nll") for run in runs]
    assert np.abs(effects[0] - effects[1]).max() > 1e-3
    titles = heads_page(runs[0]).selectbox(key="run").options
    assert len(set(titles)) == 2
    names = [one.name for one in told_apart(stored_sources(runs[::-1], tiny_model.ref, "mini_science"))]
    assert "n3-seed0-mean-ref4" in names
    values = [drawn(heads_page(runs[0], run=name)) for name in names]
    found = [[np.allclose(value, effect, atol=SEEN) for effect in effects] for value in values]
    assert sorted(found) == [[False, True], [True, False]]
    for run, effect in zip(runs, effects, strict=True):
        at = opened("pages/runs.py", runs=run.key)
        at.button(key="runs_open").click().run()
        assert not at.exception
        np.testing.assert_allclose(drawn(at), effect, atol=SEEN)


def test_a_run_started_on_the_page_is_shown_though_another_has_its_name(
    store: Store, tiny_model: ReasoningModel
) -> None:
    former = ScoreSpec(tiny_model.ref, replace(calibration_set("mini_science", 2), ids=("x", "y")))
    made = computed(store, tiny_model, ScoreSpec(tiny_model.ref, calibration_set("mini_science", 3)))
    tables = {name: store.table(made, name) for name in ("options", "ablated")}
    store.save(former, tables, made.provenance)
    at = heads_page(made)
    at.session_state["heads_new_run"] = True
    at.run()
    at.number_input(key="heads_n").set_value(2).run()
    at.button(key="heads_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert re.fullmatch(r"n2-seed0-zero-[0-9a-f]{8}", str(at.selectbox(key="run").value))
    run = store.get(ScoreSpec(tiny_model.ref, calibration_set("mini_science", 2)))
    assert run is not None
    np.testing.assert_allclose(drawn(at), load_scores(store, run).mean_effect("nll"), atol=SEEN)
