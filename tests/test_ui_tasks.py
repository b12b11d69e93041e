"""The Tasks page: its figures and tables by hand, and the page itself on the shipped runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.dashboard.stored import HeadStatistics
from cap_viz.dashboard.tasks.data import Measured, pairs, shared_heads
from cap_viz.dashboard.tasks.page import short
from cap_viz.figures.tasks import Mosaic, TaskMap, task_maps
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import PROJECT
from cap_viz.stats import rank_agreement, rank_heads, true_spread
from cap_viz.tasks import TASKS
from tests.words import bold_titles, saying

pytestmark = pytest.mark.usefixtures("all_shipped")


@dataclass(frozen=True)
class NoRun:
    """Figures and tables need the numbers of a run only."""


def measured(name: str, effects: np.ndarray) -> Measured:
    return Measured(TASKS[name], cast(Any, NoRun()), HeadStatistics(effects), true_spread(effects))


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


def test_a_click_finds_its_head_in_every_map_and_nothing_between_them() -> None:
    place = Mosaic(n_maps=5, n_layers=3, n_heads=4, columns=3)
    assert place.rows == 2
    for i in range(5):
        row, column = place.corner(i)
        assert place.head_at(row, column) == (0, 0)
        assert place.head_at(row + 2, column + 3) == (2, 3)
        assert place.head_at(row - 1, column) is None
    assert place.head_at(place.corner(0)[0], 4) is None


def test_maps_lie_in_the_common_grid_where_the_clicks_are_looked_up(three: list[Measured]) -> None:
    values = [one.stats.estimate.mean for one in three]
    none, rank = np.zeros((2, 2), dtype=bool), np.array([[1, 2], [3, 4]])
    maps = [TaskMap(f"task {i}", f"task {i}", mean, rank, none, none) for i, mean in enumerate(values)]
    figure = task_maps(maps, limit=1.0, unit="nats", ends=("", ""), columns=2, selected=(1, 0))
    cells, place = cast(Any, figure.data[1]).z, Mosaic(3, 2, 2, 2)
    for i, targets in enumerate(cast(Any, figure.data[-3:])):
        assert targets.hovertemplate.startswith(f"task {i}, layer %{{customdata[0]}}")
        for x, y, (layer, head, value, place_in_order) in zip(targets.x, targets.y, targets.customdata, strict=True):
            assert place.head_at(int(y), int(x)) == (layer, head)
            assert cells[y, x] == value == pytest.approx(values[i][int(layer), int(head)])
            assert place_in_order == rank[int(layer), int(head)]
        assert len(targets.x) == 4
    assert np.isfinite(cells).sum() == 12
    framed = [(shape.x0 + 0.5, shape.y0 + 0.5) for shape in cast(Any, figure.layout).shapes]
    assert framed == [(column, row + 1) for row, column in (place.corner(i) for i in range(3))]


def test_pairs_count_shared_heads_and_correlate_all(three: list[Measured]) -> None:
    found = pairs(three, k=2)
    assert set(found) == {("mini_science", "mini_math"), ("mini_science", "mini_text"), ("mini_math", "mini_text")}
    # Ranks 1 2 3 4 against 1 3 2 4: Spearman's 1 - 6 * 2 / (4 * 15) = 0.8; the second two differ by (4, 1, 3, 2).
    assert found["mini_science", "mini_math"].ranks.correlation == pytest.approx(0.8)
    assert found["mini_science", "mini_text"].ranks.correlation == pytest.approx(-1.0)
    assert found["mini_science", "mini_math"].shared.shared == 1
    assert found["mini_science", "mini_text"].shared.shared == 0
    assert found["mini_science", "mini_math"].shared.expected == pytest.approx(1.0)


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


def test_standardised_effects_share_a_scale(three: list[Measured]) -> None:
    """Means 8 4 6 2 are twice 4 2 3 1: after division by their spread they are the same numbers."""
    first, second, _ = three
    np.testing.assert_allclose(
        np.sort(first.standardised, axis=None), np.sort(second.standardised, axis=None), rtol=0.02
    )


@pytest.mark.parametrize(("value", "words"), [(0.873, ".87"), (-0.104, "−.10"), (1.0, "1.00"), (float("nan"), "–")])
def test_correlations_are_printed_as_in_papers(value: float, words: str) -> None:
    assert short(value) == words


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
    matrix = json.loads(at.get("plotly_chart")[1].proto.spec)
    assert "Generic text" in json.dumps(matrix["layout"], ensure_ascii=False)


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
    assert saying(at, f"**{correlation:.2f}**", f"**{int(both.sum())}**", f"top {k}")


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
