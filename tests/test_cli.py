"""The shell: what it prints, its exit codes, and one sentence for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cap_viz import __version__
from cap_viz.attribution import exact
from cap_viz.attribution.estimators import score_heads
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, resolve
from cap_viz.models.loading import ReasoningModel
from cap_viz.pruning import criterion_title
from cap_viz.runs.fixed_question import ON_TEXT, OUTSIDE, fixed_question
from cap_viz.runs.run_labels import ABLATION_WORDS
from cap_viz.runs.store import Store
from cap_viz.tasks import TASKS, Task, load_task
from tests.shell import Shell


def test_version_and_help(shell: Shell) -> None:
    assert shell("--version")[1].strip() == __version__
    code, out, _ = shell("score", "--help")
    assert code == 0
    for option in ("--model", "--task", "--n", "--seed", "--estimator", "--metric", "--ablation", "--ids", "--json"):
        assert option in out


def test_models_and_tasks(shell: Shell, tiny_task: Task) -> None:
    assert [model["id"] for model in shell.json("models")["models"]] == ["smollm2-135m-instruct-q4_1", "toy-reasoner"]
    tasks = {row["task"]: row for row in shell.json("tasks")["tasks"]}
    assert tasks["mini_science"]["chance"] == 0.25
    assert tasks["mini_science"]["evaluation"] >= 600
    assert tasks["tiny"]["calibration"] == 12
    assert shell("tasks")[0] == 0
    assert "installed" in shell("models")[1]


def test_score_gives_the_library_s_numbers(
    shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    answer = shell.json("score", *tiny, "--n", "5", "--metric", "choice_nll", "--full")
    scores = score_heads(tiny_model, tiny_task.calibration(5))
    assert answer["mean_effect"] == scores.mean_effect("choice_nll").tolist()
    assert answer["effects"] == scores.effects("choice_nll").tolist()
    assert (answer["n"], answer["estimator"], answer["ablation"]) == (5, "exact", "zero")
    assert answer["example_ids"] == [e.id for e in tiny_task.calibration(5)]
    again = shell.json("score", *tiny, "--n", "5")
    assert again["key"] == answer["key"], "the second call reads the stored run, whatever the metric"
    assert "effects" not in again


def test_score_of_named_examples(shell: Shell, tiny: list[str], tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("tiny-20\n\n tiny-3 \n")
    answer = shell.json("score", *tiny, "--ids", str(ids), "--ablation", "mean")
    assert answer["example_ids"] == ["tiny-20", "tiny-3"]
    assert len(answer["mean_effect"]) == 3


def test_score_prints_a_table(shell: Shell, tiny: list[str]) -> None:
    code, out, _ = shell("score", *tiny, "--n", "3")
    assert code == 0
    assert "L0 H" in out or "L1 H" in out
    assert f"Positive: {ABLATION_WORDS['zero'].doing} " in out
    assert " … " in out, "intervals"
    _, one, _ = shell("score", *tiny, "--n", "1")
    assert " … " not in one
    assert "nan" not in one.split("removing")[0]


@pytest.mark.parametrize("criterion", ["cap", "wanda", "wanda_oneshot", "magnitude", "global_magnitude", "random"])
def test_prune(shell: Shell, tiny: list[str], criterion: str) -> None:
    answer = shell.json("prune", *tiny, "--criterion", criterion, "--sparsity", "0.5", "--n", "4")
    assert answer["reached"] == pytest.approx(0.5, abs=1e-2)
    assert sum(m["zeros"] for m in answer["matrices"]) == pytest.approx(answer["reached"] * 3 * 7680, abs=1)
    assert len(answer["matrices"]) == 21


def test_prune_options_reach_the_mask(shell: Shell, tiny: list[str]) -> None:
    def digest(*options: str) -> str:
        return shell.json("prune", *tiny, "--sparsity", "0.5", "--n", "4", *options)["digest"]

    plain = digest("--criterion", "wanda")
    assert digest("--criterion", "wanda", "--pattern", "2:4") != plain
    assert digest("--criterion", "wanda", "--allocation", "owl") != plain
    assert digest("--criterion", "wanda", "--calibration-task", "mini_text") != plain
    assert digest("--criterion", "random") != digest("--criterion", "random", "--control-seed", "1")
    heads = shell.json("prune", *tiny, "--criterion", "head", "--sparsity", "0.5", "--n", "4")
    assert heads["parameters_saved"] == sum(matrix["zeros"] for matrix in heads["matrices"]) > 0
    printed = shell("prune", *tiny, "--criterion", "head", "--sparsity", "0.5", "--n", "4")[1]
    assert f"{heads['parameters_saved']:,}" in printed


def test_export_writes_a_model_and_a_mask_and_overwrites_neither(shell: Shell, tiny: list[str], tmp_path: Path) -> None:
    options = [*tiny, "--criterion", "magnitude", "--sparsity", "0.5", "--to"]
    assert shell("export", *options, str(tmp_path / "model"))[0] == 0
    assert {path.name for path in (tmp_path / "model").iterdir()} > {"config.json", "model.safetensors", "README.md"}
    assert shell("export", *options, str(tmp_path / "mask"), "--mask-only")[0] == 0
    code, _, err = shell("export", *options, str(tmp_path / "model"))
    assert code == 2
    assert str(tmp_path / "model") in err
    assert err.count("\n") == 1


def test_eval_dense_and_pruned(shell: Shell, tiny: list[str]) -> None:
    dense = shell.json("eval", *tiny, "--n", "10")
    assert (dense["criterion"], dense["sparsity"], dense["n"], dense["chance"]) == ("dense", 0.0, 10, 0.25)
    assert dense["acc_ci"][0] <= dense["acc"] <= dense["acc_ci"][1]
    pruned = shell.json("eval", *tiny, "--n", "10", "--criterion", "cap", "--sparsity", "0.3", "--n-calibration", "4")
    assert pruned["key"] != dense["key"]
    code, out, _ = shell("eval", *tiny, "--n", "10")
    assert code == 0
    assert "acc_norm" in out


def test_doctor_line_by_line(shell: Shell, tiny_folder: Path) -> None:
    code, out, _ = shell("doctor", "--model", str(tiny_folder))
    assert code == 0
    assert out.count("pass  ") == 6
    assert shell.json("doctor", "--model", str(tiny_folder))["passed"] is True


def test_doctor_fails_with_exit_code_1(shell: Shell, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.attribution.self_test.TOLERANCE", -1.0)
    code, out, _ = shell("doctor", "--model", str(tiny_folder))
    assert code == 1
    assert "FAIL" in out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["score", "--task", "nope"], 2, ["task", "'nope'", "mini_science"]),
        (["score", "--metric", "loss"], 2, ["metric", "'loss'", "choice_nll"]),
        (["score", "--estimator", "magic"], 2, ["estimator", "'magic'", "gradient"]),
        (["score", "--ablation", "noise"], 2, ["ablation", "'noise'", "resample"]),
        (["score", "--n", "0"], 2, ["n = 0"]),
        (["score", "--n", "9999"], 2, ["9999", "120", "calibration"]),
        (["score", "--model", "gpt5"], 2, ["model", "'gpt5'", DEFAULT_MODEL]),
        (["score", "--model", "some-org/some-model"], 1, ["some-org/some-model", "hub"]),
        (["score", "--ids", "/nowhere/ids"], 2, ["/nowhere/ids", "No such file"]),
        (["eval", "--n", "0"], 2, ["n = 0"]),
        (["eval", "--criterion", "luck"], 2, ["criterion", "'luck'", "wanda"]),
        (["eval", "--criterion", "cap", "--sparsity", "1"], 2, ["sparsity is 1"]),
        (["prune", "--sparsity", "20"], 2, ["sparsity is 20"]),
        (["prune", "--scope", "heads"], 2, ["'heads'", "attention"]),
        (["score", "--n", "many"], 2, ["--n", "many"]),
        (["frobnicate"], 2, ["frobnicate"]),
    ],
)
def test_mistakes_get_one_sentence(shell: Shell, arguments: list[str], code: int, named: list[str]) -> None:
    got, out, err = shell(*arguments)
    assert got == code
    assert all(part in err for part in named), err
    assert out == ""
    assert "Traceback" not in err


def test_python_m_cap_viz() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cap_viz", "tasks", "--json"], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout)["tasks"]


def test_compare_pairs_every_criterion_with_wanda(shell: Shell, tiny: list[str]) -> None:
    answer = shell.json(
        "compare", *tiny, "--n", "8", "--criteria", "cap", "--sparsities", "0.3,0.5", "--n-calibration", "3"
    )
    rows = {(row["criterion"], row["sparsity"]): row for row in answer["rows"]}
    assert set(rows) == {("dense", 0.0), ("cap", 0.3), ("cap", 0.5), ("wanda", 0.3), ("wanda", 0.5)}
    assert rows["wanda", 0.3]["against"] is None
    paired = rows["cap", 0.3]["against"]
    assert paired["difference"] == pytest.approx(rows["cap", 0.3]["acc"] - rows["wanda", 0.3]["acc"])
    assert (paired["only_first"] - paired["only_second"]) / 8 == pytest.approx(paired["difference"])
    # Masks of 3 examples are none of the fixed question's: no p but the comparison's own.
    assert (paired["p_holm"], paired["verdict"]) == (None, OUTSIDE)
    code, out, _ = shell(
        "compare", *tiny, "--n", "8", "--criteria", "cap", "--sparsities", "0.3", "--n-calibration", "3"
    )
    assert code == 0
    assert "Holm" in out
    assert "p =" not in out


@pytest.mark.usefixtures("all_shipped")
@pytest.mark.parametrize(("against", "measure"), [("wanda", "acc"), ("global_magnitude", "choice_nll")])
def test_compare_has_the_p_of_the_pages(shell: Shell, against: str, measure: str) -> None:
    """On all 400 stored questions the three comparisons are the fixed question's; on 200 none is."""
    store, task = Store(), load_task("toy_math")
    verdict = fixed_question(store, store.runs(), resolve(TOY_MODEL).ref, task, against)
    assert verdict is not None
    answers = {one.sparsity: one for one in (verdict.accuracy if measure == "acc" else verdict.loss)}
    compare = ["compare", "--model", TOY_MODEL, "--task", "toy_math", "--measure", measure, "--against", against]
    said = 0
    criteria = ["--criteria", "cap,magnitude", "--sparsities", "0.1,0.2,0.5"]
    for row in shell.json(*compare, *criteria, "--n", str(verdict.n))["rows"]:
        found = row["against"]
        if row["criterion"] == "magnitude":
            assert (found["p_holm"], found["verdict"]) == (None, OUTSIDE)
        if row["criterion"] == "cap":
            answer = answers[row["sparsity"]]
            # The better Wanda may be the one calibrated on text, which this command was not asked for.
            asked = answer.chosen != ON_TEXT
            assert found["p_holm"] == (pytest.approx(answer.p) if asked else None)
            assert found["verdict"] == (answer.outcome(criterion_title(against)) if asked else OUTSIDE)
            said += asked
    assert said >= 2
    rows = shell.json(*compare, "--criteria", "cap", "--sparsities", "0.2", "--n", "200")["rows"]
    (fewer,) = [row["against"] for row in rows if row["against"] is not None]
    assert (fewer["p_holm"], fewer["verdict"]) == (None, OUTSIDE)


