"""A kind of run is a file, a spec class and a line: one that is registered here is computed, stored, read and named."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import Progress, finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds import KINDS, describe, numbers_of
from cap_viz.runs.kinds.base import Computation, Computed, RunKind
from cap_viz.runs.kinds.joint import load_joint, load_pairs
from cap_viz.runs.kinds.scores import load_blocks, load_gradient, load_scores
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import SPECS, EvalSpec, RunSpec, ScoreSpec, spec_dict, spec_from_dict
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import Task
from cap_viz.tasks.example_sets import ExampleSet, evaluation_set, examples_of


@dataclass(frozen=True)
class LengthSpec:
    """Tokens of the prompts."""

    model: ModelRef
    examples: ExampleSet
    longest: int = 100

    kind = "length"


class Lengths(RunKind[Any]):
    """Tokens of the prompts, one row per example."""

    name = LengthSpec.kind
    title, summary = "lengths", "tokens of the prompts"

    def steps(self, spec: LengthSpec, by: Computation) -> Generator[Progress, None, Computed]:
        examples = examples_of(spec.examples)
        yield Progress(0, len(examples), "counting tokens")
        tokens = [min(spec.longest, len(by.model.tokenizer.encode(example.prompt))) for example in examples]
        return Computed({"lengths": pd.DataFrame({"id": spec.examples.ids, "tokens": tokens})})

    def describe(self, spec: LengthSpec) -> str:
        return f"prompts of up to {spec.longest} tokens"

    def numbers(self, store: Store, run: StoredRun[Any]) -> pd.DataFrame:
        return store.table(run, "lengths")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


def test_a_new_kind_needs_its_class_its_spec_and_a_line(
    tiny_model: ReasoningModel, tiny_task: Task, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, LengthSpec.kind, Lengths())
    monkeypatch.setitem(SPECS, LengthSpec.kind, LengthSpec)
    spec = cast(RunSpec, LengthSpec(tiny_model.ref, evaluation_set(tiny_task.name, 3), longest=7))
    assert spec_from_dict(spec_dict(spec)) == spec
    made = finish(run_steps(spec, tiny_model, store))
    (found,) = store.runs()
    assert (found.key, found.spec) == (made.key, spec)
    prompts = [tiny_model.tokenizer.encode(example.prompt) for example in tiny_task.evaluation(3)]
    assert numbers_of(store, found)["tokens"].tolist() == [min(7, len(tokens)) for tokens in prompts]
    assert describe(spec) == "prompts of up to 7 tokens"


def test_a_reader_names_the_kind_of_run_it_needs(tiny_model: ReasoningModel, tiny_task: Task, store: Store) -> None:
    finish(run_steps(EvalSpec(tiny_model.ref, evaluation_set(tiny_task.name, 2)), tiny_model, store))
    (found,) = store.runs()
    assert runs_of([found], EvalSpec) == [found]
    assert runs_of([found], ScoreSpec) == []
    for load, kind in (
        (load_scores, "score"),
        (load_blocks, "score"),
        (load_gradient, "score"),
        (load_joint, "joint"),
        (load_pairs, "pairs"),
    ):
        with pytest.raises(UsageError, match=f"^Run {found.key} is of kind eval; this needs one of kind {kind}.$"):
            load(store, found)


def test_every_spec_has_its_kind() -> None:
    assert set(KINDS) == set(SPECS)
    assert all(kind.name == name for name, kind in KINDS.items())
