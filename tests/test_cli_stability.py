"""`stability`: rankings by different ablations compared, from stored runs."""

from __future__ import annotations

import pytest

from cap_viz.attribution.exact import exact_scores
from cap_viz.attribution.results import ABLATIONS
from cap_viz.models.loading import ReasoningModel
from cap_viz.stats import rank_stability
from cap_viz.tasks import Task
from tests.shell import Shell


def test_the_library_s_numbers(shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tiny_task: Task) -> None:
    answer = shell.json("stability", *tiny, "--n", "6")
    examples = tiny_task.calibration(6)
    scores = {name: exact_scores(tiny_model, examples, ablation=name).mean_effect("nll") for name in ABLATIONS}
    expected = rank_stability(scores)
    assert answer["ablations"] == list(ABLATIONS)
    assert answer["spearman"] == expected.spearman.tolist()
    assert answer["overlap"] == expected.overlap.tolist()
    assert answer["spearman"][0][2] < 1
    assert set(answer["reliability"]) == set(ABLATIONS)
    code, out, _ = shell("stability", *tiny, "--n", "6", "--ablations", "zero,resample")
    assert code == 0
    assert "resample" in out
    assert "mean" not in out
    assert f"{expected.spearman[0, 2]:.2f}" in out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--ablations", "zero"], ["ablation", "'zero'"]),
        (["--ablations", "zero,noise"], ["ablation", "'noise'", "resample"]),
        (["--metric", "loss"], ["metric", "'loss'", "choice_nll"]),
    ],
)
def test_refused(shell: Shell, tiny: list[str], options: list[str], named: list[str]) -> None:
    code, _, err = shell("stability", *tiny, *options)
    assert code == 2
    assert all(part in " ".join(err.split()) for part in named), err
