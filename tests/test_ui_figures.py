"""Figures hold the numbers they were given, in the right cells, and their colours mean what the texts say."""

from __future__ import annotations

import ast
import json
import pickle
from functools import partial
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import pytest

from cap_viz.dashboard.components.chart import drawn
from cap_viz.figures.head_grid import (
    DIVERGING,
    GRID_MARGINS,
    Grid,
    colour_limit,
    grid_height,
    head_grid,
    ticks,
)
from cap_viz.figures.head_map import map_data, map_height
from cap_viz.figures.prune import importance_histogram
from cap_viz.figures.ranked_bars import example_strip, ranked_bars, spread
from cap_viz.figures.specificity import effect_scatter
from cap_viz.figures.theme import HELPS, HURTS
from cap_viz.settings import PROJECT
from cap_viz.stats import Outlier, mean_with_ci

MEAN = np.array([[0.5, -0.2, 0.0], [0.1, np.nan, -3.0]])


def grid(**changes: Any) -> Grid:
    hover = [[f"{layer},{head}" for head in range(3)] for layer in range(2)]
    return Grid(**{"mean": MEAN, "limit": 1.0, "hover": hover, "ends": ("less", "more"), **changes})


def heatmaps(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if isinstance(trace, go.Heatmap)]


def scatters(figure: go.Figure) -> list[Any]:
    return [trace for trace in figure.data if isinstance(trace, go.Scatter)]


def test_colour_limit_is_shared_and_leaves_only_outliers_out() -> None:
    first, second = np.full((10, 10), 0.1), np.full((10, 10), 0.2)
    second[0, 0] = 50.0
    assert colour_limit(first, second) == pytest.approx(0.2)
    assert colour_limit() == 1.0
    assert colour_limit(np.zeros((2, 2))) == 1.0
    assert colour_limit(np.full((2, 2), np.nan)) == 1.0


def test_scale_is_symmetric_and_neutral_at_zero() -> None:
    places = [place for place, _ in DIVERGING]
    assert places == pytest.approx([1 - place for place in reversed(places)])
    assert dict(DIVERGING)[0.5].endswith(",0)")
    for cells in heatmaps(head_grid(grid(), unit="nats"))[1:]:
        assert (cells.zmin, cells.zmid, cells.zmax) == (-1.0, 0, 1.0)


def test_faded_and_clear_cells_share_the_grid_between_them() -> None:
    faded = np.array([[True, False, False], [False, False, True]])
    _, clear_cells, faded_cells = heatmaps(head_grid(grid(faded=faded), unit="nats"))
    np.testing.assert_array_equal(np.isfinite(clear_cells.z), ~faded & np.isfinite(MEAN))
    np.testing.assert_array_equal(np.isfinite(faded_cells.z), faded & np.isfinite(MEAN))
    assert faded_cells.opacity < clear_cells.opacity


def test_clipped_cells_carry_a_triangle_and_survivors_a_dot() -> None:
    marked = np.array([[True, True, False], [False, False, True]])
    clipped, unsure, strong, weak, _ = scatters(head_grid(grid(marked=marked, limit=0.8), unit="nats"))
    assert (clipped.marker.symbol, list(clipped.y), list(clipped.x)) == ("triangle-up", [1], [2])
    assert len(unsure.x) == 0
    assert (list(strong.y), list(strong.x)) == ([0], [0])
    assert (list(weak.y), list(weak.x)) == ([0], [1])


def test_every_cell_can_be_clicked_and_says_which_head_it_is() -> None:
    targets = scatters(head_grid(grid(), unit="nats"))[-1]
    assert targets.marker.opacity == 0
    for x, y, address, text in zip(targets.x, targets.y, targets.customdata, targets.text, strict=True):
        assert (y, x) == tuple(address)
        assert text == f"{y},{x}"


def test_selected_cell_is_framed() -> None:
    layout: Any = head_grid(grid(selected=(1, 2)), unit="nats").layout
    shapes = layout.shapes
    assert [(shape.x0, shape.x1, shape.y0, shape.y1) for shape in shapes] == [(1.5, 2.5, 0.5, 1.5)]


@pytest.mark.parametrize(("n_layers", "n_heads"), [(3, 4), (30, 9), (32, 32), (80, 64)])
@pytest.mark.parametrize("text", [11, 22])
def test_a_map_is_no_higher_than_asked_and_wider_in_larger_type(n_layers: int, n_heads: int, text: int) -> None:
    data = map_data(Grid(np.zeros((n_layers, n_heads)), 1.0, ("helps", "hurts")), "nats", "Map", tallest=400, text=text)
    assert map_height(data) <= 400
    assert (data["width"] - 2 * text) / n_heads <= 4 * data["row"] * text / 11 + 1


