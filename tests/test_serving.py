"""A server shared by strangers: which models, jobs, prompts and buttons there are; and the report for an issue."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from cap_viz.dashboard.components.panels import escaped
from cap_viz.dashboard.names import model_name
from cap_viz.dashboard.server import check_free
from cap_viz.dashboard.serving import MOST_JOBS, REFUSAL, allowed_models, check_job, check_prompt, is_shared, offered
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, ModelRef
from cap_viz.runs.jobs import Job
from cap_viz.runs.spec import ScoreSpec
from cap_viz.tasks.example_sets import calibration_set
from tests.shell import Shell
from tests.test_ui_pages import opened

TOY = ModelRef(id=TOY_MODEL, fingerprint="0" * 16)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_SERVER", "1")


def scored(n: int, model: ModelRef = TOY) -> ScoreSpec:
    return ScoreSpec(model=model, examples=calibration_set("toy_math", n))


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), ("True", True), ("yes ", True), ("0", False), ("", False)]
)
def test_the_variable_says_yes_or_no(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_SERVER", value)
    assert is_shared() is expected


def test_a_typing_error_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_SERVER", "on1")
    with pytest.raises(UsageError, match=r"CAP_VIZ_SERVER.*'on1'") as refused:
        is_shared()
    at = opened("app.py")
    assert at.error[0].value == escaped(str(refused.value))
    assert not at.selectbox


@pytest.mark.parametrize("name", ["CAP_VIZ_BACKEND", "CAP_VIZ_WORKERS", "CAP_VIZ_DTYPE", "CAP_VIZ_DEVICE"])
def test_other_settings_with_typing_errors_are_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_BACKEND", "ray")
    monkeypatch.setenv(name, "quick")
    at = opened("pages/heads.py")
    assert not at.exception
    assert "quick" in at.error[0].value


def test_a_port_in_use_names_the_process_that_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CapVizError, match=rf"\b{port}\b.*\b{os.getpid()}\b"):
            check_free("127.0.0.1", port)
    check_free("127.0.0.1", port)


@pytest.mark.usefixtures("shared")
def test_only_listed_models_are_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert allowed_models() == (DEFAULT_MODEL, TOY_MODEL)
    monkeypatch.setenv("CAP_VIZ_MODELS", f" {TOY_MODEL} ,some-org/model")
    assert offered([TOY_MODEL, "some-org/model", DEFAULT_MODEL]) == [TOY_MODEL, "some-org/model"]
    with pytest.raises(UsageError, match=DEFAULT_MODEL):
        check_job(scored(4, ModelRef(id=DEFAULT_MODEL, fingerprint="0" * 16)), [])
    monkeypatch.setenv("CAP_VIZ_MODELS", str(tmp_path))
    with pytest.raises(UsageError, match=rf"CAP_VIZ_MODELS .*{tmp_path}"):
        allowed_models()


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(("listed", "shown"), [(TOY_MODEL, [TOY_MODEL]), ("some-org/model", [])])
def test_pages_show_what_is_listed_and_here(listed: str, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_MODELS", listed)
    at = opened("app.py")
    assert not at.exception
    names = [model_name(one) for one in shown]
    assert [box.options for box in at.selectbox if box.key == "model"] == ([names] if names else [])
    assert not [button for button in at.button if button.key == "other_model"]
    assert ["CAP\\_VIZ\\_MODELS" in error.value for error in at.error] == ([] if shown else [True])


@pytest.mark.usefixtures("shared")
def test_jobs_are_few_and_small() -> None:
    check_job(scored(64), [])
    with pytest.raises(UsageError, match=r"\b64\b.*\b65\b"):
        check_job(scored(65), [])
    own = [Job(number=number, spec=scored(2 + number), title="") for number in range(MOST_JOBS)]
    with pytest.raises(UsageError, match=rf"\b{MOST_JOBS}\b.*\bcancel\b"):
        check_job(scored(4), own)
    own[0].state = "done"
    check_job(scored(4), own)


def test_alone_nothing_of_this_holds() -> None:
    check_job(scored(500), [Job(number=number, spec=scored(2 + number), title="") for number in range(9)])
    check_prompt("x" * 1500)
    assert offered(["/any/folder"]) == ["/any/folder"]


@pytest.mark.usefixtures("shared")
def test_prompts_are_short() -> None:
    check_prompt("x" * 500)
    with pytest.raises(UsageError, match=r"\b501\b.*\b500\b"):
        check_prompt("x" * 501)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(("page", "what"), [("pages/runs.py", "importing runs"), ("pages/tasks.py", "uploading tasks")])
def test_a_shared_server_takes_no_files_and_deletes_nothing(page: str, what: str) -> None:
    at = opened(page)
    assert not at.exception
    assert not at.get("file_uploader")
    assert REFUSAL.format(what=what) in [one.value for one in at.caption]


def test_the_full_report_holds_no_secret_and_no_home(
    shell: Shell, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_somebody")
    monkeypatch.setenv("CAP_VIZ_DATA", str(Path.home() / "private" / "data"))
    found = shell.json("doctor", "--full", "--model", str(tiny_folder))
    assert found["passed"] is True
    assert found["settings"]["HF_TOKEN"] == "set"
    assert found["settings"]["data"] == "~/private/data"
    assert found["cache"]["damaged"] == "none"
    assert found["cache"]["writable"] == "yes"
    assert int(found["cache"]["shipped runs"]) > 0
    assert found["models"][TOY_MODEL] == "installed"
    code, out, _ = shell("doctor", "--full", "--model", str(tiny_folder))
    assert code == 0
    assert "transformer-lens" in out
    assert "hf_secret" not in out
    assert str(Path.home() / "private") not in out


def test_no_secret_reaches_manifests_logs_or_exports(
    shell: Shell, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_somebody")
    monkeypatch.setenv("CAP_VIZ_LOG", str(tmp_path / "log.txt"))
    arguments = ("--model", str(tiny_folder), "--task", "mini_science", "--n", "2")
    assert shell("score", *arguments)[0] == 0
    assert shell("score", "--model", str(tmp_path / "none"), "--n", "2")[0] != 0
    assert all_files_without(tmp_path, b"hf_secret")


def all_files_without(folder: Path, secret: bytes) -> bool:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return all(secret not in path.read_bytes() for path in files)
