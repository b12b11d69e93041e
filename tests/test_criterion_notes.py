"""What the Prune page says about zeros follows from the criterion's own fields, and those from what its masks do.

"Scattered zeros, speed stays the same" stood under whole heads, and Wanda's rounding under every criterion that works
row by row and under n:m patterns, which reach their share exactly.
"""

from __future__ import annotations

import re
from typing import cast

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.attribution.results import ABLATIONS
from cap_viz.dashboard.prune.page import cost_sentence
from cap_viz.models.loading import ReasoningModel
from cap_viz.pruning import CRITERIA, prune_mask
from cap_viz.pruning.criterion import SCATTERED, STRUCTURED
from cap_viz.pruning.mask import Scope
from cap_viz.runs.run_labels import ABLATION_WORDS, ablation_words
from cap_viz.runs.store import Store
from tests.test_ui_pages import opened
from tests.test_ui_text import computed, score_spec, store
from tests.tiny import tiny_examples

__all__ = ["store"]

SPARSITY = 0.37


@pytest.mark.parametrize("name", CRITERIA)
def test_notes_are_true_of_the_masks(tiny_model: ReasoningModel, name: str) -> None:
    criterion, shape = CRITERIA[name], tiny_model.shape
    effect = np.random.default_rng(0).normal(size=(shape.n_layers, shape.n_heads))
    scope = cast(Scope, "attention" if name == "head" else "both")
    mask = prune_mask(
        tiny_model,
        name,
        sparsity=SPARSITY,
        effect=effect,
        calibration=tiny_examples(3),
        text=tiny_examples(2),
        scope=scope,
    )
    assert criterion.structured == mask.structured
    assert criterion.notes()[0] == (STRUCTURED if mask.structured else SCATTERED)
    counts_otherwise = abs(mask.reached - SPARSITY) > 0.005
    assert bool(criterion.counting) == counts_otherwise


@pytest.mark.parametrize("name", [name for name, criterion in CRITERIA.items() if criterion.patterns])
def test_a_pattern_has_notes_of_its_own(tiny_model: ReasoningModel, name: str) -> None:
    mask = prune_mask(tiny_model, name, sparsity=0.5, calibration=tiny_examples(3), pattern="2:4")
    assert mask.reached == 0.5
    (note,) = CRITERIA[name].notes("2:4")
    assert "2:4" in note
    assert note not in CRITERIA[name].notes()


def prune_page(store: Store, model: ReasoningModel, ablation: str = "zero", **query: str) -> AppTest:
    computed(store, model, score_spec(model, "mini_science", 6, ablation))
    at = opened("pages/prune.py", model=model.ref.id, task="mini_science", **query)
    assert not at.exception
    return at


def importance(at: AppTest) -> list[str]:
    """The help of the heading over the importance behind CAP."""
    return [one.proto.help for one in at.markdown if re.fullmatch(r"#+ Importance\b.*\bCAP", one.value)]


def notes_of(at: AppTest) -> list[str]:
    """The bullets of the box on how to read the numbers, in the order of the page."""
    (box,) = [box for box in at.expander if box.label == "Reading these numbers"]
    return [line.removeprefix("- ") for line in str(box.markdown[0].value).split("\n")]


def test_each_criterion_s_notes_stand_under_its_name(store: Store, tiny_model: ReasoningModel) -> None:
    at = prune_page(store, tiny_model, criterion="head", against="gblm", sparsity="20")
    said = notes_of(at)
    assert f"GBLM: {SCATTERED}" in said
    assert f"Whole heads: {STRUCTURED}" in said
    assert f"GBLM: {CRITERIA['gblm'].counting}" in said
    assert not any("Wanda" in line for line in said)
    # Whole heads go by their effects; there is no importance I behind them.
    assert not importance(at)
    at = prune_page(store, tiny_model, criterion="cap", against="global_magnitude", sparsity="20")
    assert SCATTERED in notes_of(at)
    assert STRUCTURED not in "\n".join(notes_of(at))
    assert len(importance(at)) == 1


def test_patterns_are_said_to_be_exact(store: Store, tiny_model: ReasoningModel) -> None:
    at = prune_page(store, tiny_model, criterion="wanda", against="cap", sparsity="50", spread="2:4")
    said = notes_of(at)
    assert f"Wanda: {CRITERIA['wanda'].notes('2:4')[0]}" in said
    assert not any(CRITERIA["wanda"].counting in line for line in said)
    assert f"CAP: {SCATTERED}" in said


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_importance_is_told_by_the_ablation_of_its_scores(
    store: Store, tiny_model: ReasoningModel, ablation: str
) -> None:
    at = prune_page(store, tiny_model, ablation, criterion="cap", against="magnitude", sparsity="20")
    words = ablation_words(score_spec(tiny_model, "mini_science", 6, ablation))
    (help,) = importance(at)
    assert words.doing in help
    assert words.by in help
    others = [one for name, one in ABLATION_WORDS.items() if name != ablation and one.doing != words.doing]
    assert not any(one.doing in help for one in others)


def test_costs_are_told_of_the_criteria_shown_only() -> None:
    both, heads, scattered = (cost_sentence(names) for names in (("head", "wanda"), ("head", "head"), ("cap", "gblm")))
    assert len({both, heads, scattered}) == 3
    for one in (heads, scattered):
        first = one.partition(" Measured on ")[0]
        assert first in both
