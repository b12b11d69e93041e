"""Batch plans: every example once, within the budget, similar lengths together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cap_viz.attribution.batch_plan import plan_batches


def test_by_hand() -> None:
    assert plan_batches([5, 1, 4, 2], 8) == ((1, 3), (2,), (0,))


def test_window_keeps_source_order_roughly() -> None:
    assert plan_batches([9, 1, 8, 2], 100, window=2) == ((1, 0, 2, 3),)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200), st.none() | st.integers(1, 9))
def test_every_example_once_within_budget(lengths: list[int], budget: int, window: int | None) -> None:
    batches = plan_batches(lengths, budget, window=window)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
