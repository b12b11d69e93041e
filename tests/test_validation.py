"""What is read from outside is exact in its types, and what is wrong in it is one sentence with the field's path."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.spec import EvalSpec, MaskSpec, spec_dict, spec_from_dict
from cap_viz.tasks.example_sets import ExampleSet
from cap_viz.validation import mistake

SPEC = EvalSpec(
    model=ModelRef("a/model", "0" * 16),
    examples=ExampleSet(task="arc_easy", version=1, ids=("a", "b"), split="evaluation"),
    mask=MaskSpec(criterion="wanda", sparsity=1),
)


def changed(**parts: Any) -> dict[str, Any]:
    """The JSON of the spec with fields changed: of a part where a dictionary is given, else of the spec itself."""
    content = spec_dict(SPEC)
    return content | {
        name: {**content[name], **value} if isinstance(value, dict) else value for name, value in parts.items()
    }


def test_a_number_is_kept_as_it_was_written() -> None:
    """As keys tell 1 from 1.0."""
    for sparsity in (1, 1.0, 0.1 + 0.2):
        content = changed(mask={"sparsity": sparsity})
        assert json.dumps(spec_dict(spec_from_dict(content))) == json.dumps(content)


def test_explicit_nulls_mean_what_their_absence_means() -> None:
    assert spec_from_dict(changed(protocol=None, examples={"seed": None}, mask={"scores": None})) == SPEC


KINDS = "the kind of a run is one of score, eval, profile, roles, joint, pairs, paths, positions, removal"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (changed(kind="quiz"), f"{KINDS}, not 'quiz'"),
        (changed(kind=["eval"]), f"{KINDS}, not ['eval']"),
        ("eval", f"{KINDS}, not None"),
        (changed(model=["a"]), "the field model should be an object, not a list"),
        (changed(model={"id": None}), "the field model.id should be a text, not null"),
        (changed(examples={"version": True}), "the field examples.version should be a whole number, not true or false"),
        (changed(examples={"version": 1.0}), "the field examples.version should be a whole number, not a number"),
        (changed(examples={"ids": "ab"}), "the field examples.ids should be a list, not a text"),
        (changed(examples={"ids": ["a", 1]}), "the field examples.ids[1] should be a text, not a whole number"),
        (changed(mask={"sparsity": True}), "the field mask.sparsity should be a number, not true or false"),
        (changed(mask={"sparsity": "0.5"}), "the field mask.sparsity should be a number, not a text"),
        (changed(mask={"colour": "red"}), "the field mask.colour is unknown"),
        (changed(mask={"scores": {"model": 1}}), "the field mask.scores.model should be an object, not a whole number"),
        ({"kind": "eval", "examples": {}}, "the field model is missing; there are examples"),
    ],
)  # fmt: skip
def test_a_foreign_spec_is_one_sentence(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the sentence is compared
        spec_from_dict(content)
    assert mistake(caught.value) == sentence