def test_layer_labels_never_collide() -> None:
    for n_layers in (2, 30, 48, 126):
        labels = ticks(n_layers, (grid_height(n_layers) - GRID_MARGINS) // 13)
        room = (grid_height(n_layers) - GRID_MARGINS) / n_layers * (labels[1] - labels[0])
        assert labels[0] == 0
        assert room >= 13


def test_ranked_bars_show_intervals_around_the_mean() -> None:
    effects = np.array([[[0.0, 0.2], [0.3, 0.5]], [[-0.2, 0.0], [-0.1, -0.4]]])
    estimate = mean_with_ci(effects)
    figure = ranked_bars(estimate, top=3, selected=(0, 0), unit="nats")
    trace: Any = figure.data[0]
    order = [(0, 1), (0, 0), (1, 0)]
    assert list(trace.y) == ["L0 H1", "L0 H0", "L1 H0"]
    np.testing.assert_allclose(np.asarray(trace.x), [0.4, 0.1, -0.1])
    half_widths = [float(estimate.high[head] - estimate.mean[head]) for head in order]
    np.testing.assert_allclose(np.asarray(trace.error_x.array), half_widths)
    np.testing.assert_allclose(np.asarray(trace.error_x.arrayminus), half_widths)
    assert list(trace.marker.color) == [HURTS, HURTS, HELPS]
    assert [tuple(address) for address in trace.customdata] == order
    _zero_line, shade = cast(Any, figure.layout).shapes
    assert (shade.y0, shade.y1) == (0.5, 1.5)
    assert len(cast(Any, ranked_bars(estimate, top=3, selected=(1, 1), unit="nats").layout).shapes) == 1


def test_example_strip_numbers_its_points_in_the_order_given() -> None:
    effects = np.array([0.2, -0.1, 0.05])
    figure = example_strip(effects, list("abc"), unit="nats", selected=2)
    points = scatters(figure)[0]
    np.testing.assert_array_equal(np.asarray(points.x), effects)
    assert [int(number[0]) for number in points.customdata] == [0, 1, 2]
    assert points.marker.color[1] == HELPS
    assert points.marker.line.width[2] > points.marker.line.width[0]


def test_a_single_example_has_no_interval_to_draw() -> None:
    figure = example_strip(np.array([0.2]), ["a"], unit="nats")
    assert all(trace.mode != "lines" for trace in scatters(figure))


def test_spread_is_the_same_every_time_and_stays_in_its_band() -> None:
    values = np.random.default_rng(0).normal(size=50)
    np.testing.assert_array_equal(spread(values), spread(values))
    assert np.abs(spread(values)).max() <= 1


def test_the_ends_of_the_scale_say_what_they_mean() -> None:
    texts = [note.text for note in head_grid(grid(ends=("more there", "more here")), unit="SD").layout.annotations]
    assert [texts[0], texts[-1]] == ["more there  −1", "+1  more here"]


def test_the_scatter_puts_every_head_once_and_colours_what_survives() -> None:
    task, control = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[1.0, 0.0], [4.0, -1.0]])
    survives = np.array([[False, True], [True, False]])
    figure = effect_scatter(task, control, survives, names=("Task", "Text"), selected=(1, 0))
    _, noise, above, below, ring = scatters(figure)
    assert list(zip(above.x, above.y, above.customdata.tolist(), strict=True)) == [(0.0, 2.0, [0, 1])]
    assert list(zip(below.x, below.y, below.customdata.tolist(), strict=True)) == [(4.0, 3.0, [1, 0])]
    assert sorted(noise.customdata.tolist()) == [[0, 0], [1, 1]]
    assert (above.marker.color, below.marker.color) == (HURTS, HELPS)
    assert (ring.x[0], ring.y[0]) == (4.0, 3.0)


def test_every_figure_says_what_it_shows_to_those_who_cannot_see_it() -> None:
    """`chart` demands a key, without which a figure loses its state, and `alt`, which screen readers say."""
    callers = {
        file.name
        for file in (PROJECT / "cap_viz" / "dashboard").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("plotly_chart")
    }
    assert callers == {"chart.py"}


def test_a_figure_is_made_once_for_the_same_content() -> None:
    def figure(value: float) -> go.Figure:
        return drawn(pickle.dumps(partial(importance_histogram, np.array([[1.0, value]]), Outlier(0, 1, value, 0.4))))

    assert figure(5) is figure(5)
    assert figure(5) is not figure(6)


def test_a_map_sends_what_is_seen_of_every_head() -> None:
    effects = np.random.default_rng(1).normal(0.1, 0.3, size=(3, 4, 12))
    effects[1, 2] += 4
    estimate = mean_with_ci(effects)
    blocks = mean_with_ci(effects[:, :2])
    shown = Grid.of(estimate, ends=("helps", "hurts"), selected=(1, 2), also={"seen": np.full((3, 4), 5)})
    data = map_data(shown, "nats", "Effects", off=[(2, 3)], blocks=blocks)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    for name, values in (("mean", estimate.mean), ("low", estimate.low), ("high", estimate.high)):
        np.testing.assert_allclose(data[name], values.ravel(), atol=5e-4)
    assert data["rank"][data["selected"]] == 1
    assert [one == "1" for one in data["faded"]] == estimate.unclear.ravel().tolist()
    assert [one == "1" for one in data["marked"]] == estimate.survives.ravel().tolist()
    assert (data["off"], data["also"], data["whole"]) == ([11], [["seen", [5] * 12]], ["seen"])
    np.testing.assert_allclose(data["blocks"]["mean"], blocks.mean.ravel(), atol=5e-4)
    sparse = map_data(Grid(np.array([[0.1, np.nan]]), 1.0, ("helps", "hurts")), "nats", "Effects", small=True)
    assert sparse["mean"] == [0.1, None]
    assert map_height(sparse) < map_height({**sparse, "small": False})


def test_small_scales_keep_their_colours() -> None:
    """Rounded to three decimals, a map whose largest effect is 0.004 would show three colours."""
    tiny = Grid(np.array([[0.00412, 0.00371]]), 0.005, ("helps", "hurts"))
    assert map_data(tiny, "nats", "Effects")["mean"] == [0.00412, 0.00371]
