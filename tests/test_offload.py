"""A model that does not fit: weights wait on disk, and scores and accuracies are those of the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cap_viz as cv
from cap_viz.attribution.results import Ablation
from cap_viz.errors import CapVizError
from cap_viz.models import offload, weight_files
from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.models.offload import placement
from cap_viz.models.weight_files import WORKING_MEMORY_BYTES, weight_bytes
from cap_viz.tasks import Task


@pytest.fixture(scope="module", params=[2 / 3, 0.0], ids=["a third elsewhere", "all elsewhere"])
def offloaded(
    request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ReasoningModel:
    """The tiny model with room for a share of its weights."""
    room = WORKING_MEMORY_BYTES + int(request.param * weight_bytes(tiny_folder, "float32"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAP_VIZ_OFFLOAD", str(tmp_path_factory.mktemp("offload")))
        patch.setattr(offload, "free_memory", lambda device: room)
        return load(resolve(str(tiny_folder)))


def test_some_weights_are_elsewhere(offloaded: ReasoningModel) -> None:
    places = {parameter.device.type for parameter in offloaded.bridge.parameters()}
    assert "meta" in places <= {"cpu", "meta"}
    assert offloaded.offloaded
    assert offloaded.device.type == "cpu"


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_scores_are_those_of_the_whole_model(
    offloaded: ReasoningModel, tiny_model: ReasoningModel, tiny_task: Task, ablation: Ablation
) -> None:
    examples = tiny_task.calibration(4)
    ours, whole = (cv.score_heads(model, examples, ablation=ablation) for model in (offloaded, tiny_model))
    np.testing.assert_allclose(ours.ablated, whole.ablated, atol=2e-5)


def test_accuracies_are_those_of_the_whole_model(
    offloaded: ReasoningModel, tiny_model: ReasoningModel, tiny_task: Task
) -> None:
    examples = tiny_task.evaluation(8)
    ours, whole = (cv.evaluate(model, examples) for model in (offloaded, tiny_model))
    np.testing.assert_allclose(ours.logliks, whole.logliks, atol=2e-5)


def test_what_needs_the_weights_at_hand_is_a_sentence(offloaded: ReasoningModel, tiny_task: Task) -> None:
    examples = tiny_task.calibration(4)
    with pytest.raises(CapVizError, match=r"fetched block by block; to prune it, use a larger device or a lower"):
        cv.prune_mask(offloaded, "wanda", sparsity=0.5, calibration=examples)
    with pytest.raises(CapVizError, match=r"to estimate by gradients, use a larger device"):
        cv.score_heads(offloaded, examples, estimator="gradient")


def test_what_fits_is_placed_as_ever_and_what_does_not_is_refused_without_a_folder(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAP_VIZ_OFFLOAD", "somewhere")
    assert placement("tiny", tiny_folder, "float32", "cpu") == {}
    for module in (offload, weight_files):
        monkeypatch.setattr(module, "free_memory", lambda device: WORKING_MEMORY_BYTES + 8)
    found = placement("tiny", tiny_folder, "float32", "cuda:1")
    assert found == {"device_map": "auto", "max_memory": {1: 8, "cpu": 8}, "offload_folder": "somewhere"}
    monkeypatch.delenv("CAP_VIZ_OFFLOAD")
    with pytest.raises(CapVizError, match=r"has to hold it whole.*Or name a folder by CAP_VIZ_OFFLOAD"):
        placement("tiny", tiny_folder, "float32", "cpu")
