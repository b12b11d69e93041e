"""Specificity: numbers worked out by hand, a plain bootstrap as oracle, and coverage where the truth is known."""

from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats import rank_agreement, specificity, top_overlap

TASK = np.array([[[1.0, 3.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]]])
CONTROL = np.array([[[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 3.0, 3.0]]])


def test_two_heads_by_hand() -> None:
    """Task means 2 and 0: V = 2, v = (0.5 + 4.5) / 2 = 2.5, σ² = 2 - 0.5 / 3. Control means 1 and 3, no noise."""
    found = specificity(TASK, CONTROL)
    assert found.task_scale == pytest.approx(sqrt(11 / 6))
    assert found.control_scale == pytest.approx(sqrt(2))
    np.testing.assert_allclose(found.task, [[2 / sqrt(11 / 6), 0]])
    np.testing.assert_allclose(found.control, [[1 / sqrt(2), 3 / sqrt(2)]])
    np.testing.assert_allclose(found.mean, [[2 / sqrt(11 / 6) - 1 / sqrt(2), -3 / sqrt(2)]])
    assert found.rank.tolist() == [[1, 2]]
    assert (found.n_task, found.n_control) == (4, 4)


def test_standard_error_agrees_with_every_possible_resample() -> None:
    """All 4⁴ draws of the task's examples, by the formulas of the module docstring."""
    random = np.random.default_rng(3)
    effects = np.array([4.0, 1.0, -1.0, 0.5, 2.0])[:, None] + random.normal(size=(5, 4))
    control = np.repeat(np.array([1.0, 2.0, 3.0, 4.0, 5.0])[:, None], 4, axis=1)
    total = effects.mean(axis=1).var(ddof=1)
    sigma = sqrt(total - (effects.var(axis=0, ddof=1).mean() - total) / 3)
    drawn = []
    for rows in product(range(4), repeat=4):
        sample = effects[:, list(rows)]
        mean = sample.mean(axis=1)
        v = mean.var(ddof=1)
        signal = max(v - (sample.var(axis=0, ddof=1).mean() - v) / 3, 0.1 * v)
        drawn.append(mean / sqrt(signal) * sqrt(total) / sigma)
    expected = np.std(drawn, axis=0) * sqrt(4 / 3)
    found = specificity(effects[None], control[None], resamples=20_000)
    np.testing.assert_allclose(found.std_error[0], expected, rtol=0.03)
    # All the noise is the task's, so Welch leaves its 3 degrees of freedom.
    margin = stats.t.ppf(0.975, 3) * found.std_error
    np.testing.assert_allclose(found.high - found.low, 2 * margin, rtol=1e-6)


def test_units_do_not_matter_and_the_same_seed_gives_the_same_bits() -> None:
    random = np.random.default_rng(0)
    task = random.normal(size=(3, 4, 1)) + random.normal(size=(3, 4, 12))
    control = random.normal(size=(3, 4, 1)) + random.normal(size=(3, 4, 8))
    found, scaled = specificity(task, control), specificity(1000 * task, control / 7)
    np.testing.assert_allclose(scaled.mean, found.mean)
    np.testing.assert_allclose(scaled.low, found.low)
    np.testing.assert_array_equal(specificity(task, control).low, found.low)


def test_few_examples_do_not_shrink_standardised_effects() -> None:
    """The same true effects from 6 noisy examples and from 60: on average the same z, while a plain z shrinks."""
    random = np.random.default_rng(1)
    truth = random.normal(size=(1, 40))
    largest = int(truth.argmax())
    corrected, plain = [], []
    for _ in range(150):
        few = truth[..., None] + 1.5 * random.normal(size=(1, 40, 6))
        many = truth[..., None] + 1.5 * random.normal(size=(1, 40, 60))
        found = specificity(few, many, resamples=2)
        corrected.append(found.mean[0, largest])
        mean = few.mean(axis=-1)
        plain.append(mean[0, largest] / mean.std(ddof=1) - truth[0, largest] / truth.std(ddof=1))
    assert abs(np.mean(corrected)) < 4 * np.std(corrected) / sqrt(150) + 0.05
    assert np.mean(plain) < -0.2


