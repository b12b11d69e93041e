"""The hub: what is cached is used, and every way of failing is one sentence that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from cap_viz.cli import main
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import DEFAULT_MODEL, resolve
from cap_viz.runs.execute import provenance
from cap_viz.runs.spec import EvalSpec
from cap_viz.tasks import TASKS, Task, arc, load_task, strategyqa
from cap_viz.tasks.example_sets import calibration_set
from cap_viz.tasks.sources import PublicData

# The hub's client: httpx2, or httpx before huggingface_hub 2.
httpx: Any = import_module(errors.HfHubHTTPError.__bases__[0].__module__.split(".")[0])
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def answer(status: int) -> Any:
    return httpx.Response(status, request=httpx.Request("GET", "https://hub.test/"))


@pytest.fixture
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAP_VIZ_DATA", raising=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_data_folder: None) -> Path:
    """An empty cache of the hub's files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def fresh(monkeypatch: pytest.MonkeyPatch, name: str) -> Task:
    """The task as if nobody had read it yet."""
    monkeypatch.setitem(TASKS, name, replace(TASKS[name]))
    return load_task(name)


def store(cache: Path, data: PublicData, write: Callable[[Path, int], None], commit: str) -> None:
    """Both files of a data set, laid down as the hub's library caches them."""
    home = cache / f"datasets--{data.repository.replace('/', '--')}"
    for number, split in enumerate((data.calibration, data.evaluation)):
        path = home / "snapshots" / commit / split.hub
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, number)
    if data.revision != commit:
        (home / "refs").mkdir()
        (home / "refs" / data.revision).write_text(commit)


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", fail)


UNREACHABLE = r"{id} .*\breached\b(?!.*HF_HUB_OFFLINE)"
FAILURES = [
    (errors.GatedRepoError("m", response=answer(403)), CapVizError, r"{id} .*\bgated\b.*\blicence\b.*\bHF_TOKEN\b"),
    (errors.RepositoryNotFoundError("m", response=answer(404)), UsageError, r"\bhub\b.*\b{kind} '{id}'.*\bHF_TOKEN\b"),
    (errors.RevisionNotFoundError("m", response=answer(404)), CapVizError, r"{id} .*\bhub\b.*\brevision\b"),
    (errors.HfHubHTTPError("m", response=answer(401)), CapVizError, r"{id} .*\b401\b.*\bHF_TOKEN\b"),
    (errors.HfHubHTTPError("m", response=answer(503)), CapVizError, r"{id} .*\b503\b.*\btry again\b"),
    (errors.OfflineModeIsEnabled("m"), CapVizError, r"{id} .*\bunset HF_HUB_OFFLINE\b"),
    (httpx.ConnectError("m"), CapVizError, UNREACHABLE),
    (httpx.ReadTimeout("m"), CapVizError, UNREACHABLE),
    (httpx.ProxyError("m"), CapVizError, UNREACHABLE),
    (ConnectionResetError("m"), CapVizError, UNREACHABLE),
    (errors.XetDownloadError("m"), CapVizError, UNREACHABLE),
    (OSError(28, "No space left on device"), CapVizError, r"{id} .*\bcache\b.*No space left"),
]


