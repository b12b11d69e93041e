"""Heads removed together, as a stored run and on the Heads page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cap_viz.attribution.joint_ablation import joint_effects
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.attribution.results import Questions
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds import numbers_of
from cap_viz.runs.kinds.joint import judged, load_joint, sets_of
from cap_viz.runs.spec import JointSpec, spec_dict, spec_from_dict
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set

HEADS = ((0, 1), (2, 3))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def test_sets_are_the_set_its_heads_and_others() -> None:
    spec = JointSpec(model=None, examples=None, heads=HEADS)  # type: ignore[arg-type]
    sets = sets_of(spec, 3, 4)
    assert sets[:4] == ((), HEADS, ((0, 1),), ((2, 3),))
    assert len(sets) == 4 + 19
    assert all(len(heads) == 2 and not set(heads) & set(HEADS) for heads in sets[4:])
    assert sets == sets_of(spec, 3, 4)
    with pytest.raises(UsageError, match=r"\b2 heads\b.*\b1\b"):
        sets_of(JointSpec(model=None, examples=None, heads=HEADS), 1, 2)  # type: ignore[arg-type]


def test_a_stored_run_holds_what_the_engine_measures(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    spec = JointSpec(
        tiny_model.ref, evaluation_set("tiny", 3), HEADS, ablation="mean", reference=calibration_set("tiny", 4)
    )
    assert spec_from_dict(json.loads(json.dumps(spec_dict(spec)))) == spec
    run = finish(run_steps(spec, tiny_model, store))
    stored = load_joint(store, run)
    fresh = joint_effects(
        tiny_model, tiny_task.evaluation(3), [HEADS, ((0, 1),)], ablation="mean", reference=tiny_task.calibration(4)
    )
    assert_allclose(stored.ablated[:3], fresh.ablated, atol=1e-6)
    table = numbers_of(store, run)
    assert table["what"].value_counts().to_dict() == {"random": 19 * 4, "head": 2 * 4, "set": 4}
    first = table[(table["metric"] == "nll") & (table["what"] == "set")].iloc[0]
    assert first["heads"] == "L0H1 L2H3"
    assert first["mean_effect"] == pytest.approx(fresh.effects("nll")[1].mean(), abs=1e-6)


def test_judged_by_hand() -> None:
    """Two questions of two options; the losses are chosen, so sums and excess can be checked by hand."""
    spec = JointSpec(model=None, examples=None, heads=((0, 0), (0, 1)))  # type: ignore[arg-type]
    sets = sets_of(spec, 2, 4)
    ones = np.ones((2, 2), dtype=np.int64)
    questions = Questions(ids=("a", "b"), gold=np.zeros(2, dtype=np.int64), tokens=ones, chars=ones)
    # Loss per token of the right option: dense 1, together 4 and 5, singles 2 and 2.5, random sets 1.
    gold = np.array([[-1, -1], [-4, -5], [-2, -2], [-2.5, -2.5], *[[-1, -1]] * 19])
    scores = JointScores(questions, sets, np.stack([gold, np.full_like(gold, -9.0)], axis=-1))
    found = judged(spec, scores, "nll")
    assert float(found.joint.mean) == pytest.approx(3.5)
    assert float(found.singles.mean) == pytest.approx(2.5)
    assert float(found.excess.mean) == pytest.approx(1.0)
    assert (found.random_low, found.random_high) == (0, 0)
    assert found.p_value == pytest.approx(1 / 20)


def test_effects_of_sets_are_tabulated_by_hand() -> None:
    """The right option falls from -1 to -3 on one question and to -4 on the other: the loss rises by 2.5."""
    ones = np.ones((2, 2), dtype=np.int64)
    questions = Questions(ids=("a", "b"), gold=np.zeros(2, dtype=np.int64), tokens=ones, chars=ones)
    gold = np.array([[-1, -1], [-3, -4], [-1, -1]])
    scores = JointScores(questions, ((), HEADS, ((1, 1),)), np.stack([gold, np.full_like(gold, -9)], axis=-1) * 1.0)
    table = scores.to_pandas("nll")
    assert table["set"].tolist() == [1, 2]
    assert table["heads"].tolist() == ["L0H1 L2H3", "L1H1"]
    assert table["size"].tolist() == [2, 1]
    assert table["mean_effect"].tolist() == [2.5, 0]
    assert scores.headline.startswith("2 sets of 1 or 2 heads, 2 examples, nll")
    assert list(scores.plot("nll").data[0].y) == ["1: L0 H1, L2 H3", "2: L1 H1"]  # pyright: ignore


def test_a_head_that_is_not_there_is_one_sentence(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    spec = JointSpec(tiny_model.ref, evaluation_set("tiny", 2), ((9, 0),))
    with pytest.raises(UsageError, match=r"\bhead 0\b.*\blayer 9\b"):
        finish(run_steps(spec, tiny_model, store))
