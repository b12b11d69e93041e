"""The Runs page: exports that hold the run's numbers, a notebook that reproduces them, import, delete, quarantine."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.results import options_table
from cap_viz.dashboard.names import run_words
from cap_viz.dashboard.runs.picked import files
from cap_viz.dashboard.runs.table import csv_of, result_of, table_of
from cap_viz.errors import UsageError
from cap_viz.figures.theme import signed
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.archive import archive_bytes, import_run
from cap_viz.runs.execute import run_steps
from cap_viz.runs.html_page import html_of
from cap_viz.runs.kinds import numbers_of
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.notebook import notebook_of
from cap_viz.runs.protocols import protocol_in, solution_spec
from cap_viz.runs.spec import EvalSpec, ProfileSpec, RunSpec, ScoreSpec, spec_key
from cap_viz.runs.store import Store, StoredRun
from cap_viz.settings import PROJECT
from cap_viz.stats import compare_paired, rank_agreement
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.words import bold_titles, numbers, saying

TASK = "mini_science"


def computed(store: Store, model: ReasoningModel, spec: RunSpec) -> StoredRun:
    return finish(run_steps(spec, model, store))


@pytest.fixture
def scores(store: Store, tiny_model: ReasoningModel) -> StoredRun:
    return computed(store, tiny_model, ScoreSpec(model=tiny_model.ref, examples=calibration_set(TASK, 4)))


@pytest.fixture
def dense(store: Store, tiny_model: ReasoningModel) -> StoredRun:
    return computed(store, tiny_model, EvalSpec(model=tiny_model.ref, examples=evaluation_set(TASK, 12)))


def opened(**params: str | list[str]) -> AppTest:
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    at.switch_page("pages/runs.py")
    for name, value in params.items():
        at.query_params[name] = value
    return at.run()


def words(at: AppTest) -> str:
    return "\n".join(str(element.value) for element in [*at.markdown, *at.caption, *at.info, *at.error])


def test_a_run_as_a_web_page_holds_figure_numbers_and_manifest(
    store: Store, scores: StoredRun, dense: StoredRun
) -> None:
    page = html_of(store, scores)
    numbers = numbers_of(store, scores)
    place = list(numbers.columns).index("mean_effect")
    shown = [float(row[place]) for row in table_rows(page)]
    assert_allclose(shown, numbers["mean_effect"], rtol=1e-5)
    assert "Plotly.newPlot" in page
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="?http', page), "it needs no network"
    assert scores.key in page
    plain = html_of(store, dense)
    assert "Plotly" not in plain
    assert len(table_rows(plain)) == 12


def table_rows(page: str) -> list[list[str]]:
    rows = re.findall(r"<tr>\s*(<td>.*?)</tr>", page, re.DOTALL)
    return [re.findall(r"<td>(.*?)</td>", row) for row in rows]


def test_a_web_page_shows_names_as_text(store: Store, tiny_model: ReasoningModel) -> None:
    """A model's id comes from outside: it must not become part of the page's code."""
    run = computed(store, tiny_model, EvalSpec(tiny_model.ref, evaluation_set(TASK, 2)))
    report = load_report(store, run)
    ref = ModelRef(id="<script>alert(1)</script>", fingerprint="0" * 16)
    spec = EvalSpec(ref, evaluation_set(TASK, 2))
    made = store.save(
        spec,
        {"options": options_table(report.questions, report.logliks)},
        run.provenance,
    )
    page = html_of(store, made)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_score_numbers_are_the_effects_of_every_metric(store: Store, scores: StoredRun) -> None:
    table = numbers_of(store, scores)
    for metric in ("nll", "choice_nll", "logit_diff", "accuracy"):
        part = table.loc[table["metric"] == metric, "mean_effect"]
        assert_allclose(part.to_numpy(), load_scores(store, scores).mean_effect(metric).ravel())
    assert set(table["n"]) == {4}


def test_evaluation_numbers_are_one_row_per_question(store: Store, dense: StoredRun) -> None:
    table, report = numbers_of(store, dense), load_report(store, dense)
    assert list(table["id"]) == list(report.questions.ids)
    assert_allclose(table["right"].to_numpy(), report.correct)
    assert_allclose(table[[f"loglik_{k}" for k in range(report.logliks.shape[1])]].to_numpy(), report.logliks)


def test_profile_numbers_are_the_stored_zeros(store: Store, tiny_model: ReasoningModel) -> None:
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.0, task=TASK, n=2)
    profile = computed(store, tiny_model, ProfileSpec(tiny_model.ref, calibration_set(TASK, 2), mask))
    assert numbers_of(store, profile).equals(store.table(profile, "zeros"))


def test_every_format_holds_the_same_numbers(store: Store, scores: StoredRun) -> None:
    table, saved = numbers_of(store, scores), {one.suffix: one.content() for one in files(store, scores)}
    assert isinstance(saved["parquet"], bytes)
    assert pd.read_parquet(io.BytesIO(saved["parquet"])).equals(table)
    assert_allclose(pd.DataFrame(json.loads(saved["json"]))["mean_effect"], table["mean_effect"], atol=1e-9)
    assert_allclose(pd.read_csv(io.StringIO(str(saved["csv"])))["mean_effect"], table["mean_effect"])


def program_of(content: bytes) -> str:
    cells = [cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells if "plotly" not in "".join(cell["source"]))


def run_notebooks(*contents: bytes) -> subprocess.CompletedProcess[str]:
    """Execute the code cells in order, as Jupyter would, one notebook after the other in a process of their own."""
    program = "\n".join(f"exec({program_of(content)!r}, {{}})" for content in contents)
    return subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_the_notebook_reproduces_the_numbers_of_a_shipped_run() -> None:
    store = Store()
    run = next(run for run in store.runs() if run.spec.examples.task == TASK and run.kind == "eval")
    done = run_notebooks(notebook_of(store, run))
    assert done.returncode == 0, done.stderr
    assert str(len(run.spec.examples.ids)) in numbers(done.stdout)


@pytest.mark.slow
def test_the_notebook_computes_what_is_not_stored_and_notices_other_numbers(
    store: Store, scores: StoredRun, tiny_model: ReasoningModel
) -> None:
    content = notebook_of(store, scores)
    stored = [cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
    assert spec_key(scores.spec) == scores.key
    mean = numbers_of(store, scores)["mean_effect"].mean()
    changed = content.replace(f'\\"mean_effect\\": {mean}'.encode(), b'\\"mean_effect\\": 7.5')
    assert changed != content
    shutil.rmtree(scores.folder)
    done = run_notebooks(content, changed)
    assert store.get(scores.spec) is not None
    assert len(done.stdout.splitlines()) == 1, "the first was true, the second ended before it said so"
    assert str(len(numbers_of(store, scores))) in numbers(done.stdout)
    assert "AssertionError" in done.stderr
    assert len(stored) == 4


def test_the_notebook_is_valid(store: Store, scores: StoredRun) -> None:
    nbformat.validate(nbformat.reads(notebook_of(store, scores).decode(), as_version=4))


def test_a_deleted_run_is_gone_and_a_shipped_one_stays(store: Store, scores: StoredRun, tmp_path: Path) -> None:
    store.delete(scores)
    assert store.get(scores.spec) is None
    assert list(store.local.iterdir()) == []
    shipped = next(iter(Store(shipped=PROJECT / "cache" / "shipped").runs()))
    with pytest.raises(UsageError, match=f"{shipped.title} came with"):
        store.delete(shipped)
    assert shipped.folder.is_dir()


def test_the_archive_of_a_run_can_be_imported_elsewhere(store: Store, scores: StoredRun, tmp_path: Path) -> None:
    file = tmp_path / "run.zip"
    file.write_bytes(archive_bytes(scores))
    elsewhere = Store(shipped=tmp_path / "none", local=tmp_path / "elsewhere")
    assert import_run(elsewhere, file).key == scores.key


def test_an_empty_store_says_how_to_start(store: Store) -> None:
    at = opened()
    assert not at.exception
    assert len(bold_titles(at)) == 1
    assert "python -m cap_viz runs export" in words(at)
    assert not at.dataframe


def test_filters_keep_what_they_say(store: Store, scores: StoredRun, dense: StoredRun) -> None:
    at = opened(kind="eval")
    assert not at.exception
    assert listed(at, [dense, scores]) == {dense.key}
    at = opened(kind="score")
    assert listed(at, [dense, scores]) == {scores.key}
    at.selectbox(key="kind").set_value("eval").run()
    assert at.query_params["kind"] == "eval"
    assert listed(at, [dense, scores]) == {dense.key}
    at = opened(kind="profile")
    assert not at.exception
    assert not at.dataframe


def listed(at: AppTest, runs: list[StoredRun]) -> set[str]:
    """Keys of those of the runs that are rows of the table."""
    rows = at.dataframe[0].value[["what", "n"]].itertuples(index=False, name=None)
    keys = {(run_words(run.spec), len(run.spec.examples.ids)): run.key for run in runs}
    return {keys[row] for row in rows}


def test_words_find_runs_by_task_criterion_model_and_key(
    store: Store, scores: StoredRun, dense: StoredRun, tiny_model: ReasoningModel
) -> None:
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.3, task=TASK, n=2)
    pruned = computed(store, tiny_model, EvalSpec(tiny_model.ref, dense.spec.examples, mask))
    wanted = {
        scores.key: {scores.key},
        "DENSE": {dense.key},
        f"{TASK} global magnitude 30": {pruned.key},
        "global_magnitude": {pruned.key},
        "mini science": {scores.key, dense.key, pruned.key},
    }
    for asked, keys in wanted.items():
        at = opened(find=asked)
        assert not at.exception
        assert listed(at, [scores, dense, pruned]) == keys
    assert not opened(find="no such run").dataframe


def test_the_table_holds_the_main_result_of_a_run(store: Store, scores: StoredRun, dense: StoredRun) -> None:
    table = opened().dataframe[0].value.set_index("what")
    assert numbers(table.loc[run_words(dense.spec), "result"]) == {f"{100 * load_report(store, dense).acc:.1f}"}
    mean = load_scores(store, scores).mean_effect("nll")
    layer, head = np.unravel_index(mean.argmax(), mean.shape)
    assert table.loc[run_words(scores.spec), "result"].split()[:2] == [f"L{layer}H{head}", signed(float(mean.max()), 2)]


def test_a_damaged_run_says_so_in_place_of_its_result(store: Store, dense: StoredRun) -> None:
    (dense.folder / "options.parquet").write_bytes(b"")
    assert list(opened().dataframe[0].value["result"]) == ["damaged"]


@pytest.mark.usefixtures("all_shipped")
def test_every_kind_of_run_has_a_result_or_none() -> None:
    store = Store()
    runs = {(run.kind, type(protocol_in(run.spec)), getattr(run.spec, "parts", None)): run for run in store.runs()}
    assert len(runs) > 5
    assert all(result_of(store, run) != "damaged" for run in runs.values())


def test_one_picked_run_shows_its_accuracy_and_how_it_was_made(store: Store, dense: StoredRun) -> None:
    at = opened(runs=dense.key)
    assert not at.exception
    assert at.metric[0].value == f"{100 * load_report(store, dense).acc:.1f} %"
    assert f"key {dense.key}" in words(at)


def test_two_evaluations_are_compared_question_by_question(
    store: Store, dense: StoredRun, tiny_model: ReasoningModel
) -> None:
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.9, task=TASK, n=2)
    pruned = computed(store, tiny_model, EvalSpec(tiny_model.ref, dense.spec.examples, mask))
    found = compare_paired(load_report(store, dense).correct, load_report(store, pruned).correct)
    at = opened(runs=[dense.key, pruned.key])
    assert not at.exception
    assert at.metric[1].value == f"{found.only_a} : {found.only_b}"


def test_losses_on_solutions_are_compared_text_by_text(store: Store, tiny_model: ReasoningModel) -> None:
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.9, task="mini_text", n=2)
    specs = [solution_spec(tiny_model.ref, evaluation_set("mini_text", 4), one) for one in (None, mask)]
    runs = [computed(store, tiny_model, spec) for spec in specs]
    dense, pruned = (load_report(store, run).losses("nll") for run in runs)
    at = opened(runs=[run.key for run in runs])
    assert not at.exception
    assert numbers(at.metric[1].value) == {f"{dense.mean():.3f}", f"{pruned.mean():.3f}"}
    assert numbers(opened(runs=[runs[0].key]).metric[0].value) == {f"{dense.mean():.3f}"}


def test_runs_of_different_kinds_are_not_compared(store: Store, scores: StoredRun, dense: StoredRun) -> None:
    at = opened(runs=[scores.key, dense.key])
    assert not at.exception
    assert len(bold_titles(at)) == 1
    assert not at.metric


@pytest.mark.usefixtures("all_shipped")
def test_two_shipped_score_runs_are_laid_over_each_other() -> None:
    runs = [
        run
        for run in Store().runs()
        if isinstance(run.spec, ScoreSpec) and run.spec.parts is None and run.spec.examples.task in (TASK, "arc_easy")
    ]
    at = opened(runs=[run.key for run in runs])
    assert not at.exception
    means = [load_scores(Store(), run).mean_effect("nll") for run in runs]
    correlation = rank_agreement(means[0], means[1], 1.0, 1.0).correlation
    assert saying(at, f"{correlation:.2f}", f"top {round(0.1 * means[0].size)}")


def test_verify_finds_a_flipped_byte_and_delete_asks_first(store: Store, dense: StoredRun) -> None:
    at = opened(runs=dense.key)
    at.button(key="runs_verify").click().run()
    assert ":green-badge[" in words(at)
    assert saying(at, f"{len(dense.digests)} tables")
    file = dense.folder / "options.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    at.button(key="runs_verify").click().run()
    assert ":green-badge[" not in words(at)
    assert [said for said in saying(at, "options.parquet") if ":red-badge[" in said]
    at.button(key="runs_delete").click().run()
    assert not at.exception
    assert [note.value for note in at.info if dense.title in note.value.replace("\\", "")]
    assert store.get(dense.spec) is None


def test_an_unknown_key_in_a_link_is_named(store: Store, dense: StoredRun) -> None:
    at = opened(runs="0123456789abcdef")
    assert not at.exception
    assert "0123456789abcdef" in words(at)


def test_damaged_runs_are_listed_with_their_reason_until_somebody_sets_them_aside(
    store: Store, dense: StoredRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dense.folder / "manifest.json").write_text("{")
    with monkeypatch.context() as shared:
        shared.setenv("CAP_VIZ_SERVER", "1")
        assert "runs_set_aside" not in {button.key for button in opened().button}
    at = opened()
    (reason,) = [str(damage) for damage in store.damaged_in_place().values()]
    assert dense.title in reason
    assert reason in words(at).replace("\\", "")
    assert dense.folder.is_dir(), "drawing a page moves nothing"
    at.button(key="runs_set_aside").click().run()
    assert not at.exception
    assert not dense.folder.exists()
    (reason,) = store.in_quarantine()
    assert dense.title in reason
    assert reason in words(at).replace("\\", "")
    assert "runs_set_aside" not in {button.key for button in at.button}


def test_the_table_has_plain_names_and_the_file_the_ids_too(
    store: Store, scores: StoredRun, dense: StoredRun, tiny_model: ReasoningModel
) -> None:
    mask = mask_spec_for(tiny_model.ref, "head", 0.3, task="mini_text", n=2)
    pruned = computed(store, tiny_model, EvalSpec(tiny_model.ref, dense.spec.examples, mask))
    runs = [scores, dense, pruned]
    table = table_of(runs, ["a"])
    assert list(table["task"]) == ["Mini science"] * 3
    assert list(table["what"])[:2] == ["Heads: 4 examples, zeroed", "Dense"]
    assert table["what"].tolist()[2] == "Whole heads at 30 % of heads, from Mini text"
    assert list(table["n"]) == [4, 12, 12]
    assert list(table["result"]) == ["a", "", ""]
    saved = pd.read_csv(io.StringIO(csv_of(store, runs))).set_index("key")
    assert list(saved.index) == [run.key for run in runs]
    assert saved["described"].to_dict()[pruned.key] == "head at 30%"
    assert saved["result"].to_dict()[dense.key] == result_of(store, dense)
    assert set(saved["task_id"]) == {TASK}
    assert np.all(saved["seconds"] >= 0)


def test_ticked_rows_and_picked_runs_are_one_choice_held_in_the_address(
    store: Store, scores: StoredRun, dense: StoredRun
) -> None:
    at = opened(runs=[scores.key, dense.key])
    rows = at.session_state["runs_table"]["selection"]["rows"]
    assert sorted(rows) == [0, 1]
    at.multiselect(key="runs").set_value([dense.key]).run()
    assert not at.exception
    assert at.query_params["runs"] == dense.key
    (row,) = at.session_state["runs_table"]["selection"]["rows"]
    assert at.dataframe[0].value["what"].tolist()[row] == run_words(dense.spec)
    # A run that the filters hide stays picked.
    at.selectbox(key="kind").set_value("score").run()
    assert at.session_state["runs_table"]["selection"]["rows"] == []
    assert at.multiselect(key="runs").value == [dense.key]


def test_several_runs_are_deleted_after_one_confirmation(
    store: Store, scores: StoredRun, dense: StoredRun, tiny_model: ReasoningModel, tmp_path: Path
) -> None:
    """Guards the bulk delete: only runs of this machine go, and what goes is named first."""
    shutil.copytree(scores.folder, tmp_path / "shipped" / scores.folder.name)
    shutil.rmtree(scores.folder)
    (shipped,) = [run for run in Store().runs() if run.origin == "precomputed"]
    other = computed(store, tiny_model, EvalSpec(tiny_model.ref, evaluation_set(TASK, 5)))
    at = opened(runs=[shipped.key, dense.key, other.key])
    assert not at.exception
    named = words(at).replace("\\", "")
    assert dense.title in named
    assert other.title in named
    assert saying(at, "2 runs", "1")
    assert store.get(dense.spec) is not None, "nothing is deleted by being picked"
    at.button(key="runs_delete").click().run()
    assert not at.exception
    assert {run.key for run in Store().runs()} == {shipped.key}
    assert at.query_params["runs"] == shipped.key
    assert saying(at, "2 runs")