def test_intervals_cover_the_true_difference() -> None:
    """One random head of each simulated pair of runs: hits are binomial, if 95 % means 95 %."""
    random = np.random.default_rng(1)
    hits, runs = 0, 250
    for seed in range(runs):
        task, other = random.normal(size=(2, 6, 8))
        control = 0.6 * task + 0.8 * other
        truth = task / task.std(ddof=1) - control / control.std(ddof=1)
        found = specificity(
            task[..., None] + 3 * random.normal(size=(6, 8, 48)),
            7 * (control[..., None] + 3 * random.normal(size=(6, 8, 16))),
            resamples=150,
            seed=seed,
        )
        head = tuple(random.integers((6, 8)))
        hits += bool(found.low[head] <= truth[head] <= found.high[head])
    low, high = stats.binom.ppf([0.0005, 0.9995], runs, 0.95)
    assert low <= hits <= high


def test_equal_runs_have_no_specific_heads_and_survivors_follow_the_p_values() -> None:
    random = np.random.default_rng(5)
    truth = random.normal(size=(5, 8, 1))
    same = specificity(truth + random.normal(size=(5, 8, 20)), truth + random.normal(size=(5, 8, 20)))
    assert not same.survives.any()
    other = truth.copy()
    other[2, 3] = -8.0
    apart = specificity(truth + random.normal(size=(5, 8, 20)), other + random.normal(size=(5, 8, 20)))
    assert apart.survives[2, 3]
    assert int(apart.rank[2, 3]) == 1
    ours = stats.false_discovery_control(apart.p_value.ravel()).reshape(5, 8)
    np.testing.assert_array_equal(apart.survives, ours <= 0.05)


def test_a_head_without_effect_is_certain_and_not_specific() -> None:
    random = np.random.default_rng(2)
    task, control = random.normal(size=(2, 2, 3, 1)) * 3 + random.normal(size=(2, 2, 3, 8))
    task[1, 2] = control[1, 2] = 0.0
    found = specificity(task, control)
    assert (found.mean[1, 2], found.low[1, 2], found.high[1, 2], found.p_value[1, 2]) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("task", "control", "sentence"),
    [
        (TASK, CONTROL[:, :1], "same heads"),
        (TASK[..., :3], CONTROL, "at least 4 examples"),
        (TASK[:, :1], CONTROL[:, :1], "at least 2"),
        (np.ones((2, 3, 6)), np.ones((2, 3, 6)), "hardly tell these heads apart"),
    ],
)
@pytest.mark.usefixtures("any_shapes")
def test_what_cannot_be_compared_is_a_sentence(task: np.ndarray, control: np.ndarray, sentence: str) -> None:
    with pytest.raises(CapVizError, match=sentence):
        specificity(task, control)


def test_overlap_of_the_top_heads() -> None:
    """Of 10 heads, top 3 each, 2 shared: P(≥ 2) = (C(3,2)·C(7,1) + C(3,3)) / C(10,3) = 22 / 120."""
    first = np.array([[10.0, 9, 8, 7, 6], [5, 4, 3, 2, 1]])
    second = np.array([[10.0, 9, 1, 7, 6], [5, 4, 3, 2, 20]])
    found = top_overlap(first, second, 3)
    assert (found.k, found.shared, found.n_heads) == (3, 2, 10)
    assert found.expected == pytest.approx(0.9)
    assert found.p_value == pytest.approx(22 / 120)
    assert top_overlap(first, -first, 3).p_value == 1
    with pytest.raises(UsageError, match="top 11 of 10"):
        top_overlap(first, second, 11)


def test_rank_agreement_and_its_ceiling() -> None:
    first = np.array([[1.0, 2.0], [3.0, 4.0]])
    second = np.array([[10.0, 40.0], [20.0, 30.0]])
    found = rank_agreement(first, second, 0.9, 0.4)
    # Ranks 1 2 3 4 against 1 4 2 3: 1 - 6 · (0 + 4 + 1 + 1) / (4 · 15).
    assert found.correlation == pytest.approx(0.4)
    assert found.ceiling == pytest.approx(0.6)
    for unknown in (float("nan"), -0.1, 0.0):
        assert np.isnan(rank_agreement(first, second, 0.9, unknown).ceiling)
