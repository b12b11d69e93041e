"""Overview and Heads as scripts: what they show for stored runs, and that they survive what can go wrong.

The runs are computed by the real library on the tiny model. What needs a browser is in tests/e2e.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.prompt_intervention import encode_prompt, read_prompt
from cap_viz.errors import CapVizError
from cap_viz.figures.theme import signed
from cap_viz.models.catalogue import CATALOGUE, DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.joint import judged, load_joint
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.queue import shared_queue
from cap_viz.runs.spec import EvalSpec, JointSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import PROJECT
from cap_viz.stats import mean_with_ci
from cap_viz.tasks import TASKS, Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set, examples_of
from tests.maps import SEEN, drawn, head_maps
from tests.words import bold_titles, numbers, saying

TIMEOUT = 60


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store in place of the project's, and a queue that writes into it."""
    monkeypatch.setattr("cap_viz.runs.store.shipped_folder", lambda: tmp_path / "shipped")
    shared_queue.cache_clear()
    yield Store()
    for job in shared_queue().listing():
        shared_queue().cancel(job)
    shared_queue.cache_clear()


@pytest.fixture
def scores(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> StoredRun:
    """Head scores of the tiny model on 8 examples."""
    return computed(store, tiny_model, ScoreSpec(model=tiny_model.ref, examples=calibration_set(tiny_task.name, 8)))


def computed(store: Store, model: ReasoningModel, spec: RunSpec) -> StoredRun:
    return finish(run_steps(spec, model, store))


def opened(page: str, **params: str | list[str]) -> AppTest:
    """A page by deep link, in a new session. Pages are found from app.py, which does not run."""
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=TIMEOUT)
    if page != "app.py":
        at.switch_page(page)
    for name, value in params.items():
        at.query_params[name] = value
    return at.run()


def opened_heads(run: StoredRun, **params: str | list[str]) -> AppTest:
    return opened("pages/heads.py", model=run.spec.model.id, task=run.spec.examples.task, **params)


def text(at: AppTest) -> str:
    """Everything readable on the page, in one string."""
    elements = [*at.markdown, *at.caption, *at.info, *at.warning, *at.error, *at.title]
    return "\n".join(str(element.value) for element in elements)


def test_overview_without_runs_says_how_to_start(store: Store) -> None:
    at = opened("app.py")
    assert not at.exception
    task = at.selectbox(key="task").value
    assert {f"overview_first_prune_{task}", f"overview_first_heads_{task}"} <= {button.key for button in at.button}


def test_overview_shows_accuracy_heads_and_pruning(store: Store, scores: StoredRun, tiny_model: ReasoningModel) -> None:
    evaluation = evaluation_set("tiny", 20)
    dense = computed(store, tiny_model, EvalSpec(model=tiny_model.ref, examples=evaluation))
    for criterion in ("cap", "wanda"):
        mask = mask_spec_for(tiny_model.ref, criterion, 0.5, task="tiny", n=8)
        computed(store, tiny_model, EvalSpec(model=tiny_model.ref, examples=evaluation, mask=mask))
    at = opened("app.py", model=tiny_model.ref.id, task="tiny")
    assert not at.exception
    assert f"{100 * load_report(store, dense).acc:.1f} %" in [metric.value for metric in at.metric]
    assert len(at.get("bidi_component")) == 1
    pruned = at.table[0].value
    assert list(pruned.columns) == ["50 %"]
    assert [name.split(" ", 1)[1] for name in pruned.index] == ["CAP", "Wanda", "Dense"]


def test_heads_says_in_a_sentence_what_was_measured(store: Store, scores: StoredRun) -> None:
    at = opened_heads(scores, layer="1", head="2")
    estimate = mean_with_ci(load_scores(store, scores).effects("nll"))
    assert not at.exception
    assert saying(at, "head 2", "layer 1", signed(float(estimate.mean[1, 2])))
    assert saying(at, f"Rank **{estimate.rank[1, 2]}**", str(estimate.rank.size))
    assert at.selectbox(key="run").value == "n8-seed0-zero"
    assert at.selectbox(key="run").options == ["8 examples, zeroed"]


def test_the_grid_holds_the_mean_effects(store: Store, scores: StoredRun) -> None:
    at = opened_heads(scores, metric="choice_nll")
    np.testing.assert_allclose(drawn(at), load_scores(store, scores).mean_effect("choice_nll"), atol=SEEN)


