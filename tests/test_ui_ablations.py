"""What is said of a head follows from the run's ablation, on every page and in every file made from the run.

Until now resample ablation was called "its mean", and estimates and files always said that heads were removed.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.results import ABLATIONS
from cap_viz.dashboard.names import ABLATION_NAMES
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.html_page import html_of
from cap_viz.runs.notebook import notebook_of
from cap_viz.runs.run_labels import ABLATION_WORDS, ablation_words
from cap_viz.runs.run_queries import block_spec
from cap_viz.runs.spec import JointSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks.example_sets import evaluation_set
from tests.maps import head_maps
from tests.shell import Shell
from tests.test_ui_pages import opened, opened_heads, text
from tests.test_ui_text import computed, score_spec, store
from tests.words import saying

__all__ = ["store"]

BY_ZERO = re.compile(r"\bremov(ed|ing)\b", re.IGNORECASE)


def said(at: AppTest) -> str:
    """Everything readable on the page, in its figures and in place of them."""
    charts = [chart.proto for chart in (*at.get("plotly_chart"), *at.get("html"))]
    charts += [head_map["ends"] + [head_map["label"]] for head_map in head_maps(at)]
    return "\n".join([text(at), *(table.proto.columns for table in at.dataframe), *map(str, charts)])


def belongs(words: str, ablation: str) -> bool:
    """Whether the words name this ablation and no other."""
    named = {
        "zero": bool(BY_ZERO.search(words)),
        **{name: ABLATION_WORDS[name].by in words for name in ("mean", "resample")},
    }
    return [name for name, found in named.items() if found] == [ablation]


def run_of(store: Store, model: ReasoningModel, ablation: str, estimator: str = "exact", n: int = 8) -> StoredRun:
    spec = score_spec(model, "mini_science", n, ablation)
    if estimator == "gradient":
        spec = replace(spec, estimator="gradient", metric="nll")
    return computed(store, model, spec)


def test_each_ablation_has_words_of_its_own_and_several_have_common_ones(tiny_model: ReasoningModel) -> None:
    specs = [score_spec(tiny_model, "mini_science", 4, ablation) for ablation in ABLATIONS]
    words = [ablation_words(spec) for spec in specs]
    assert len({(one.doing, one.by) for one in words}) == len(ABLATIONS)
    assert ablation_words(specs[1], specs[1]) == words[1]
    assert ablation_words(*specs) not in words
    assert ablation_words(JointSpec(tiny_model.ref, specs[0].examples, ((0, 0),), ablation="mean")) == words[1]


@pytest.mark.parametrize("estimator", ["exact", "gradient"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_heads_page_says_what_was_done(
    store: Store, tiny_model: ReasoningModel, ablation: str, estimator: str
) -> None:
    run = run_of(store, tiny_model, ablation, estimator)
    at = opened_heads(run, layer="1", head="2")
    assert not at.exception
    words = ablation_words(run.spec)
    assert [one for one in saying(at, words.doing.capitalize(), "head 2", "layer 1") if words.by in one]
    assert belongs(said(at), ablation)
    assert tuple(head_maps(at)[0]["ends"]) == words.ends


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_text_and_heads_together_are_described_alike(store: Store, tiny_model: ReasoningModel, ablation: str) -> None:
    run = computed(store, tiny_model, score_spec(tiny_model, "mini_text", 6, ablation))
    assert belongs(said(opened_heads(run)), ablation)
    assert isinstance(run.spec, ScoreSpec)
    reference = None if ablation == "zero" else run.spec.examples
    heads = ((0, 1), (2, 3))
    held_out = evaluation_set("mini_text", 32)
    computed(store, tiny_model, JointSpec(tiny_model.ref, held_out, heads, ablation=ablation, reference=reference))
    at = opened_heads(run, together=["L0H1", "L2H3"])
    assert not at.exception
    words = ablation_words(run.spec)
    assert [one for one in saying(at, "2 heads", words.done) if words.each in one]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_overview_and_runs_follow_the_run_they_show(store: Store, tiny_model: ReasoningModel, ablation: str) -> None:
    run = run_of(store, tiny_model, ablation)
    at = opened("app.py", model=run.spec.model.id, task="mini_science")
    assert not at.exception
    assert belongs(said(at), ablation)
    assert f"{ablation} ablation" in text(at)
    at = opened("pages/runs.py", model=run.spec.model.id, task="mini_science", runs=[run.key])
    assert not at.exception
    assert ABLATION_NAMES[ablation] in at.dataframe[0].value["what"].tolist()[0]


# By resampling the heads of a random model differ too little to be compared between tasks.
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_the_tasks_page_follows_its_runs(store: Store, tiny_model: ReasoningModel, ablation: str) -> None:
    run = run_of(store, tiny_model, ablation, n=24)
    computed(store, tiny_model, score_spec(tiny_model, "mini_text", 8, ablation))
    at = opened("pages/tasks.py", model=run.spec.model.id, task="mini_science")
    assert not at.exception
    assert belongs(said(at), ablation)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_files_made_from_a_run_say_what_was_done(store: Store, tiny_model: ReasoningModel, ablation: str) -> None:
    run = run_of(store, tiny_model, ablation)
    assert isinstance(run.spec, ScoreSpec)
    page = html_of(store, run)
    assert belongs(page[page.index("<h2>Effect") : page.index("</h2>")], ablation)
    blocks = computed(store, tiny_model, block_spec(run.spec))
    for one in (run, blocks):
        assert belongs(notebook_of(store, one).decode(), ablation)


@pytest.mark.parametrize("parts", ["heads", "blocks"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_shell_says_what_was_done(shell: Shell, tiny: tuple[str, ...], ablation: str, parts: str) -> None:
    code, out, _ = shell("score", *tiny, "--n", "4", "--ablation", ablation, "--parts", parts)
    assert code == 0
    assert belongs(out, ablation)
