"""Beside lm-evaluation-harness: its sample logs compared by hand-computed numbers, its YAML tasks as ours."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import cap_viz as cv
from cap_viz.errors import UsageError
from cap_viz.integrations.harness_task import converted, harness_fields
from cap_viz.integrations.sample_logs import compare_logs, read_log
from cap_viz.models.loading import ReasoningModel
from cap_viz.settings import PROJECT
from cap_viz.tasks import load_task
from cap_viz.tasks.description import described, splits_of
from tests.shell import Shell


def log(path: Path, right: list[int], **others: Any) -> Path:
    lines = [
        {
            "doc_id": i,
            "doc_hash": f"d{i}",
            "prompt_hash": "p",
            "filter": "none",
            "metrics": ["acc"],
            "acc": value,
            **others,
        }
        for i, value in enumerate(right)
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def test_two_logs_are_paired_by_document(tmp_path: Path, shell: Shell) -> None:
    """Ten documents, six of which only the first gets right: McNemar's p is 2 / 2^6."""
    first, second = log(tmp_path / "a.jsonl", [1] * 10), log(tmp_path / "b.jsonl", [0] * 6 + [1] * 4)
    (found,) = compare_logs(read_log(first), read_log(second))
    assert (found.metric, found.filter) == ("acc", "none")
    assert found.result.difference == pytest.approx(0.6)
    assert found.result.p_value == pytest.approx(2 / 2**6)
    assert (found.result.only_a, found.result.only_b) == (6, 0)
    (row,) = shell.json("compare-logs", str(first), str(second))["rows"]
    assert row["p_holm"] == pytest.approx(2 / 2**6)
    assert row["n"] == 10


def test_losses_are_compared_by_their_means(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for path, values in ((first, [1.0, 2.0, 3.0]), (second, [1.5, 2.0, 4.0])):
        lines = [{"doc_id": i, "metrics": ["ppl"], "ppl": value} for i, value in enumerate(values)]
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (found,) = compare_logs(read_log(first), read_log(second))
    assert found.result.difference == pytest.approx(-0.5)
    assert found.result.only_a is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no json", "line 1 is not valid JSON"),
        ('{"metrics": ["acc"], "acc": 1}', "doc_id"),
        ('{"doc_id": 0, "acc": 1}', "metrics"),
        ('{"doc_id": 0, "metrics": ["acc"], "acc": "yes"}', "no metric"),
        ('{"doc_id": 0, "metrics": ["acc"], "acc": 1}\n{"doc_id": 0, "metrics": ["acc"], "acc": 1}', "twice"),
    ],
)
def test_what_is_no_log_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(UsageError, match=reason):
        read_log(path)


def test_logs_of_other_documents_or_prompts_are_refused(tmp_path: Path) -> None:
    first = read_log(log(tmp_path / "a.jsonl", [1, 0, 1]))
    with pytest.raises(UsageError, match="doc_id 2"):
        compare_logs(first, read_log(log(tmp_path / "b.jsonl", [1, 0])))
    with pytest.raises(UsageError, match="Document 0"):
        compare_logs(first, read_log(log(tmp_path / "c.jsonl", [1, 0, 1], prompt_hash="q")))


TASK = {
    "task": "My-Colours",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
    "output_type": "multiple_choice",
    "training_split": "train",
    "test_split": "test",
    "description": "Answer the question.\n\n",
    "doc_to_text": "Question: {{query.strip()}}\nAnswer:",
    "doc_to_choice": "{{choices.text}}",
    "doc_to_target": "{{choices.label.index(answerKey)}}",
    "metric_list": [{"metric": "acc"}],
}


def document(query: str, key: str) -> dict[str, Any]:
    return {"query": f"  {query} ", "choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": key}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, questions in (("train", ["one?", "two?"]), ("test", ["three?", "four?", "five?"])):
        rows = [document(question, "AB"[at % 2]) for at, question in enumerate(questions)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def written(folder: Path, **changes: Any) -> Path:
    fields = {name: value for name, value in {**TASK, **changes}.items() if value is not None}
    path = folder / "colours.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(fields), encoding="utf-8")
    return path


def test_a_task_of_the_harness_becomes_ours(folder: Path) -> None:
    path = written(folder)
    fields = harness_fields(path)
    assert fields is not None
    (folder / "out").mkdir()
    found = described(converted(path, fields, folder / "out"))
    splits = splits_of(found)
    assert found.name == "my_colours"
    assert (len(splits.calibration), len(splits.evaluation)) == (2, 3)
    first = splits.evaluation[1]
    assert first.prompt == "Answer the question.\n\nQuestion: four?\nAnswer:"
    assert (first.options, first.gold) == ((" red", " blue"), 1)


def test_the_shell_takes_it(folder: Path, shell: Shell) -> None:
    assert shell("tasks", "add", str(written(folder)))[0] == 0
    tasks = {one["task"]: one for one in shell.json("tasks")["tasks"]}
    assert tasks["my_colours"]["evaluation"] == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"output_type": "generate_until"}, "generate_until"),
        ({"num_fewshot": 5}, "num_fewshot"),
        ({"target_delimiter": ""}, "target_delimiter"),
        ({"process_docs": "utils.py"}, "process_docs"),
        ({"include": "base.yaml"}, "include"),
        ({"doc_to_choice": None}, "doc_to_choice"),
        ({"doc_to_text": "{{missing}}"}, "document 0"),
        ({"doc_to_text": "{{''.__class__.__mro__}}"}, "document 0"),
        ({"dataset_kwargs": {}}, "'train'"),
        ({"test_split": None, "training_split": None}, "training_split"),
    ],
)
def test_what_is_not_supported_is_named(folder: Path, changes: dict[str, Any], reason: str) -> None:
    path = written(folder, **changes)
    fields = harness_fields(path)
    assert fields is not None
    (folder / "out").mkdir()
    with pytest.raises(UsageError, match=reason):
        converted(path, fields, folder / "out")