def test_unknown_names_in_the_url_get_a_note_and_a_fallback(store: Store, scores: StoredRun) -> None:
    at = opened("app.py", model="no-such-model", task="no_such_task")
    assert not at.exception
    assert "no-such-model" in text(at)
    assert "no\\_such\\_task" in text(at)


def test_a_head_out_of_range_gets_a_note(store: Store, scores: StoredRun) -> None:
    at = opened_heads(scores, layer="99", head="x")
    assert not at.exception
    assert "layer “99”" in text(at)
    assert "head “x”" in text(at)
    at.run()
    assert "layer “99”" in text(at)
    layer = at.number_input(key="layer").value
    at.number_input(key="layer").set_value(0 if layer else 1).run()
    assert "layer “99”" not in text(at)


def test_heads_opens_with_the_head_of_rank_one(store: Store, scores: StoredRun) -> None:
    mean = load_scores(store, scores).mean_effect("nll")
    layer, head = np.unravel_index(int(np.argmax(mean)), mean.shape)
    at = opened_heads(scores)
    assert saying(at, f"head {head}", f"layer {layer}")


def test_accuracy_is_shown_but_ranks_nothing(store: Store, scores: StoredRun) -> None:
    ranked: dict[str, bool] = {}
    charts: dict[str, int] = {}
    for metric in ("nll", "accuracy"):
        at = opened_heads(scores, metric=metric)
        assert not at.exception
        ranked[metric] = bool(saying(at, "Rank **1**"))
        assert (head_maps(at)[0]["rank"] is not None) == ranked[metric]
        charts[metric] = len(at.get("plotly_chart"))
    assert ranked == {"nll": True, "accuracy": False}
    assert charts["accuracy"] == charts["nll"] - 1, "the bars of the highest ranks"


