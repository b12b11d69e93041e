"""Plug-ins: what other packages add, what is refused with a sentence, and the example package from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import cap_viz as cv
from cap_viz.attribution.effect_metrics import METRICS, Metric
from cap_viz.dashboard import names
from cap_viz.integrations import plugins
from cap_viz.integrations.plugins import Plugin, load
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL
from cap_viz.pruning import CRITERIA
from cap_viz.settings import PROJECT
from cap_viz.tasks import TASKS

pytestmark = pytest.mark.usefixtures("registries")


def entry(kind: str, name: str, thing: Any, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    found = EntryPoint(name=name, value="some.module:thing", group=f"cap_viz.{kind}")
    monkeypatch.setattr(EntryPoint, "load", thing if thing is fails else lambda _: thing)
    return load(kind, found)


def fails(entry: EntryPoint) -> None:
    raise ImportError("no such module")


@pytest.mark.parametrize(
    ("kind", "name", "thing", "reason"),
    [
        ("criterion", "cap", CRITERIA["cap"], "taken"),
        ("criterion", "other", CRITERIA["cap"], "'cap'"),
        ("criterion", "text", "no criterion", "Criterion"),
        ("task", "arc_easy", TASKS["arc_easy"], "taken"),
        ("task", "number", 3, "Task"),
        ("metric", "nll", METRICS["nll"], "taken"),
        ("metric", "Bad name", METRICS["nll"], "small letters"),
        ("metric", "constant", lambda logliks, gold, tokens: 1.0, "number per example"),
        ("metric", "crash", lambda logliks, gold, tokens: 1 / 0, "ZeroDivisionError"),
        ("criterion", "broken", fails, "no such module"),
    ],
)
def test_what_does_not_fit_is_left_out_with_a_sentence(
    kind: str, name: str, thing: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (dict(CRITERIA), dict(TASKS), dict(METRICS))
    plugin = entry(kind, name, thing, monkeypatch)
    assert reason in plugin.problem
    assert name in plugin.problem
    assert before == (CRITERIA, TASKS, METRICS)


def test_a_metric_joins_the_others_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = Metric(lambda *numbers: 2 * METRICS["nll"](*numbers), "Twice the loss", "nats")
    plugin = entry("metric", "twice", twice, monkeypatch)
    assert not plugin.problem
    assert METRICS["twice"] == replace(twice, origin=plugin.origin)
    logliks, gold, tokens = np.array([[-4.0, -1.0]]), np.array([0]), np.array([[2, 2]])
    assert METRICS["twice"](logliks, gold, tokens).tolist() == [4.0]


def test_the_pages_name_a_metric_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = entry("metric", "bare", lambda *numbers: METRICS["nll"](*numbers), monkeypatch)
    assert not plugin.problem
    assert names.metric_title("bare") == "bare"
    assert plugin.origin in names.metrics_help(tuple(METRICS)).splitlines()[-1]
    assert names.metric_title("of_a_package_that_is_gone") == "of_a_package_that_is_gone"


@pytest.mark.parametrize(
    ("server", "named", "wanted"), [("", "", True), ("1", "", False), ("1", "mine", True), ("", "other", False)]
)
def test_a_shared_server_loads_only_the_packages_it_names(
    server: str, named: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAP_VIZ_SERVER", server)
    monkeypatch.setenv("CAP_VIZ_PLUGINS", named)
    assert plugins.is_wanted("mine") is wanted


COMMANDS = """
import sys
from cap_viz.cli import main

for line in sys.argv[1:]:
    sys.argv = ["cap_viz", *line.split(), "--json"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, line
"""


@pytest.fixture(scope="module")
def answers(example_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """What the command line says with the example package beside it, and where it keeps its runs."""
    cache = tmp_path_factory.mktemp("cache")
    lines = ("plugins", "tasks", "eval --model toy-reasoner --task toy_choice --n 8 --criterion lamp --sparsity 0.3")
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, *lines],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(example_plugin), "CAP_VIZ_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], cache


@pytest.mark.slow
def test_the_example_package_adds_a_criterion_a_task_and_a_metric(answers: tuple[list[Any], Path]) -> None:
    (listed, offered, _), _ = answers
    assert {(one["kind"], one["name"]) for one in listed["plugins"]} == {
        ("criterion", "lamp"),
        ("task", "weekdays"),
        ("metric", "brier"),
    }
    assert {one["problem"] for one in listed["plugins"]} == {""}
    tasks = {one["task"]: one for one in offered["tasks"]}
    assert (tasks["weekdays"]["calibration"], tasks["weekdays"]["evaluation"]) == (100, 300)
    assert tasks["weekdays"]["chance"] == 0.25


def test_the_pages_and_python_offer_them(example_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(example_plugin))
    assert {one.problem for one in plugins.load_plugins()} == {""}
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    at.switch_page("pages/prune.py")
    for name, value in {"model": DEFAULT_MODEL, "task": "weekdays", "criterion": "lamp"}.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    assert [at.selectbox(key=name).value for name in ("task", "criterion")] == ["weekdays", "lamp"]
    assert cv.load_task("weekdays").origin == "cap-viz-lamp 0.1"
    mask = cv.prune_mask(cv.load_model(TOY_MODEL), "lamp", sparsity=0.3, progress=False)
    assert mask.reached == pytest.approx(0.3, abs=1e-3)


@pytest.mark.slow
def test_a_run_with_a_criterion_of_a_package_names_it(answers: tuple[list[Any], Path]) -> None:
    _, cache = answers
    (manifest,) = cache.rglob("manifest.json")
    versions = json.loads(manifest.read_text(encoding="utf-8"))["provenance"]["versions"]
    assert versions["cap-viz-lamp"] == "0.1"


def test_lamp_is_its_formula(example_plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, for weights 3, 1 and 2: 9/9, 1/(1 + 4 + 9), 4/(4 + 9)."""
    import torch

    from cap_viz.models.loading import Matrix

    monkeypatch.syspath_prepend(str(example_plugin))
    from cap_viz_lamp.criterion import lamp  # pyright: ignore[reportMissingImports]

    linear = torch.nn.Linear(3, 1, bias=False)
    linear.weight.data = torch.tensor([[3.0, 1.0, -2.0]])
    assert torch.allclose(lamp(Matrix(0, "q", "attention", linear)), torch.tensor([[1.0, 1 / 14, 4 / 13]]))
