"""Overview: the chosen task leads, its map opens Heads, and only what is clearly best is marked as best."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from cap_viz.dashboard.components.panels import origin_words
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.overview.data import PruningTable, pruning_table, summarise, usual_group
from cap_viz.dashboard.overview.page import PICKED, costs_table
from cap_viz.dashboard.selection import Selection
from cap_viz.dashboard.stored import paired_in, report_of, stored_runs
from cap_viz.evaluation.eval_metrics import ACC
from cap_viz.figures.theme import HELPS, HURTS
from cap_viz.figures.thumbnail import thumbnail
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.runs.run_queries import measured_size, model_ref
from cap_viz.runs.spec import EvalSpec, ScoreSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set
from tests.test_ui_pages import computed, opened, scores, store, text
from tests.tiny import listed_run
from tests.words import numbers, saying

__all__ = ["scores", "store"]


def shipped_table(model_id: str, task_name: str) -> tuple[Frame, StoredRun[EvalSpec], PruningTable]:
    """The pruning table of a task on its usual size, from the shipped results."""
    shipped, task = Store(), load_task(task_name)
    runs, model = stored_runs(shipped), model_ref(shipped, model_id)
    n = measured_size(runs, model, task_name)
    assert n is not None
    view = Frame(shipped, runs, Selection(cast(Any, None)), model, task, n)
    dense = summarise(view, task).dense_run
    assert dense is not None
    found = pruning_table(view, task, dense)
    assert found is not None
    return view, dense, found


@pytest.mark.usefixtures("all_shipped")
def test_the_pruning_table_marks_only_what_is_clearly_above_all_others() -> None:
    """Guards: "best" was the best of a few, however small its lead (50 % on the toy model: Magnitude)."""
    view, dense, table = shipped_table(TOY_MODEL, "toy_math")
    group = usual_group(view, dense)
    assert table.sparsities == (0.1, 0.2, 0.5)
    assert list(table.rows) == ["cap", "wanda", "cap_fine"]
    marked = 0
    for place, sparsity in enumerate(table.sparsities):
        for name, cells in table.rows.items():
            cell = cells[place]
            assert cell is not None
            assert cell.accuracy == report_of(view.store, group[name, sparsity]).acc
            if cell.best:
                marked += 1
                others = [other for other in table.rows if other != name]
                for other in others:
                    lead = paired_in(view.store, group[name, sparsity], group[other, sparsity], ACC)
                    assert lead.ci.low > 0
                    assert lead.p_value * len(others) < 0.05
    assert marked == 1
    assert costs_table(table, 0.995).stack().str.count(r"\*\*").sum() == 2 * marked


@pytest.mark.usefixtures("all_shipped")
@pytest.mark.parametrize("task", ["strategyqa", "arc_challenge"])
def test_nothing_is_best_where_the_model_guesses(task: str) -> None:
    _, _, table = shipped_table(DEFAULT_MODEL, task)
    assert any(cell is not None for cells in table.rows.values() for cell in cells)
    assert not any(cell.best for cells in table.rows.values() for cell in cells if cell is not None)


def test_a_thumbnail_has_a_pixel_for_each_head_in_the_colours_of_the_maps() -> None:
    mean = np.array([[2.0, -1.0, 0.0], [0.5, -4.0, 1.0]])
    faded = np.array([[False, False, True], [False, False, True]])
    shown = re.search(r"base64,([^\"]+)", thumbnail(mean, faded, "A <map>", limit=2.0))
    assert shown is not None
    image = np.asarray(Image.open(io.BytesIO(b64decode(shown[1]))))
    teal, brown = ([int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in (HURTS, HELPS))
    assert image.shape == (2, 3, 4)
    np.testing.assert_array_equal(image[..., :3], np.where((mean >= 0)[..., None], teal, brown))
    assert image[0, 0, 3] == image[1, 1, 3] == 255
    # Weaker, clear; unclear; none.
    assert image[0, 0, 3] > image[0, 1, 3] > image[1, 0, 3] > image[0, 2, 3] > 0
    assert image[1, 2, 3] < image[0, 1, 3]
    assert 'alt="A &lt;map&gt;"' in thumbnail(mean, faded, "A <map>")


def test_the_chosen_task_leads_though_nothing_is_stored_for_it(store: Store, scores: StoredRun) -> None:
    """Guards: results of another task were shown, and the chosen one nowhere."""
    at = opened("app.py", model=scores.spec.model.id, task="mini_strategy")
    assert not at.exception
    (tile,) = at.metric
    assert load_task("mini_strategy").title in tile.label
    keys = {str(button.key) for button in at.button}
    assert {"overview_first_prune_mini_strategy", "overview_first_heads_mini_strategy", "overview_heads_tiny"} <= keys
    assert saying(at, f"{len(load_task('mini_strategy').evaluation(None))} questions")
    # Timed by the run of the other task.
    assert [one for one in saying(at, "16 examples") if re.search(r"\d+ (s|min)$", one)]


def test_a_picked_head_is_opened_on_heads(store: Store, scores: StoredRun) -> None:
    at = opened("app.py", model=scores.spec.model.id, task="tiny")
    assert at.get("bidi_component")
    at.session_state[PICKED] = (1, 2)
    at.run()
    assert at.title[0].value == "Heads"
    assert (at.query_params["task"], at.query_params["layer"]) == ("tiny", "1")


def test_a_run_taken_from_a_longer_one_has_its_origin() -> None:
    """Guards: "live" stood beside numbers cut from a shipped run."""
    ids = tuple(map(str, range(6)))
    model, examples = ModelRef("m", "0123456789abcdef"), ExampleSet("arc_easy", 1, ids, "evaluation")
    longer = listed_run(EvalSpec(model, examples), key="longer", origin="precomputed")
    taken = listed_run(EvalSpec(model, replace(examples, ids=ids[:2])), taken_from="longer", taken_of=6)
    assert origin_words(longer, [longer, taken]) == "precomputed"
    assert origin_words(taken, [longer, taken]).startswith("precomputed")
    assert numbers(origin_words(taken, [longer, taken])) == {"2", "6"}
    assert origin_words(taken, [taken]) == "live"


def test_head_scores_by_gradient_are_shown(store: Store, tiny_model: ReasoningModel, tiny_task: Task) -> None:
    spec = ScoreSpec(tiny_model.ref, calibration_set("tiny", 8), estimator="gradient", metric="nll")
    computed(store, tiny_model, spec)
    at = opened("app.py", model=tiny_model.ref.id, task="tiny")
    assert not at.exception
    assert len(at.get("bidi_component")) == 1
    assert "gradient" in text(at)
    assert "overview_first_prune_tiny" in [button.key for button in at.button]
    assert "overview_first_heads_tiny" not in [button.key for button in at.button]
