"""The Tasks page: its figures and tables by hand, and the page itself on the shipped runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.dashboard.tasks.data import RAW, STANDARDISED, Measured, TaskPair, pair_table, shared_heads
from cap_viz.dashboard.tasks.page import matrix_of
from cap_viz.figures.tasks import agreement_matrix, correlation_words
from cap_viz.figures.thumbnail import thumbnail
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import PROJECT
from cap_viz.stats import HeadStatistics, rank_agreement, rank_heads, true_spread
from cap_viz.tasks import TASKS
from cap_viz.tasks.own import add_task
from tests.words import bold_titles, saying

pytestmark = pytest.mark.usefixtures("all_shipped")


@dataclass(frozen=True)
class NoRun:
    """Figures and tables need the numbers of a run only."""


def measured(name: str, effects: np.ndarray) -> Measured:
    return Measured(TASKS[name], cast(Any, NoRun()), HeadStatistics(effects), true_spread(effects), TASKS[name].title)


def noisy(means: list[list[float]], seed: int) -> np.ndarray:
    """Effects of 6 examples whose means are exactly these."""
    noise = np.random.default_rng(seed).normal(size=(*np.shape(means), 6)) * 0.01
    return np.asarray(means)[..., None] + noise - noise.mean(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def three() -> list[Measured]:
    """Two layers of two heads. Order by effect: A 0.0 0.1 1.0 1.1; B 0.0 1.0 0.1 1.1; text 1.1 1.0 0.1 0.0."""
    return [
        measured("mini_science", noisy([[4.0, 3.0], [2.0, 1.0]], 0)),
        measured("mini_math", noisy([[8.0, 4.0], [6.0, 2.0]], 1)),
        measured("mini_text", noisy([[1.0, 2.0], [3.0, 4.0]], 2)),
    ]


def test_the_matrix_is_symmetric_with_reliabilities_on_its_diagonal(three: list[Measured]) -> None:
    choice = TaskPair(three[0], three[2], STANDARDISED, 2)
    matrix = matrix_of(three, choice, pair_table(three, k=2))
    np.testing.assert_array_equal(matrix.values, matrix.values.T)
    assert matrix.values[0, 1] == pytest.approx(0.8)
    reliabilities = [one.stats.reliability for one in three]
    assert [matrix.values[i, i] for i in range(3)] == [one.full for one in reliabilities if one is not None]
    figure = agreement_matrix(matrix)
    clicked = cast(Any, figure.data[1])
    assert [clicked.text[3 * row + column] for row, column in ((0, 1), (1, 0), (0, 2))] == [".80", ".80", "−1.00"]
    assert (clicked.x[2], clicked.y[2]) == (2, 0)
    framed = {(shape.x0 + 0.5, shape.y0 + 0.5) for shape in cast(Any, figure.layout).shapes}
    assert framed == {(2, 0), (0, 2)}


def test_a_thumbnail_frames_the_selected_head() -> None:
    mean, none = np.array([[1.0, -1.0], [0.5, 0.0]]), np.zeros((2, 2), dtype=bool)
    assert "position:absolute" not in thumbnail(mean, none, "Map", size=(20, 10))
    framed = thumbnail(mean, none, "Map", size=(20, 10), selected=(1, 0))
    # Cells are 10 × 5 pixels, the frame is 2 pixels wider all round.
    assert "top:3px;left:-2px;width:14px;height:9px" in framed
    assert 'width="20" height="10"' in framed


def test_shared_heads_count_reasoning_tasks_only(three: list[Measured]) -> None:
    """Top 2: heads (0, 0) (0, 1) of the first, (0, 0) (1, 0) of the second, (1, 1) (1, 0) of the text."""
    table = shared_heads(three, k=2)
    rows = {(row["layer"], row["head"]): row for row in table.to_dict("records")}
    assert list(table["tasks"]) == [2, 1, 1, 0]
    assert (table["layer"][0], table["head"][0]) == (0, 0)
    assert rows[1, 0]["median_rank"] == 2.5
    assert rows[1, 1]["tasks"] == 0
    assert rows[1, 1]["rank_mini_text"] == 1
    assert rows[0, 1]["rank_mini_math"] == 3


def test_pairs_of_tasks_are_in_the_table(three: list[Measured]) -> None:
    table = pair_table(three, k=2)
    assert list(table["shared"]) == [1, 0, 1]
    np.testing.assert_allclose(table["by_chance"], 1.0)
    # Ranks 1 2 3 4 against 1 3 2 4: Spearman's 1 - 6 * 2 / (4 * 15) = 0.8; the second two differ by (4, 1, 3, 2).
    np.testing.assert_allclose(table["correlation"], [0.8, -1.0, -0.8])
    assert list(table["first"]) == [TASKS[name].title for name in ("mini_science", "mini_science", "mini_math")]
    assert list(table["second"]) == [TASKS[name].title for name in ("mini_math", "mini_text", "mini_text")]


def test_standardised_effects_share_a_scale(three: list[Measured]) -> None:
    """Means 8 4 6 2 are twice 4 2 3 1: after division by their spread they are the same numbers."""
    first, second = (np.sort(one.estimate(STANDARDISED).mean, axis=None) for one in three[:2])
    np.testing.assert_allclose(first, second, rtol=0.02)
    np.testing.assert_array_equal(three[1].estimate(RAW).mean, three[1].stats.estimate.mean)


@pytest.mark.parametrize(("value", "words"), [(0.873, ".87"), (-0.104, "−.10"), (1.0, "1.00"), (float("nan"), "–")])
def test_correlations_are_printed_as_in_papers(value: float, words: str) -> None:
    assert correlation_words(value) == words


def opened(**params: str) -> AppTest:
    at = AppTest.from_file(str(PROJECT / "app.py"), default_timeout=60)
    at.switch_page("pages/tasks.py")
    for name, value in params.items():
        at.query_params[name] = value
    return at.run()


def test_the_page_shows_the_shipped_tasks_and_the_pair_of_the_link() -> None:
    at = opened(task="mini_science", against="arc_easy", k="10")
    assert not at.exception
    assert saying(at, "Mini science", "ARC-Easy", "top 10")
    assert any("Generic text" in chart.proto.spec for chart in at.get("plotly_chart"))
    # Both tasks and their difference.
    assert len(at.get("bidi_component")) == 3


def test_the_sentence_about_a_pair_is_what_the_statistics_say() -> None:
    at = opened(task="mini_science", against="arc_easy")
    store = Store()
    means = {
        run.spec.examples.task: load_scores(store, run).mean_effect("nll")
        for run in store.runs()
        if isinstance(run.spec, ScoreSpec) and run.spec.parts is None
    }
    correlation = rank_agreement(means["mini_science"], means["arc_easy"], 1.0, 1.0).correlation
    k = round(0.1 * means["arc_easy"].size)
    both = (rank_heads(means["mini_science"]) <= k) & (rank_heads(means["arc_easy"]) <= k)
    (said,) = saying(at, f"**{correlation:.2f}**", f"**{int(both.sum())}**", f"top {k}")
    # p as everywhere else, never "5.1e-05".
    assert "p < 0.001" in said


def test_a_name_below_the_maps_compares_its_task() -> None:
    at = opened(task="mini_science")
    at.button(key="tasks_compare_arc_easy").click().run()
    assert at.selectbox(key="against").value == "arc_easy"
    assert at.query_params["against"] in ("arc_easy", ["arc_easy"])
    assert at.button(key="tasks_compare_arc_easy").disabled


def test_a_task_without_scores_is_said_once_with_the_way_to_score_it(tmp_path: Path) -> None:
    rows = tmp_path / "riddles.jsonl"
    rows.write_text("".join(f'{{"question": "{n} ?", "answer": true}}\n' for n in range(8)), encoding="utf-8")
    add_task(rows, tuple(TASKS))
    at = opened(task="riddles")
    assert len(saying(at, "Riddles", "No head scores")) == 1
    assert not at.info
    at.button(key="tasks_score").click().run()
    assert (at.title[0].value, at.selectbox(key="task").value) == ("Heads", "riddles")


def test_bad_values_in_a_link_fall_back_with_a_note() -> None:
    at = opened(against="nonsense", scale="metres", k="100000")
    assert not at.exception
    notes = " ".join(str(element.value) for element in at.info)
    assert "nonsense" in notes
    assert "metres" in notes
    assert "100000" in notes


def test_a_single_task_has_nothing_to_be_compared_with(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cap_viz.dashboard.frame.Store", lambda: Store(shipped=tmp_path / "none", local=tmp_path / "local")
    )
    at = opened()
    assert not at.exception
    assert len(bold_titles(at)) == 1
    assert "tasks_start" in [button.key for button in at.button]
    assert saying(at, f"python -m cap_viz score --model {at.selectbox(key='model').value} --task mini_science")
    assert not at.get("plotly_chart")