def test_compare_against_the_dense_model(shell: Shell, tiny: list[str]) -> None:
    options = ["--n", "8", "--criteria", "cap", "--sparsities", "0.3,0.5", "--n-calibration", "3", "--against", "dense"]
    rows = {(row["criterion"], row["sparsity"]): row for row in shell.json("compare", *tiny, *options)["rows"]}
    assert set(rows) == {("dense", 0.0), ("cap", 0.3), ("cap", 0.5)}
    assert rows["dense", 0.0]["against"] is None
    for sparsity in (0.3, 0.5):
        pair = rows["cap", sparsity]["against"]
        assert pair["difference"] == pytest.approx(rows["cap", sparsity]["acc"] - rows["dense", 0.0]["acc"])
        assert (pair["p_holm"], pair["verdict"]) == (None, OUTSIDE)


def test_running_text_is_scored_by_token_loss_only(shell: Shell, tiny_folder: Path) -> None:
    model = ["--model", str(tiny_folder), "--task", "mini_text"]
    answer = shell.json("score", *model, "--n", "2")
    assert answer["metric"] == "nll"
    assert any(abs(effect) > 1e-4 for layer in answer["mean_effect"] for effect in layer)
    for arguments in (["score", *model, "--metric", "choice_nll"], ["eval", *model], ["compare", *model]):
        code, _, err = shell(*arguments)
        assert code == 2
        assert "mini_text" in err


