"""What heads attend to: by hand, against transformers' own attention weights, and as a stored run."""

from __future__ import annotations

from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cap_viz.attribution.attention_patterns import (
    MEASURES,
    HeadRoles,
    induction,
    patterns,
    random_sequences,
    role_steps,
    sequences,
    summed,
)
from cap_viz.errors import UsageError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.patterns import load_patterns
from cap_viz.runs.run_queries import role_spec
from cap_viz.runs.spec import RoleSpec, ScoreSpec, spec_dict, spec_from_dict
from cap_viz.runs.store import Store
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import calibration_set
from tests.tiny import tiny_examples

# One head on four tokens. Rows 2 and 3 count; row 3 looks at all four alike.
PATTERN = torch.tensor(
    [
        [
            [1.0, 0.0, 0.0, 0.0],
            [0.5, 0.5, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0],
            [0.25, 0.25, 0.25, 0.25],
        ]
    ]
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def test_measures_by_hand() -> None:
    found = summed(PATTERN)
    # To the token before: 1 from the third token, a quarter from the fourth; to the first: 0 and a quarter.
    assert found["previous_token"].tolist() == [1.25]
    assert found["first_token"].tolist() == [0.25]
    # Entropies 0 and log 4, as shares of log 3 and log 4.
    assert found["entropy"][0] == pytest.approx(0 / log(3) + log(4) / log(4))


def test_induction_by_hand() -> None:
    """Tokens a b a b: the second a should look at b, the second b at the second a."""
    pattern = torch.zeros(1, 4, 4)
    pattern[0, 2, 1] = 0.8
    pattern[0, 3, 2] = 0.4
    pattern[0, 1, 0] = 1.0  # In the first half: does not count.
    assert induction(pattern)[0] == pytest.approx(0.6)


def test_patterns_are_those_of_transformers(tiny_model: ReasoningModel, tiny_folder: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="eager")
    tokens = sequences(tiny_model, tiny_examples(1))[0]
    with torch.inference_mode():
        theirs = network(torch.tensor([tokens]), output_attentions=True).attentions
    ours = patterns(tiny_model, tokens, range(tiny_model.shape.n_layers))
    for layer, attention in enumerate(theirs):
        np.testing.assert_allclose(ours[layer].numpy(), attention[0].numpy(), atol=1e-5)


def test_means_are_over_all_positions_of_all_examples(tiny_model: ReasoningModel) -> None:
    examples = tiny_examples(3)
    roles = finish(role_steps(tiny_model, examples))
    total, count = np.zeros((3, 4)), 0
    for tokens in sequences(tiny_model, examples):
        for layer, pattern in patterns(tiny_model, tokens, range(tiny_model.shape.n_layers)).items():
            for head in range(4):
                total[layer, head] += sum(float(pattern[head, i, i - 1]) for i in range(2, len(tokens)))
        count += len(tokens) - 2
    np.testing.assert_allclose(roles.values["previous_token"], total / count, atol=1e-5)
    assert roles.n == 3
    for name in MEASURES:
        assert roles.values[name].shape == (3, 4)
        assert (roles.values[name] >= 0).all()
        assert (roles.values[name] <= 1 + 1e-6).all()


def test_random_sequences_are_written_twice_and_the_same_every_time(tiny_model: ReasoningModel) -> None:
    first = random_sequences(tiny_model)
    assert first == random_sequences(tiny_model)
    for tokens in first:
        assert tokens[: len(tokens) // 2] == tokens[len(tokens) // 2 :]


def test_ranks() -> None:
    roles = HeadRoles({name: np.array([[0.1, 0.9], [0.5, 0.5]]) for name in MEASURES}, 1)
    assert roles.rank("entropy").tolist() == [[4, 1], [2, 3]]


def test_a_stored_run(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    scores = ScoreSpec(tiny_model.ref, calibration_set("tiny", 4))
    spec = role_spec(scores)
    assert spec == RoleSpec(tiny_model.ref, scores.examples)
    assert spec_from_dict(spec_dict(spec)) == spec
    run = finish(run_steps(spec, tiny_model, store))
    stored, fresh = load_patterns(store, run), finish(role_steps(tiny_model, tiny_task.calibration(4)))
    for name in MEASURES:
        np.testing.assert_allclose(stored.values[name], fresh.values[name], atol=1e-7)
    assert stored.n == 4


def test_no_examples_is_one_sentence(tiny_model: ReasoningModel) -> None:
    with pytest.raises(UsageError, match="no example of at least three tokens"):
        finish(role_steps(tiny_model, ()))
