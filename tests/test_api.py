"""The Python interface: results show, tabulate, draw and save themselves; sweeps, examples, hooks, runs."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from pandas.testing import assert_frame_equal

import cap_viz as cv
from cap_viz.attribution.effect_metrics import METRICS, MetricName
from cap_viz.attribution.estimators import ESTIMATORS, Estimator
from cap_viz.attribution.forward.patching import set_hooks
from cap_viz.attribution.path_scores import PATH_PARTS, PathPart
from cap_viz.attribution.result_base import FORMAT_VERSION, HEADER, Result
from cap_viz.attribution.results import ABLATIONS, Ablation
from cap_viz.attribution.specification_curve import Specification, SpecificationCurve
from cap_viz.errors import CapVizError, UsageError
from cap_viz.evaluation.comparison import COMPARED, MeasureName
from cap_viz.evaluation.contrasts import DENSE
from cap_viz.evaluation.generation import FORMATS, PromptFormat
from cap_viz.evaluation.saved import SAVED
from cap_viz.models.loading import ReasoningModel
from cap_viz.pruning import CRITERIA, CriterionName
from cap_viz.pruning.mask import SCOPES, Scope
from cap_viz.pruning.options import KV_COMBINES, KvCombine
from cap_viz.runs.store import Store
from cap_viz.stats import compare_paired, holm, mean_with_ci
from cap_viz.tasks import Splits, Task
from cap_viz.tasks.writing import Writing
from tests.tiny import tiny_examples

SENTENCE = re.compile(r"[^\n]+[.)]$")
ROWS = [
    {"question": "what is ice ?", "options": ["water", "rock"], "gold": 0},
    {"question": "what is wood ?", "options": ["metal", "plant", "gas"], "gold": 1},
]


@pytest.fixture(scope="module")
def model(tiny_model: ReasoningModel) -> ReasoningModel:
    return tiny_model


@pytest.fixture(scope="module")
def results(tiny_model: ReasoningModel) -> dict[str, Result]:
    """One result of every kind, and an evaluation of texts, on the tiny model."""
    model, examples = tiny_model, tiny_examples(20)
    texts = [cv.Example(id=one.id, question="", prompt=one.prompt, options=one.options[:1], gold=0) for one in examples]
    scores = cv.score_heads(model, examples, progress=False)
    mask = cv.prune_mask(model, "sparsegpt", sparsity=0.4, calibration=examples[:4], progress=False)
    direct = cv.direct_effects(model, examples, progress=False)
    pruned, dense = (cv.evaluate(model, examples, mask=one, progress=False) for one in (mask, None))
    written = written_task(examples)
    return {
        "HeadScores": scores,
        "GradientEffects": cv.score_heads(model, examples, estimator="gradient", progress=False),
        "HybridScores": cv.score_heads(model, examples, estimator="hybrid", progress=False),
        "BlockScores": cv.score_blocks(model, examples[:4], progress=False),
        "DirectScores": direct,
        "EffectChanges": cv.effect_changes(scores, cv.score_heads(model, examples, mask=mask, progress=False)),
        "EffectSplit": cv.split_effects(scores, direct),
        "JointScores": cv.joint_effects(
            model,
            examples[:6],
            [[(0, 1), (2, 3)], [(1, 0)], [(0, head) for head in range(4)] + [(1, 2)]],
            progress=False,
        ),
        "PairScores": cv.pair_effects(model, examples[:6], [(0, 1), (2, 3), (1, 0)], progress=False),
        "SpecificationCurve": SpecificationCurve.of(
            {
                Specification(metric, "zero", 0, len(examples), "exact"): scores.estimated(metric)
                for metric in ("nll", "accuracy")
            }
        ),
        "PathScores": cv.path_effects(model, examples[:4], scores=scores, k=4, parts=("all", "q"), progress=False),
        "PositionEffects": cv.span_effects(model, examples, metric="choice_nll", progress=False),
        "RemovalCurve": cv.removal_curve(model, examples[:4], scores, draws=2, progress=False),
        "Mask": mask,
        "EvalReport": dense,
        "texts": cv.evaluate(model, texts, progress=False),
        "EvalComparison": cv.compare(pruned, dense),
        "losses": cv.compare(pruned, dense, measure="choice_nll"),
        "GenerationReport": cv.generate(model, written, written.evaluation(5), progress=False),
        "SweepResult": cv.sweep(
            model, task_of(examples), ["cap", "wanda", "head"], [0.2, 0.6], n_calibration=4, progress=False
        ),
    }


def written_task(examples: tuple[cv.Example, ...]) -> Task:
    """A task with answers to write out: the first sun or moon in the text."""
    found = re.compile(r"(sun|moon)")
    writing = Writing(
        instruction="answer", strict=found, flexible=found, normal=str.upper, stops=(), max_tokens=8, shots=1
    )
    solved = tuple(replace(one, solution=" the sun") for one in examples)
    return replace(task_of(solved), writing=writing)


def task_of(examples: tuple[cv.Example, ...]) -> Task:
    return Task(
        name="own",
        title="Own",
        summary="",
        version=3,
        source="tests",
        licence="",
        prompt_format="",
        load=lambda: Splits(calibration=examples[:6], evaluation=examples[6:]),
    )


KINDS = [*SAVED, "texts", "losses"]


def refused(error: pytest.ExceptionInfo[CapVizError], *words: object) -> None:
    """One sentence, which names what was wrong."""
    text = str(error.value)
    assert SENTENCE.fullmatch(text), text
    assert [word for word in map(str, words) if word not in text] == []


# Names ---------------------------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_stays() -> None:
    assert sorted(cv.__all__) == sorted(["__version__", *cv.HOMES])
    for name in cv.__all__:
        assert getattr(cv, name) is not None
        assert name in dir(cv)
    # A submodule of this name is bound in the package once it is imported.
    importlib.import_module("cap_viz.runs.store")
    assert callable(cv.runs)
    with pytest.raises(AttributeError, match="no_such"):
        cv.no_such  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("names", "registry"),
    [
        (MetricName, METRICS),
        (CriterionName, CRITERIA),
        (Estimator, ESTIMATORS),
        (Ablation, ABLATIONS),
        (PathPart, PATH_PARTS),
        (KvCombine, KV_COMBINES),
        (Scope, SCOPES),
        (MeasureName, COMPARED),
        (PromptFormat, FORMATS),
    ],
)
def test_literal_types_are_the_registries(names: object, registry: Any) -> None:
    assert list(get_args(names)) == list(registry)


def test_every_kind_of_result_can_be_read() -> None:
    exported = {getattr(cv, name) for name in cv.__all__ if isinstance(getattr(cv, name), type)}
    assert {kind for kind in exported if issubclass(kind, Result)} == set(SAVED.values())


# Results -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_short_and_shows_a_small_table(kind: str, results: dict[str, Result]) -> None:
    text, html = repr(results[kind]), results[kind]._repr_html_()
    assert text.startswith(type(results[kind]).__name__)
    assert len(text) <= 200
    assert "\n" not in text
    assert "<table" in html
    assert "<script" not in html
    assert len(html) < 6_000


def test_a_long_headline_is_cut(results: dict[str, Result]) -> None:
    swept = results["SweepResult"]
    assert isinstance(swept, cv.SweepResult)
    long = repr(type(swept)(**{**vars(swept), "model": "folder/" * 100}))
    assert len(long) <= 200
    assert long.endswith("…)")


def test_a_headline_in_a_notebook_is_no_markup(results: dict[str, Result]) -> None:
    swept = results["SweepResult"]
    assert isinstance(swept, cv.SweepResult)
    html = type(swept)(**{**vars(swept), "model": "<script>alert(1)</script>"})._repr_html_()
    assert "<script" not in html


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_documented(kind: str, results: dict[str, Result]) -> None:
    table, described = results[kind].to_pandas(), type(results[kind]).to_pandas.__doc__ or ""
    assert len(table) > 0
    names = [name for name in table.columns if not re.fullmatch(r"loglik_[1-9]|.+_reference(_\w+)?", name)]
    assert [name for name in names if not re.search(rf"\b{name}\b", described)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_draws_itself(kind: str, results: dict[str, Result]) -> None:
    figure = results[kind].plot()
    assert isinstance(figure, go.Figure)
    assert len(figure.to_dict()["data"]) > 0
    assert figure.layout.height > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_saved_and_read_back(kind: str, results: dict[str, Result], tmp_path: Path) -> None:
    result = results[kind]
    again = cv.load(result.save(tmp_path / "folder" / "result.any"))
    assert type(again) is type(result)
    assert repr(again) == repr(result)
    assert_frame_equal(again.to_pandas(), result.to_pandas())
    before, after = result.to_tables(), again.to_tables()
    assert before.keys() == after.keys()
    for name, table in before.items():
        assert_frame_equal(after[name], table, check_dtype=True)


def test_a_mask_is_read_back_bit_by_bit(results: dict[str, Result], model: ReasoningModel, tmp_path: Path) -> None:
    mask = results["Mask"]
    assert isinstance(mask, cv.Mask)
    assert mask.updated
    again = cv.load(mask.save(tmp_path / "mask"))
    assert isinstance(again, cv.Mask)
    assert again.digest == mask.digest
    assert all(torch.equal(again.updated[name], mask.updated[name]) for name in mask.updated)
    examples = tiny_examples(6)
    first, second = (cv.evaluate(model, examples, mask=one, progress=False) for one in (mask, again))
    assert np.array_equal(first.logliks, second.logliks, equal_nan=True)


def test_what_the_tables_lack_is_kept(tiny_task: Task, model: ReasoningModel, tmp_path: Path) -> None:
    """Without the task, a saved report could not be paired with a new one."""
    report = cv.evaluate(model, tiny_task.evaluation(6), progress=False)
    again = cv.load(report.save(tmp_path / "report"))
    assert isinstance(again, cv.EvalReport)
    assert again.tasks == (tiny_task.as_version,)
    assert cv.compare(report, again).difference == 0


def test_effects_are_tabulated_as_they_are_averaged(results: dict[str, Result]) -> None:
    scores = results["HeadScores"]
    assert isinstance(scores, cv.HeadScores)
    table = scores.to_pandas()
    assert len(table) == 4 * 3 * 4
    one = table.query("metric == 'choice_nll' and layer == 2 and head == 1").iloc[0]
    effects = scores.effects("choice_nll")[2, 1]
    estimate = mean_with_ci(effects)
    assert one["mean_effect"] == pytest.approx(effects.mean())
    assert one["ci_low"] == pytest.approx(float(estimate.low))
    assert one["p_value"] == pytest.approx(float(estimate.p_value))
    assert one["n"] == 20


def test_texts_have_a_loss_and_no_accuracy(results: dict[str, Result]) -> None:
    table = results["texts"].to_pandas()
    assert list(table.columns) == ["id", "tokens", "loglik", "nll"]
    assert np.allclose(table["nll"], -table["loglik"] / table["tokens"])
    assert "accuracy" not in repr(results["texts"])


def test_figures_say_what_they_need(results: dict[str, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cap_viz.figures.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("plotly", "plotly.graph_objects"):
        monkeypatch.setitem(sys.modules, name, None)
    for result in results.values():
        with pytest.raises(CapVizError) as error:
            result.plot()
        refused(error, "Plotly", "pip install plotly")


# Files that are no results -------------------------------------------------------------------------------------------


@pytest.fixture
def saved(results: dict[str, Result], tmp_path: Path) -> Path:
    return results["GradientEffects"].save(tmp_path / "effects.capviz")


def rewritten(file: Path, changes: dict[str, Any], leave_out: tuple[str, ...] = ()) -> Path:
    """The same file with changes in its header, or without some of its parts."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist() if name not in leave_out}
    if HEADER in parts:
        parts[HEADER] = json.dumps(json.loads(parts[HEADER]) | changes).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file