def test_ids_may_hold_line_separators(
    shell: Shell, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: ReasoningModel
) -> None:
    odd = "q\u2028\u00851\u2028"
    choices = {"text": ["sun\u2028moon", "rock", "leaf"], "label": ["A", "B", "C"]}
    rows = [{"id": i, "question": "what is\u2028a plant ?", "choices": choices, "answerKey": "C"} for i in (odd, "q2")]
    (tmp_path / "arc_easy").mkdir()
    for split, row in zip(("train", "test"), rows, strict=True):
        line = json.dumps(row, ensure_ascii=False)
        (tmp_path / "arc_easy" / f"{split}.jsonl").write_text(line, encoding="utf-8")
    monkeypatch.setenv("CAP_VIZ_DATA", str(tmp_path))
    monkeypatch.setitem(TASKS, "arc_easy", replace(TASKS["arc_easy"]))
    ids = tmp_path / "ids.txt"
    ids.write_bytes(f"\ufeff{odd}\r\nq2\r\n".encode())
    answer = shell.json("score", "--model", str(tiny_folder), "--task", "arc_easy", "--ids", str(ids), "--full")
    assert answer["example_ids"] == [odd, "q2"]
    assert answer["gold"] == [2, 2]
    scores = score_heads(tiny_model, TASKS["arc_easy"].by_ids([odd, "q2"]))
    assert answer["effects"] == scores.effects("nll").tolist()