def test_a_damaged_run_is_a_sentence_until_it_is_started_again(store: Store, scores: StoredRun) -> None:
    (scores.folder / "ablated.parquet").write_bytes(b"broken")
    at = opened_heads(scores)
    for _ in range(2):
        assert not at.exception
        (error,) = at.error
        assert "ablated.parquet" in error.value
        at.run()
    at.number_input(key="heads_n").set_value(8).run()
    at.button(key="heads_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.error
    store.verify(scores)


def test_without_the_texts_ids_are_shown(
    store: Store, scores: StoredRun, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "tiny", replace(tiny_task, is_local=lambda: False))
    at = opened_heads(scores)
    assert not at.exception
    assert saying(at, "CAP_VIZ_DATA", "Tiny")
    shown = at.selectbox(key="example").options
    assert all(any(name in one for one in shown) for name in scores.spec.examples.ids)
    assert "heads_start" not in [button.key for button in at.button]


def test_without_the_weights_the_page_says_how_to_get_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.models.catalogue.packaged_file", lambda entry: None)
    at = opened("pages/heads.py")
    assert not at.exception
    assert saying(at, CATALOGUE[DEFAULT_MODEL].install)
    assert "heads_start" not in [button.key for button in at.button]


def test_a_run_started_on_the_page_becomes_the_run_shown(store: Store, scores: StoredRun) -> None:
    at = opened_heads(scores)
    at.number_input(key="heads_n").set_value(2).run()
    at.button(key="heads_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert at.selectbox(key="run").value == "n2-seed0-zero"
    assert saying(at, "2 examples", "4")


def wait_for_jobs() -> None:
    end = time.monotonic() + TIMEOUT
    while any(job.active for job in shared_queue().listing()) and time.monotonic() < end:
        time.sleep(0.1)


def test_heads_together_against_their_sum_and_random_sets(
    store: Store, scores: StoredRun, tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    examples = evaluation_set(tiny_task.name, min(32, len(tiny_task.splits.evaluation)))
    spec = JointSpec(tiny_model.ref, examples, ((0, 1), (2, 3)))
    found = judged(spec, load_joint(store, computed(store, tiny_model, spec)), "nll")
    at = opened_heads(scores, together=["L2H3", "L0H1"])
    assert not at.exception
    (said,) = saying(at, "2 heads", signed(float(found.joint.mean)), signed(float(found.singles.mean)))
    assert {f"{found.p_value:.2g}", str(found.n_random)} <= numbers(said)


def test_heads_are_measured_together_from_the_page(store: Store, scores: StoredRun) -> None:
    at = opened_heads(scores, together=["L0H1", "L9H9"])
    assert saying(at, "L9H9")
    assert at.multiselect(key="together").value == ["L0H1"]
    at.button(key="together_2").click().run()
    assert len(at.multiselect(key="together").value) == 2
    # Dense, the two heads together, each alone, and 19 random sets.
    assert saying(at, f"{len(evaluation_set('tiny', 20).ids) * (1 + 1 + 2 + 19)} passes")
    at.button(key="together_start").click().run()
    wait_for_jobs()
    at.run()
    assert not at.exception
    assert "together_start" not in [button.key for button in at.button]
    (joint,) = [run for run in store.runs() if run.kind == "joint"]
    assert isinstance(joint.spec, JointSpec)
    found = judged(joint.spec, load_joint(store, joint), "nll")
    assert saying(at, "2 heads", signed(float(found.joint.mean)), f"{found.p_value:.2g}")


def test_the_shown_example_is_read_by_the_model(store: Store, scores: StoredRun, tiny_model: ReasoningModel) -> None:
    at = opened_heads(scores, layer="1", head="2", reading="true")
    assert not at.exception
    assert [title for title in bold_titles(at) if "head 2" in title and "layer 1" in title]
    # The most hurt example of that head, its tokens coloured by how much less expected they are without it.
    effects = load_scores(store, scores).effects("nll")[1, 2]
    example = examples_of(scores.spec.examples)[int(np.argmax(effects))]
    tokens = encode_prompt(tiny_model, example.prompt + example.options[example.gold])
    dense, without = (read_prompt(tiny_model, tokens, heads).token_logprobs for heads in ((), ((1, 2),)))
    change = without - dense
    pages = [str(getattr(element, "value", "")) for element in at.get("html")]
    (shown,) = [page for page in pages if "nats" in page]
    assert re.findall(r'title="([^"]*) nats"', shown) == [signed(float(one), 2) for one in change[1:]]


def test_a_failed_job_is_a_sentence(store: Store, scores: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object) -> None:
        raise CapVizError("The tiny model needs 99 GiB of memory, and 1 GiB is free.")

    monkeypatch.setattr("cap_viz.models.loading.load", refuse)
    at = opened_heads(scores)
    at.number_input(key="heads_n").set_value(3).run()
    at.button(key="heads_start").click().run()
    end = time.monotonic() + TIMEOUT
    while any(job.active for job in shared_queue().listing()) and time.monotonic() < end:
        time.sleep(0.1)
    at.run()
    assert not at.exception
    assert "needs 99 GiB of memory" in text(at)
    assert at.selectbox(key="run").value == "n8-seed0-zero"


def test_effects_of_an_unfinished_run_are_missing_where_nothing_arrived(store: Store, scores: StoredRun) -> None:
    whole = load_scores(store, scores)
    ablated = whole.ablated.copy()
    ablated[2:] = np.nan
    ablated[:, :, 5:] = np.nan
    for metric in ("nll", "choice_nll", "logit_diff", "accuracy"):
        effects = replace(whole, ablated=ablated).arrived_effects(metric)
        np.testing.assert_array_equal(effects[:2, :, :5], whole.effects(metric)[:2, :, :5])
        assert np.isnan(effects[2:]).all()
        assert np.isnan(effects[:, :, 5:]).all()


PAGE_SCRIPT = """
import sys
from streamlit.testing.v1 import AppTest
for page in sys.argv[1:]:
    at = AppTest.from_file("app.py", default_timeout=60)
    if page != "app.py":
        at.switch_page(page)
    at.run()
    assert not at.exception, at.exception
    print(page, at.title[0].value, sorted(set(sys.modules) & {"torch", "transformers", "transformer_lens"}))
"""
LIGHT_PAGES = {
    "app.py": "Overview",
    "pages/heads.py": "Heads",
    "pages/prune.py": "Prune",
    "pages/compare.py": "Compare",
}


@pytest.mark.slow
def test_pages_open_without_torch() -> None:
    """From the shipped runs, in a process of its own: importing torch would cost seconds before the first paint."""
    done = subprocess.run(
        [sys.executable, "-c", PAGE_SCRIPT, *LIGHT_PAGES],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines() == [f"{page} {title} []" for page, title in LIGHT_PAGES.items()]
