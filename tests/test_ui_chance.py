"""The accuracy of guessing is one number everywhere: on yes/no questions the share of the commoner answer.

Prune drew its line at 1/K, while its banner, the other pages and the shell judged by the majority.
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.results import EvalReport, Questions
from cap_viz.dashboard.components.measured_column import Column
from cap_viz.dashboard.prune.accuracy import chance_of
from cap_viz.evaluation.eval_metrics import ACC, against_guessing, guessing
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.comparison import DENSE as DENSE_CELL
from cap_viz.runs.comparison import comparison_rows
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import chance_level, load_task
from cap_viz.tasks.example_sets import evaluation_set
from tests.test_ui_pages import opened
from tests.test_ui_text import computed, store

__all__ = ["store"]

TASK, N, SPARSITY = "mini_strategy", 100, 0.2


@pytest.fixture
def dense(store: Store, tiny_model: ReasoningModel) -> StoredRun:
    examples = evaluation_set(TASK, N)
    for criterion in ("magnitude", "global_magnitude"):
        mask = mask_spec_for(tiny_model.ref, criterion, SPARSITY, task=TASK, n=4)
        computed(store, tiny_model, EvalSpec(tiny_model.ref, examples, mask=mask))
    return computed(store, tiny_model, EvalSpec(tiny_model.ref, examples))


def dotted(at: AppTest, axis: str) -> set[float]:
    """Where the dotted straight lines of the figures with chance lie, in percent."""
    layouts = [json.loads(chart.proto.spec)["layout"] for chart in at.get("plotly_chart")]
    with_chance = [
        layout for layout in layouts if any("chance" in text["text"] for text in layout.get("annotations", []))
    ]
    shapes = [shape for layout in with_chance for shape in layout["shapes"]]
    found = [shape for shape in shapes if shape.get("line", {}).get("dash") == "dot" and shape.get("type") == "line"]
    return {shape[f"{axis}0"] for shape in found if shape[f"{axis}0"] == shape[f"{axis}1"]}


def test_every_page_and_table_has_the_same_chance(store: Store, dense: StoredRun) -> None:
    task = load_task(TASK)
    answers = Counter(example.gold for example in task.evaluation(N))
    majority = max(answers.values()) / N
    assert majority > 0.5
    report = load_report(store, dense)
    for found in (
        against_guessing(task, report).chance,
        guessing(task, report, ACC),
        chance_level(task, task.evaluation(N)),
        comparison_rows(task, {DENSE_CELL: report}, "dense")[0]["chance"],
    ):
        assert found == pytest.approx(majority)
    link = {"model": dense.spec.model.id, "task": TASK, "n": str(N)}
    for page, axis, more in (
        ("pages/compare.py", "y", {}),
        ("pages/prune.py", "x", {"criterion": "magnitude", "against": "global_magnitude", "sparsity": "20"}),
    ):
        at = opened(page, **link, **more)
        assert not at.exception
        assert [pytest.approx(100 * majority)] == sorted(dotted(at, axis)), page
    at = opened("app.py", **link)
    assert any(f"guessing {majority:.1%}" in str(one.proto) for one in at.get("html"))


def test_while_answers_arrive_chance_is_judged_by_the_most_there_are() -> None:
    """The first answers of a running evaluation may all be the same."""
    whole, first = (report([0, 1, 1, 0, 1]), report([0]))
    columns = [Column("dense", None, report=first), Column("cap", None, report=whole), Column("wanda", None)]
    assert chance_of(load_task(TASK), columns) == pytest.approx(0.6)
    assert chance_of(load_task("mini_science"), columns) == pytest.approx(0.5)
    assert chance_of(load_task(TASK), columns[2:]) is None


def report(gold: list[int]) -> EvalReport:
    n = len(gold)
    questions = Questions(
        ids=tuple(f"q{i}" for i in range(n)),
        gold=np.array(gold),
        tokens=np.ones((n, 2), dtype=np.int64),
        chars=np.ones((n, 2), dtype=np.int64),
    )
    return EvalReport(questions, np.zeros((n, 2), dtype=np.float32))