def test_ids_that_are_not_text(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"ab\xff")
    code, _, err = shell("score", "--ids", str(tmp_path / "ids"))
    assert code == 2
    assert all(part in err for part in (str(tmp_path / "ids"), "UTF-8", "byte 3"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--criteria", "luck"], ["criterion", "'luck'", "wanda"]),
        (["--criteria", " , "], ["criterion", "' , '"]),
        (["--criteria", "dense"], ["criterion", "'dense'", "wanda"]),
        (["--against", "luck"], ["criterion", "'luck'", "wanda"]),
        (["--sparsities", ""], ["sparsity", "''"]),
        (["--sparsities", "0.2,1.0"], ["sparsity is 1;"]),
        (["--sparsities", "-0.1"], ["sparsity is -0.1;"]),
        (["--sparsities", "nan"], ["sparsity is nan;"]),
        (["--sparsities", "abc"], ["'abc'", "number"]),
        (["--n", "0"], ["n = 0"]),
        (["--n", "21"], ["n = 21", "20", "evaluation", "tiny"]),
        (["--n-calibration", "0"], ["n = 0"]),
    ],
)
def test_compare_is_asked_for_what_cannot_be(
    shell: Shell, tiny: list[str], options: list[str], named: list[str]
) -> None:
    code, out, err = shell("compare", *tiny, "--n", "3", "--n-calibration", "3", *options)
    assert (code, out) == (2, "")
    assert all(part in err for part in named), err
    assert err.count("\n") == 1


def test_sparsities_that_differ_little_are_told_apart(shell: Shell, tiny: list[str]) -> None:
    code, out, _ = shell(
        "compare", *tiny, "--n", "3", "--n-calibration", "2", "--criteria", "magnitude", "--against", "magnitude",
        "--sparsities", "0.2,0.50,0.5,0.504",
    )  # fmt: skip
    assert code == 0
    assert [line.split()[3] for line in out.splitlines() if " magnitude " in line] == ["20%", "50%", "50.4%"]


def test_a_cache_that_cannot_be_written(
    shell: Shell, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAP_VIZ_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("CAP_VIZ_LOG")
    assert shell("runs", "list")[0] == 0
    code, _, err = shell("eval", *tiny, "--n", "3")
    assert code == 1
    assert "CAP_VIZ_CACHE" in err
    assert str(tmp_path / "file") in err


def test_a_score_takes_ten_calls_from_the_shell_to_the_engine(
    shell: Shell, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those named in CONTRIBUTING; the two that show progress only advance the steps. The store is asked twice."""
    compute, sound = exact.score_steps, Store.sound
    calls: list[str] = []
    asked: list[str] = []

    def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
        frames = [frame for frame in traceback.extract_stack() if f"{os.sep}cap_viz{os.sep}" in frame.filename]
        calls[:] = [frame.name for frame in frames if frame.name not in ("shown", "finish")]
        yield from compute(*arguments, **options)

    monkeypatch.setattr(exact, "score_steps", watched)
    monkeypatch.setattr(Store, "sound", lambda store, spec: asked.append(spec.kind) or sound(store, spec))
    shell.json("score", *tiny, "--n", "2")
    assert calls[:2] == ["main", "score"]
    # The tenth is `score_steps` itself.
    assert len(calls) <= 9
    assert asked == ["score"] * 2