def test_code_is_named_and_not_run(folder: Path) -> None:
    path = folder / "code.yaml"
    path.write_text("output_type: multiple_choice\ndoc_to_text: !function utils.text\n", encoding="utf-8")
    fields = harness_fields(path)
    assert fields is not None
    with pytest.raises(UsageError, match="doc_to_text is code"):
        converted(path, fields, folder)
    (folder / "own.yaml").write_text("name: mine\nkind: choice\ndata: test.jsonl\n", encoding="utf-8")
    assert harness_fields(folder / "own.yaml") is None


def test_the_harness_is_asked_for_in_a_sentence(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cap_viz.cli.harness.find_spec", lambda name: None)
    code, _, err = shell("lm-eval", "run", "--tasks", "arc_easy")
    assert code == 2
    assert "cap-viz[lm-eval]" in err


class StandInHFLM:
    """What `CapVizLM` takes from the harness' own model type: it loads the network from a folder."""

    def __init__(self, pretrained: str, dtype: str, **others: Any) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(pretrained, dtype=getattr(torch, dtype)).eval()
        self.others = others


def stand_in(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Model types by name, as our declared entry points load them.

    lm-eval is not installed here: stand-ins for the two names taken from it. With it: `make package`.
    """
    found: dict[str, Any] = {}

    def register_model(name: str) -> Any:
        return lambda kind: found.setdefault(name, kind)

    for module in (
        stand_in("lm_eval"),
        stand_in("lm_eval.api"),
        stand_in("lm_eval.api.registry", register_model=register_model),
        stand_in("lm_eval.models"),
        stand_in("lm_eval.models.huggingface", HFLM=StandInHFLM),
        stand_in("cap_viz.integrations.lm_eval"),
    ):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    # Imported anew with the stand-ins, and forgotten with them.
    del sys.modules["cap_viz.integrations.lm_eval"]
    for entry in declared():
        assert entry.load() is found[entry.name]
    return found


def declared() -> list[EntryPoint]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    group = "lm_eval.models"
    return [EntryPoint(name, value, group) for name, value in project["entry-points"][group].items()]


def test_the_entry_point_leads_to_our_model_type(registered: dict[str, Any]) -> None:
    (entry,) = declared()
    assert list(registered) == [entry.name] == ["cap_viz"]
    # lm-eval takes the class for the entry point's own only where the two are written alike.
    kind = registered["cap_viz"]
    assert entry.value == f"{kind.__module__}:{kind.__name__}"


def test_the_harness_evaluates_the_pruned_network(
    registered: dict[str, Any], tiny_folder: Path, tiny_model: ReasoningModel
) -> None:
    """The network of the model type gives the logits of the pruned model, and dense those of the model."""
    asked = {"criterion": "wanda", "sparsity": 0.5, "task": "mini_science", "n_calibration": 4, "scope": "mlp"}
    calibration = load_task("mini_science").calibration(4)
    mask = cv.prune_mask(tiny_model, "wanda", sparsity=0.5, calibration=calibration, scope="mlp", progress=False)
    tokens = torch.arange(1, 9)[None]
    with tiny_model.lease, torch.no_grad():
        weights = {"pruned": tiny_model.pruned_weights(mask.keep, mask.updated), "dense": {}}
    for name, options in (("pruned", asked), ("dense", {})):
        found = registered["cap_viz"](str(tiny_folder), **options, batch_size=2)
        assert found.others == {"batch_size": 2}
        with tiny_model.swapped(weights[name]), torch.no_grad():
            assert torch.allclose(found.model(tokens).logits, tiny_model.bridge(tokens), atol=1e-4)
    assert mask.reached == pytest.approx(0.5, abs=0.01)


def test_an_option_of_a_mask_needs_a_criterion(registered: dict[str, Any], tiny_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"'scope' needs criterion="):
        registered["cap_viz"](str(tiny_folder), scope="mlp")
