"""The shell: what it prints, its exit codes, and one sentence for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cap_viz import __version__, settings
from cap_viz.cli import main
from cap_viz.models import ReasoningModel
from cap_viz.scoring import score_heads
from cap_viz.tasks import Task


class Shell:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["cap_viz", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = self.capfd.readouterr()
        code = stop.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    def json(self, *arguments: str) -> Any:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        assert out.count("\n") == 1, "one JSON object on stdout and nothing else"
        return json.loads(out)


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capfd, monkeypatch)


@pytest.fixture
def tiny(tiny_folder: Path, tiny_task: Task) -> list[str]:
    return ["--model", str(tiny_folder), "--task", "tiny"]


def test_version_and_help(shell: Shell) -> None:
    assert shell("--version")[1].strip() == __version__
    code, out, _ = shell("score", "--help")
    assert code == 0
    for option in ("--model", "--task", "--n", "--seed", "--estimator", "--metric", "--ablation", "--ids", "--json"):
        assert option in out


def test_models_and_tasks(shell: Shell, tiny_task: Task) -> None:
    (model,) = shell.json("models")["models"]
    assert model["id"] == "smollm2-135m-instruct-q4_1"
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
    assert "removing the head hurts" in out


@pytest.mark.parametrize("criterion", ["cap", "wanda", "wanda_oneshot", "magnitude", "global_magnitude"])
def test_prune(shell: Shell, tiny: list[str], criterion: str) -> None:
    answer = shell.json("prune", *tiny, "--criterion", criterion, "--sparsity", "0.5", "--n", "4")
    assert answer["reached"] == pytest.approx(0.5, abs=1e-2)
    assert sum(m["zeros"] for m in answer["matrices"]) == pytest.approx(answer["reached"] * 3 * 7680, abs=1)
    assert len(answer["matrices"]) == 21


def test_eval_dense_and_pruned(shell: Shell, tiny: list[str]) -> None:
    dense = shell.json("eval", *tiny, "--n", "10")
    assert (dense["criterion"], dense["sparsity"], dense["n"], dense["chance"]) == ("dense", 0.0, 10, 0.25)
    assert dense["acc_ci"][0] <= dense["acc"] <= dense["acc_ci"][1]
    pruned = shell.json("eval", *tiny, "--n", "10", "--criterion", "cap", "--sparsity", "0.3", "--n-calibration", "4")
    assert pruned["key"] != dense["key"]
    code, out, _ = shell("eval", *tiny, "--n", "10")
    assert code == 0
    assert "acc_norm" in out


def test_runs_lists_what_was_computed(shell: Shell, tiny: list[str]) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    listed = shell.json("runs")
    assert key in [run["key"] for run in listed["runs"]]
    assert listed["damaged"] == []
    code, out, _ = shell("runs")
    assert code == 0
    assert key in out


def test_doctor_line_by_line(shell: Shell, tiny_folder: Path) -> None:
    code, out, _ = shell("doctor", "--model", str(tiny_folder))
    assert code == 0
    assert out.count("pass  ") == 6
    assert shell.json("doctor", "--model", str(tiny_folder))["passed"] is True


def test_doctor_fails_with_exit_code_1(shell: Shell, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.doctor.TOLERANCE", -1.0)
    code, out, _ = shell("doctor", "--model", str(tiny_folder))
    assert code == 1
    assert "FAIL" in out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["score", "--task", "nope"], 2, "Unknown task 'nope'; choose one of"),
        (["score", "--metric", "loss"], 2, "Unknown metric 'loss'"),
        (["score", "--estimator", "magic"], 2, "Unknown estimator 'magic'"),
        (["score", "--ablation", "noise"], 2, "Unknown ablation 'noise'"),
        (["score", "--n", "0"], 2, "n = 0: ask for at least one example"),
        (["score", "--n", "9999"], 2, "n = 9999 is more than the 120 calibration examples"),
        (["score", "--model", "gpt5"], 2, "Unknown model 'gpt5'"),
        (["score", "--model", "some-org/some-model"], 1, "hub cannot be reached"),
        (["score", "--ids", "/nowhere/ids"], 2, "/nowhere/ids cannot be read"),
        (["eval", "--n", "0"], 2, "n = 0: ask for at least one example"),
        (["eval", "--criterion", "luck"], 2, "Unknown criterion 'luck'"),
        (["eval", "--criterion", "cap", "--sparsity", "1"], 2, "sparsity is 1"),
        (["prune", "--sparsity", "20"], 2, "sparsity is 20"),
        (["prune", "--scope", "heads"], 2, "'heads'"),
        (["score", "--n", "many"], 2, "many"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_get_one_sentence(shell: Shell, arguments: list[str], code: int, sentence: str) -> None:
    got, out, err = shell(*arguments)
    assert got == code
    assert sentence in err
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
    code, out, _ = shell(
        "compare", *tiny, "--n", "8", "--criteria", "cap", "--sparsities", "0.3", "--n-calibration", "3"
    )
    assert code == 0
    assert "McNemar" in out


def test_running_text_is_scored_by_token_loss_only(shell: Shell, tiny_folder: Path) -> None:
    model = ["--model", str(tiny_folder), "--task", "mini_text"]
    answer = shell.json("score", *model, "--n", "2")
    assert answer["metric"] == "nll"
    assert any(abs(effect) > 1e-4 for layer in answer["mean_effect"] for effect in layer)
    for arguments in (["score", *model, "--metric", "choice_nll"], ["eval", *model], ["compare", *model]):
        code, _, err = shell(*arguments)
        assert code == 2
        assert "mini_text" in err


def test_runs_show_verify_export_import(shell: Shell, tiny: list[str], tmp_path: Path) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    code, out, _ = shell("runs", "show", key[:8])
    assert code == 0
    shown = json.loads(out)
    assert (shown["key"], shown["spec"]["kind"], len(shown["spec"]["examples"]["ids"])) == (key, "eval", 3)
    assert shell.json("runs", "verify")["damaged"] == []
    assert shell("runs", "export", key, "--to", str(tmp_path))[0] == 0
    (archive,) = tmp_path.glob("*.zip")
    shutil.rmtree(settings.local_folder() / "runs")
    assert key not in [run["key"] for run in shell.json("runs", "list")["runs"]]
    assert shell("runs", "import", str(archive))[0] == 0
    assert key in [run["key"] for run in shell.json("runs")["runs"]]
    code, _, err = shell("runs", "show", "zz")
    assert code == 2
    assert "no stored run with a key that starts with 'zz'" in err


def rewritten(archive: Path, target: Path, change: Callable[[str, bytes], tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as result:
        for name in source.namelist():
            result.writestr(*change(name, source.read(name)))
    return target


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda name, data: (name, data[:-1] if name.endswith("options.parquet") else data), "checksum"),
        (lambda name, data: (f"../{name}", data), "not an exported run"),
        (lambda name, data: (f"deep/{name}", data), "not an exported run"),
        (lambda name, data: (name, b"{}" if name.endswith("manifest.json") else data), "no readable manifest"),
    ],
)
def test_foreign_archives_are_not_imported(
    shell: Shell, tiny: list[str], tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes]], sentence: str
) -> None:
    key = shell.json("eval", *tiny, "--n", "3")["key"]
    shell("runs", "export", key, "--to", str(tmp_path))
    (archive,) = tmp_path.glob("*.zip")
    shutil.rmtree(settings.local_folder() / "runs")
    code, _, err = shell("runs", "import", str(rewritten(archive, tmp_path / "changed.zip", change)))
    assert code == 2
    assert re.search(sentence, err)
    assert not list((settings.local_folder() / "runs").glob("[!.]*"))


def test_something_else_than_an_archive(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("hello")
    code, _, err = shell("runs", "import", str(tmp_path / "x.zip"))
    assert code == 2
    assert "not a readable zip archive" in err
