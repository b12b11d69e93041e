"""`score` by gradient and by the hybrid of exact and gradient effects."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from cap_viz.attribution.gradient import gradient_effects
from cap_viz.models.loading import ReasoningModel
from cap_viz.stats import hybrid_mean
from cap_viz.tasks import TASKS, Splits, Task
from tests.shell import Shell
from tests.tiny import tiny_examples
from tests.words import numbers


def test_score_by_gradient(shell: Shell, tiny: list[str], tiny_model: ReasoningModel, tiny_task: Task) -> None:
    answer = shell.json("score", *tiny, "--n", "5", "--estimator", "gradient", "--metric", "logit_diff", "--full")
    found = gradient_effects(tiny_model, tiny_task.calibration(5), metric="logit_diff", units=True)
    assert answer["effects"] == found.per_example.tolist()
    assert found.units is not None
    assert answer["unit_effect"] == found.units.tolist()
    assert (answer["estimator"], answer["metric"], answer["n"]) == ("gradient", "logit_diff", 5)
    assert shell.json("score", *tiny, "--n", "5", "--estimator", "gradient")["key"] != answer["key"]
    (listed,) = [line for line in shell("runs")[1].splitlines() if "logit_diff" in line]
    assert "gradient" in listed
    assert "zero" in listed


def test_score_by_both_estimators(
    shell: Shell, tiny: list[str], tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = tiny_examples(41)
    task = replace(tiny_task, load=lambda: Splits(calibration=examples[:40], evaluation=examples[40:]))
    monkeypatch.setitem(TASKS, "tiny", task)
    hybrid = [*tiny, "--n", "16", "--estimator", "hybrid", "--big-n", "32"]
    answer = shell.json("score", *hybrid)
    assert (answer["n"], answer["n_gradient"], len(answer["example_ids"])) == (16, 32, 32)
    exact = shell.json("score", *tiny, "--n", "16", "--full")
    gradient = shell.json("score", *tiny, "--n", "32", "--estimator", "gradient", "--full")
    keys = {name: run["key"] for name, run in answer["runs"].items()}
    assert keys == {"exact": exact["key"], "gradient": gradient["key"]}
    many = np.array(gradient["effects"])
    expected = hybrid_mean(np.array(exact["effects"]), many[..., :16], many)
    np.testing.assert_allclose(answer["mean_effect"], expected.mean)
    np.testing.assert_allclose(answer["ci_low"], expected.low)
    unbiased = shell.json("score", *hybrid, "--slope", "one")
    assert np.unique(unbiased["slope"]).tolist() == [1.0]
    code, out, _ = shell("score", *hybrid)
    assert code == 0
    assert {"16", "32"} <= numbers(next(line for line in out.splitlines() if "gradient" in line))


def test_a_pilot_chooses_the_sizes(
    shell: Shell, tiny: list[str], tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = tiny_examples(41)
    task = replace(tiny_task, load=lambda: Splits(calibration=examples[:40], evaluation=examples[40:]))
    monkeypatch.setitem(TASKS, "tiny", task)
    hybrid = [*tiny, "--estimator", "hybrid"]
    easy = shell.json("score", *hybrid, "--half-width", "100")
    assert (easy["planned"]["n"], easy["planned"]["n_gradient"]) == (easy["n"], easy["n_gradient"]) == (16, 16)
    code, _, err = shell("score", *hybrid, "--minutes", "60")
    assert code == 0
    planned = next(line for line in err.splitlines() if "gradient" in line)
    assert re.findall(r"\b\d+ (?:examples|by)", planned) == ["40 examples", "40 by"], "an hour is enough for all"
    for wrong, named in (
        (["--half-width", "1e-9"], ["half-width", "1e-09", "40"]),
        (["--minutes", "1e-9"], ["0 seconds", "hybrid"]),
        (["--minutes", "1", "--half-width", "1"], ["hybrid", "time", "half-width"]),
    ):
        code, _, err = shell("score", *hybrid, *wrong)
        assert code == 2
        assert all(part in " ".join(err.split()) for part in named), err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--minutes", "1"], ["--estimator hybrid"]),
        (["--estimator", "gradient", "--metric", "accuracy"], ["accuracy", "gradient", "nll"]),
        (["--estimator", "hybrid", "--metric", "accuracy"], ["ccuracy", "gradient"]),
        (["--estimator", "hybrid", "--n", "8"], ["at least 16", "n = 8"]),
        (["--estimator", "hybrid", "--n", "64", "--big-n", "32"], ["32", "64"]),
        (["--estimator", "hybrid", "--slope", "two"], ["slope", "'two'", "one"]),
        (["--estimator", "hybrid", "--ids", "ids.txt"], ["hybrid", "--ids"]),
    ],
)
def test_mistakes_get_one_sentence(shell: Shell, arguments: list[str], named: list[str]) -> None:
    code, out, err = shell("score", *arguments)
    assert (code, out) == (2, "")
    assert all(part in err for part in named), err