@pytest.mark.parametrize(("error", "kind", "sentence"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_data_set_the_hub_does_not_deliver(
    monkeypatch: pytest.MonkeyPatch, cache: Path, error: Exception, kind: type[CapVizError], sentence: str
) -> None:
    fail_with(monkeypatch, error)
    expected = sentence.format(kind="dataset", id="allenai/ai2_arc")
    with pytest.raises(CapVizError, match=expected) as caught:
        fresh(monkeypatch, "arc_easy").calibration(1)
    assert type(caught.value) is kind
    assert all(name in str(caught.value) for name in ("CAP_VIZ_DATA", "arc_easy/train.jsonl", "test.jsonl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("error", "kind", "sentence"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_model_the_hub_does_not_deliver(
    monkeypatch: pytest.MonkeyPatch, cache: Path, error: Exception, kind: type[CapVizError], sentence: str
) -> None:
    fail_with(monkeypatch, error)
    with pytest.raises(CapVizError, match=sentence.format(kind="model", id="some-org/some-model")) as caught:
        resolve("some-org/some-model")
    assert type(caught.value) is kind
    assert DEFAULT_MODEL in str(caught.value)


@pytest.mark.parametrize("error", [TypeError("bug"), AttributeError("bug"), KeyError("bug")])
def test_programming_errors_pass(monkeypatch: pytest.MonkeyPatch, cache: Path, error: Exception) -> None:
    fail_with(monkeypatch, error)
    with pytest.raises(type(error), match="bug"):
        fresh(monkeypatch, "arc_easy").calibration(1)


def test_a_repository_without_the_file(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    (cache / COMMIT).mkdir()
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *args, **kwargs: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(cache / COMMIT))
    with pytest.raises(CapVizError, match=rf"openai/gsm8k\b.* main/train-.*\b{COMMIT}\b"):
        fresh(monkeypatch, "gsm8k").calibration(1)


def test_a_name_the_hub_cannot_have(cache: Path) -> None:
    with pytest.raises(UsageError, match=rf"'some org/--x'.*\bid\b.*{DEFAULT_MODEL}"):
        resolve("some org/--x")


def arc_parquet(path: Path, number: int) -> None:
    import pandas as pd

    choices = {"text": [f"text {k}" for k in range(3 + number)], "label": list("ABCD")[: 3 + number]}
    row = {"id": f"q{number}", "question": "Why?", "choices": choices, "answerKey": "B"}
    pd.DataFrame([row]).to_parquet(path)


def test_cached_parquet_is_read_without_asking_the_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    fail_with(monkeypatch, AssertionError("the hub was asked"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache / "datasets"))
    task = fresh(monkeypatch, "arc_challenge")
    assert not task.is_local()
    store(cache, arc.public_data("arc_challenge", "ARC-Challenge"), arc_parquet, arc.REVISION)
    assert task.is_local()
    (first,), (second,) = task.splits.calibration, task.splits.evaluation
    assert (first.id, first.options, first.gold) == ("q0", (" text 0", " text 1", " text 2"), 1)
    assert len(second.options) == 4
    assert task.splits.origin == f"allenai/ai2_arc@{arc.REVISION}"


def strategyqa_lines(path: Path, number: int) -> None:
    row = {"qid": f"s{number}", "question": f"Is {number} even?", "answer": number == 0, "term": "x", "facts": []}
    path.write_text(json.dumps(row) + "\n")


def test_a_branch_is_the_commit_of_the_first_download_and_is_recorded(
    monkeypatch: pytest.MonkeyPatch, cache: Path, tiny_model: Any
) -> None:
    store(cache, strategyqa.DATA, strategyqa_lines, COMMIT)
    task = fresh(monkeypatch, "strategyqa")
    assert task.is_local()
    assert [example.id for example in (*task.calibration(1), *task.evaluation())] == ["s0", "s1"]
    assert [example.gold for example in (*task.calibration(1), *task.evaluation())] == [0, 1]
    spec = EvalSpec(model=tiny_model.ref, examples=calibration_set("strategyqa", 1))
    assert provenance(spec, tiny_model, None, 0.0)["data"] == f"njf/StrategyQA@{COMMIT}"


def test_the_same_items_have_the_same_key_from_a_folder_and_from_the_hub(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    store(cache, strategyqa.DATA, strategyqa_lines, COMMIT)
    fresh(monkeypatch, "strategyqa")
    from_hub = calibration_set("strategyqa", 1)
    folder = cache / "own" / "strategyqa"
    folder.mkdir(parents=True)
    strategyqa_lines(folder / "train.jsonl", 0)
    strategyqa_lines(folder / "dev.jsonl", 1)
    monkeypatch.setenv("CAP_VIZ_DATA", str(folder.parent))
    task = fresh(monkeypatch, "strategyqa")
    assert calibration_set("strategyqa", 1) == from_hub
    assert task.splits.origin == "the folder named by CAP_VIZ_DATA"


def test_the_shell_says_gated_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, errors.GatedRepoError("m", response=answer(403)))
    monkeypatch.setattr("sys.argv", ["cap_viz", "eval", "--n", "1", "--model", "meta-llama/Meta-Llama-3-8B-Instruct"])
    with pytest.raises(SystemExit, match="1"):
        main()
    err = capfd.readouterr().err
    assert all(name in err for name in ("meta-llama/Meta-Llama-3-8B-Instruct", "licence", "HF_TOKEN"))
    assert err.count("\n") == 1