def test_a_file_holds_parquet_and_json_only(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        header = json.loads(archive.read(HEADER))
        assert sorted(archive.namelist()) == ["effects.parquet", "options.parquet", HEADER]
    assert (header["kind"], header["version"], header["facts"]["metric"]) == ("GradientEffects", FORMAT_VERSION, "nll")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2, "new": 1}, ["version 2", "version 1"]),
        ({"kind": "Circuit"}, ["Circuit", "HeadScores"]),
        ({"format": "other"}, ["no result"]),
        ({"facts": {"tasks": []}}, ["damaged"]),
        ({"facts": {"tasks": [], "metric": 3}}, ["damaged"]),
        ({"kind": "HeadScores"}, ["damaged"]),
        ({"tables": ["options", "../options"]}, ["damaged"]),
    ],
)
def test_a_result_of_another_version_is_named(saved: Path, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        cv.load(rewritten(saved, changes))
    refused(error, saved, *words)


@pytest.mark.parametrize("part", [HEADER, "effects.parquet"])
def test_a_result_without_a_part_is_named(saved: Path, part: str) -> None:
    with pytest.raises(UsageError) as error:
        cv.load(rewritten(saved, {}, leave_out=(part,)))
    refused(error, saved)


def test_files_of_others_are_named(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("text", encoding="utf-8")
    for file in (other, tmp_path / "none", tmp_path):
        with pytest.raises(UsageError) as error:
            cv.load(file)
        refused(error, file)


def test_a_place_that_cannot_be_written_is_named(results: dict[str, Result], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CapVizError) as error:
        results["EvalReport"].save(tmp_path / "file" / "result")
    refused(error, tmp_path / "file" / "result")


# Comparisons and sweeps ----------------------------------------------------------------------------------------------


def test_a_comparison_of_other_items_is_refused(model: ReasoningModel) -> None:
    first, second = (cv.evaluate(model, tiny_examples(n), progress=False) for n in (4, 5))
    with pytest.raises(UsageError) as error:
        cv.compare(first, second)
    refused(error, "4 items", "5 items")
    with pytest.raises(UsageError) as error:
        cv.compare(first, first, measure="f1")  # pyright: ignore[reportArgumentType]
    refused(error, "f1", "acc_norm")


def test_a_sweep_is_masks_evaluated_one_by_one(tiny_task: Task, model: ReasoningModel) -> None:
    swept = cv.sweep(model, tiny_task, ["cap", "wanda", "magnitude"], [0.2, 0.6], 12, n_calibration=5, progress=False)
    calibration, questions = tiny_task.calibration(5), tiny_task.evaluation(12)
    scores = cv.score_heads(model, calibration, progress=False)
    for (name, sparsity), report, reached in zip(swept.cells, swept.reports, swept.reached, strict=True):
        mask = None
        if name != "dense":
            inputs = {"scores": scores, "calibration": calibration}
            mask = cv.prune_mask(model, name, sparsity=sparsity, progress=False, **inputs)
            assert reached == mask.reached
        alone = cv.evaluate(model, questions, mask=mask, progress=False)
        assert np.array_equal(report.logliks, alone.logliks, equal_nan=True)
    assert swept.report("cap", 0.6) is swept.reports[2]
    assert swept.chance == pytest.approx(0.25)


def test_a_sweep_holds_the_paired_statistics(results: dict[str, Result]) -> None:
    swept = results["SweepResult"]
    assert isinstance(swept, cv.SweepResult)
    table = swept.to_pandas().set_index(["criterion", "sparsity"])
    cells = [("cap", 0.2), ("cap", 0.6), ("wanda", 0.2), ("wanda", 0.6), ("head", 0.2), ("head", 0.6)]
    dense = swept.report("dense")
    by_hand = [compare_paired(swept.report(*cell).correct, dense.correct) for cell in cells]
    rows = table.loc[cells]
    assert rows["minus_dense"].tolist() == [one.difference for one in by_hand]
    assert rows["minus_dense_low"].tolist() == [one.ci.low for one in by_hand]
    assert rows["p_dense"].tolist() == [one.p_value for one in by_hand]
    assert rows["p_dense_holm"].tolist() == holm(np.array([one.p_value for one in by_hand])).tolist()
    against = compare_paired(swept.report("wanda", 0.6).correct, swept.report("cap", 0.6).correct)
    assert table.loc[("wanda", 0.6), "minus_reference"] == against.difference
    assert table.loc[("wanda", 0.6), "p_reference"] == against.p_value
    # Sparsity of whole heads is a share of heads: not paired with a share of weights.
    unpaired = table.loc[[DENSE, ("cap", 0.2), ("head", 0.2)]]
    assert np.isnan(unpaired["minus_reference"].to_numpy()).all()
    losses = swept.to_pandas("choice_nll")
    assert losses["value"].tolist()[0] == pytest.approx(dense.losses("choice_nll").mean())
    assert np.isnan(losses["chance"].to_numpy()).all()


@pytest.mark.parametrize(
    ("criteria", "sparsities", "options", "words"),
    [
        (["cap", "wnada"], [0.2], {}, ["wnada", "wanda"]),
        (["cap"], [20], {}, ["20", "0.2"]),
        (["cap"], [0.2], {"reference": "wanda"}, ["reference", "wanda"]),
        (["cap"], [0.2], {"estimator": "exakt"}, ["exakt", "gradient"]),
        (["cap"], [0.2], {"metric": "loss"}, ["loss", "choice_nll"]),
        (["cap"], [0.2], {"allocation": "owl"}, ["owl", "cap"]),
        (["wanda"], [0.2], {"pattern": "2:4"}, ["2:4", "0.5"]),
        ([], [0.2], {}, ["criterion"]),
        (["cap"], [], {}, ["sparsity"]),
        (["cap"], [0.2], {"n": 0}, ["n = 0"]),
        (["cap"], [0.2], {"n": 1_000}, ["1000", "20"]),
        (["cap"], [0.2], {"n_calibration": 1_000}, ["1000", "12"]),
    ],
)
def test_a_sweep_refuses_what_it_cannot_do(
    tiny_task: Task,
    model: ReasoningModel,
    criteria: list[str],
    sparsities: list[float],
    options: dict[str, Any],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before any forward, so that a slip does not cost an hour."""
    monkeypatch.setattr("cap_viz.evaluation.sweep.sweep_steps", None)
    settings: dict[str, Any] = {"n_calibration": 4, **options}
    with pytest.raises(UsageError) as error:
        cv.sweep(model, tiny_task, criteria, sparsities, progress=False, **settings)
    refused(error, *words)


def test_cells_and_measures_that_a_sweep_lacks_are_named(results: dict[str, Result]) -> None:
    swept = results["SweepResult"]
    assert isinstance(swept, cv.SweepResult)
    with pytest.raises(UsageError) as error:
        swept.report("ria", 0.2)
    refused(error, "ria at 0.2", "wanda at 0.6")
    with pytest.raises(UsageError) as error:
        swept.contrasts("ria")
    refused(error, "ria", "wanda")
    with pytest.raises(UsageError) as error:
        swept.plot("choice_nll")
    refused(error, "choice_nll", "acc_norm")


def test_work_shows_a_bar_unless_told_not_to(model: ReasoningModel, capsys: pytest.CaptureFixture[str]) -> None:
    cv.evaluate(model, tiny_examples(4), progress=False)
    cv.prune_mask(model, "magnitude", sparsity=0.5, progress=False)
    assert capsys.readouterr().err == ""
    cv.evaluate(model, tiny_examples(4))
    assert "%" in capsys.readouterr().err


# Examples, hooks, runs -----------------------------------------------------------------------------------------------


def test_examples_of_ones_own_are_scored_and_evaluated(model: ReasoningModel) -> None:
    examples = cv.examples(ROWS)
    assert examples[1].prompt == "Question: what is wood ?\nAnswer:"
    assert (examples[1].options, examples[1].gold) == ((" metal", " plant", " gas"), 1)
    report = cv.evaluate(model, examples, progress=False)
    assert report.to_pandas()["gold"].tolist() == [0, 1]
    assert cv.score_heads(model, examples, progress=False).mean_effect("choice_nll").shape == (3, 4)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["no examples", "question"]),
        ([ROWS[0], {"question": "what ?", "options": ["ice", "sun"]}], ["Example 1", "gold"]),
        ([{**ROWS[0], "gold": 2}], ["Example 0", "2"]),
        ([{**ROWS[0], "options": ["ice"]}], ["Example 0", "2 options"]),
        ([{**ROWS[0], "options": "ice"}], ["Example 0", "options", "a list"]),
        ([ROWS[0], ROWS[0]], ["Example 1", "Example 0"]),
    ],
)
def test_rows_that_are_no_examples_are_named(rows: list[dict[str, Any]], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        cv.examples(rows)
    refused(error, *words)


def test_no_examples_is_a_sentence(model: ReasoningModel) -> None:
    for compute in (cv.score_heads, cv.score_blocks, cv.evaluate):
        with pytest.raises(UsageError) as error:
            compute(model, (), progress=False)
        refused(error, "at least one")


def run(model: ReasoningModel, tokens: torch.Tensor, hooks: Any) -> torch.Tensor:
    with model.lease, torch.inference_mode():
        return model.bridge.run_with_hooks(tokens, fwd_hooks=hooks).log_softmax(dim=-1)[0]


def test_hooks_do_what_the_engine_does(model: ReasoningModel) -> None:
    example = tiny_examples(1)[0]
    scores = cv.score_heads(model, [example], progress=False)
    prompt = model.tokenizer.encode(example.prompt)
    for option, text in enumerate(example.options):
        answer = model.tokenizer.encode(text)
        tokens = torch.tensor([[*prompt, *answer]])
        for layer, head in ((0, 1), (2, 3)):
            logits = run(model, tokens, cv.hooks([(layer, head)]))
            places = torch.arange(len(prompt) - 1, tokens.shape[1] - 1)
            loglik = logits[places, torch.tensor(answer)].sum().item()
            assert loglik == pytest.approx(float(scores.ablated[layer, head, 0, option]), abs=1e-4)


def test_hooks_zero_a_whole_set_and_leave_no_trace(model: ReasoningModel) -> None:
    tokens, heads = torch.tensor([[3, 5, 8, 13]]), [(1, 2), (0, 1), (1, 0)]
    dense = run(model, tokens, [])
    value = torch.zeros(3, 1, 1, 4, 8)
    assert torch.equal(run(model, tokens, cv.hooks(heads, model)), run(model, tokens, set_hooks(heads, value)))
    assert torch.equal(run(model, tokens, []), dense)
    flat, named = torch.ones(1, 2, 12), cv.hooks([(0, 1)], model)
    # Some architectures hand over the outputs of all heads in one vector.
    zeroed = named[0][1](flat, None)
    assert zeroed is not None
    assert zeroed[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    with pytest.raises(UsageError) as error:
        cv.hooks([(0, 1)])[0][1](flat, None)
    refused(error, "hooks(heads, model)")


def test_hooks_for_heads_a_model_lacks_are_refused(model: ReasoningModel) -> None:
    for heads in ([(0, 4)], [(3, 0)], [(-1, 0)]):
        with pytest.raises(UsageError) as error:
            cv.hooks(heads, model)
        refused(error, f"head {heads[0][1]} in layer {heads[0][0]}", "layers 0 to 2")
    with pytest.raises(UsageError) as error:
        run(model, torch.tensor([[3, 5]]), cv.hooks([(0, 4)]))
    refused(error, "head 4 in layer 0", "heads 0 to 3")
    for heads in ([(0, 1), (0, 1)], [(0, -1)]):
        with pytest.raises(UsageError) as error:
            cv.hooks(heads)
        refused(error, "layer 0", "once")


def test_runs_are_a_frame(tmp_path: Path) -> None:
    table = cv.runs()
    assert list(table.columns) == ["key", "kind", "model", "task", "n", "what", "created", "origin"]
    assert table["key"].tolist() == [run.key for run in Store().runs()]
    assert set(table["origin"]) == {"precomputed"}
    nothing = cv.runs(Store(shipped=tmp_path / "none", local=tmp_path))
    assert nothing.empty
    assert list(nothing.columns) == list(table.columns)


@pytest.mark.slow
def test_the_reference_names_everything(tmp_path: Path) -> None:
    """In a process of its own: it loads all names into the package."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.reference", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "cap_viz.html").read_text(encoding="utf-8")
    assert [name for name in cv.__all__ if f'id="{name}"' not in page] == []
    assert "95 % interval" in page
