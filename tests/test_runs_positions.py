"""Effects by position as stored runs, and in the shell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cap_viz.attribution.positions import span_effects, step_effects
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.execute import mask_steps, run_steps
from cap_viz.runs.kinds import describe, numbers_of
from cap_viz.runs.kinds.paths import load_paths
from cap_viz.runs.kinds.positions import load_positions
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.spec import PositionSpec, spec_dict, spec_from_dict, spec_key
from cap_viz.runs.store import Store
from cap_viz.tasks import TASKS, Splits, Task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.shell import Shell
from tests.test_positions import HEADS, solved

BY_SPAN: dict[str, Any] = {"by": "span", "metric": "choice_nll"}
EXACTLY: dict[str, Any] = {"by": "span", "heads": HEADS}
BY_STEP: dict[str, Any] = {"by": "step"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(shipped=tmp_path / "shipped", local=tmp_path / "local")


@pytest.fixture(autouse=True)
def task(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> Task:
    """The tiny task with worked solutions."""
    examples = solved(16)
    task = replace(tiny_task, load=lambda: Splits(calibration=examples[:6], evaluation=examples[6:]))
    monkeypatch.setitem(TASKS, task.name, task)
    return task


def spec_of(model: ReasoningModel, n: int = 5, **options: Any) -> PositionSpec:
    return PositionSpec(model.ref, evaluation_set("tiny", n), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BY_SPAN, "all heads by span, gradient of choice_nll, mean ablation"),
        (EXACTLY, "L0 H1, L2 H3, L1 H2 by span, exact, mean ablation"),
        (BY_STEP, "all heads by step, exact, mean ablation"),
    ],
)
def test_a_stored_run_holds_what_is_measured(
    options: dict[str, Any], words: str, tiny_model: ReasoningModel, task: Task, store: Store
) -> None:
    spec = spec_of(tiny_model, **options, ablation="mean", reference=calibration_set("tiny", 4, 3))
    assert spec_from_dict(spec_dict(spec)) == spec
    run = finish(run_steps(spec, tiny_model, store))
    compute = span_effects if options["by"] == "span" else step_effects
    chosen = {name: value for name, value in options.items() if name != "by"}
    examples, reference = task.evaluation(5), task.calibration(4, 3)
    fresh = compute(tiny_model, examples, **chosen, ablation="mean", reference=reference, seed=3, progress=False)
    stored = load_positions(store, run)
    assert (stored.heads, stored.parts, stored.estimator) == (fresh.heads, fresh.parts, fresh.estimator)
    np.testing.assert_array_equal(stored.per_example, fresh.per_example)
    np.testing.assert_array_equal(stored.known_logliks, fresh.known_logliks)
    np.testing.assert_array_equal(stored.tokens, fresh.tokens)
    pd.testing.assert_frame_equal(numbers_of(store, run), fresh.to_pandas())
    assert describe(spec) == words
    assert ablation_words(spec).doing == "replacing"
    with pytest.raises(UsageError, match=rf"Run {run.key} is of kind positions; this needs one of kind paths"):
        load_paths(store, run)


def test_every_field_is_part_of_the_key(tiny_model: ReasoningModel) -> None:
    spec = spec_of(tiny_model, by="span")
    assert set(spec_dict(spec)) == {"kind", "model", "examples", "by", "ablation"}
    changes: list[dict[str, Any]] = [{"by": "step"}, {"heads": HEADS}, {"metric": "nll"}, {"ablation": "mean"}]
    mask = mask_spec_for(tiny_model.ref, "magnitude", 0.5, task="tiny", n=4)
    changes += [{"reference": spec.examples}, {"mask": mask}]
    assert len({spec_key(spec), *(spec_key(replace(spec, **change)) for change in changes)}) == 1 + len(changes)


@pytest.mark.parametrize("options", [BY_SPAN, BY_STEP])
def test_a_pruned_model_is_split_as_a_run(
    options: dict[str, Any], tiny_model: ReasoningModel, task: Task, store: Store
) -> None:
    mask_spec = mask_spec_for(tiny_model.ref, "cap", 0.5, task="tiny", n=4)
    spec = spec_of(tiny_model, **options, mask=mask_spec)
    run = finish(run_steps(spec, tiny_model, store))
    mask = finish(mask_steps(mask_spec, tiny_model, store))
    compute = span_effects if options["by"] == "span" else step_effects
    chosen = {name: value for name, value in options.items() if name != "by"}
    fresh = compute(tiny_model, task.evaluation(5), **chosen, mask=mask, progress=False)
    np.testing.assert_array_equal(load_positions(store, run).per_example, fresh.per_example)
    assert describe(spec).endswith("zero ablation, cap at 50%")
    other = replace(spec, mask=mask_spec_for(ModelRef("other", "0" * 16), "cap", 0.5, task="tiny", n=4))
    with pytest.raises(UsageError, match=r"use a mask of this model\.$"):
        finish(run_steps(other, tiny_model, store))


@pytest.mark.parametrize("options", [BY_SPAN, EXACTLY, BY_STEP])
def test_an_interrupted_run_resumes_to_the_same_bits(
    options: dict[str, Any],
    tiny_model: ReasoningModel,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cap_viz.attribution.exact.TOKENS_PER_FORWARD", 1)
    monkeypatch.setattr("cap_viz.attribution.exact.MOST_TOKENS_PER_STEP", 60)
    monkeypatch.setattr("cap_viz.attribution.gradient.TOKENS_PER_BACKWARD", 1)
    spec = spec_of(tiny_model, 3, **options, ablation="resample")
    other = Store(shipped=tmp_path / "none", local=tmp_path / "whole")
    whole = load_positions(other, finish(run_steps(spec, tiny_model, other)))
    assert np.isfinite(whole.effects()[:, -1]).all()
    steps = run_steps(spec, tiny_model, store)
    while not list(store.partial_run_dir(spec).glob("batch-*")):
        next(steps)
    steps.close()
    run = finish(run_steps(spec, tiny_model, store))
    assert run.provenance["resumed_batches"] == 1
    np.testing.assert_array_equal(load_positions(store, run).per_example, whole.per_example)


def test_memory_that_runs_out_halves_the_batches(
    tiny_model: ReasoningModel, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cap_viz.attribution import positions

    spec, real = spec_of(tiny_model, **BY_STEP), positions.dense_pass
    other = Store(shipped=tmp_path / "none", local=tmp_path / "whole")
    whole = finish(run_steps(spec, tiny_model, other))
    assert len(whole.provenance["plan"]["batches"]) == 1

    def room_for_two(model: ReasoningModel, batch: Any, **options: Any) -> Any:
        if len(batch.tokens) > 2:
            raise MemoryError
        return real(model, batch, **options)

    monkeypatch.setattr(positions, "dense_pass", room_for_two)
    run = finish(run_steps(spec, tiny_model, store))
    assert max(map(len, run.provenance["plan"]["batches"])) <= 2
    found, expected = (load_positions(*pair).per_example for pair in ((store, run), (other, whole)))
    np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"by": "step", "metric": "nll"}, "leave out the metric"),
        ({"by": "span", "metric": "nll", "heads": HEADS}, "name heads or a metric"),
        ({"by": "span", "heads": ((9, 0),)}, "no head 0 in layer 9"),
        ({"by": "word"}, r"Unknown way to split effects 'word'; choose one of span, step\."),
    ],
)
def test_specs_that_contradict_themselves(
    tiny_model: ReasoningModel, store: Store, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        list(run_steps(spec_of(tiny_model, **options), tiny_model, store))


def test_the_command(tiny: list[str], shell: Shell) -> None:
    found = shell.json("positions", *tiny, "--n", "4")
    assert (found["by"], found["estimator"], found["metric"]) == ("span", "gradient", "nll")
    assert found["parts"][:4] == ["sink", "template", "question", "answer cue"]
    assert len(found["effects"]) == 12 * len(found["parts"])
    exact = shell.json("positions", *tiny, "--n", "4", "--heads", "L1H2,L0H1", "--metric", "accuracy")
    assert (exact["estimator"], exact["heads"]) == ("exact", [[0, 1], [1, 2]])
    pruned = shell.json("positions", *tiny, "--n", "4", "--criterion", "magnitude", "--sparsity", "0.5")
    assert (pruned["criterion"], pruned["sparsity"]) == ("magnitude", 0.5)
    assert pruned["effects"] != found["effects"]
    code, out, _ = shell(
        "positions", *tiny, "--n", "4", "--by", "step", "--top", "3", "--ablation", "mean", "--calibration", "4"
    )
    assert code == 0
    assert all(word in out for word in ("step 1", "last step", "whole solution", "The 3 of 12 heads"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--by", "word"], "way to split effects 'word'"),
        (["--by", "step", "--metric", "choice_nll"], "the loss of a step is nll"),
        (["--metric", "accuracy"], "has no gradient"),
        (["--top", "0"], "--top 0: the table needs at least one head"),
        (["--heads", "L0H1,L0H1"], "each once"),
    ],
)
def test_mistakes_of_the_command_are_sentences(options: list[str], reason: str, tiny: list[str], shell: Shell) -> None:
    code, out, err = shell("positions", *tiny, "--n", "3", *options)
    assert (code, out) == (2, "")
    assert reason in " ".join(err.split())
