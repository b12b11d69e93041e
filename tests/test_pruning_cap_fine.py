"""CAP fine against the definition of its score, and what it is given."""

from __future__ import annotations

import json

import pytest
import torch

from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, resolve
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning import MaskRequest, criterion_named, prune_mask
from cap_viz.pruning.calibration.gradients import answer_rows, whole_rows
from cap_viz.pruning.calibration.token_gradients import take_row
from cap_viz.pruning.criteria.sparsegpt import repaired, sparsegpt
from cap_viz.pruning.criteria.taylor import taylor_score
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.spec import EvalSpec, spec_dict, spec_from_dict
from cap_viz.runs.store import Store
from cap_viz.settings import shipped_folder
from cap_viz.tasks import Task, load_task
from cap_viz.tasks.example_sets import (
    companion_task,
    companion_text,
    evaluation_set,
    examples_of,
)


def test_the_score_is_the_root_of_summed_squared_effects(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    task, text = tiny_task.calibration(2), tiny_task.calibration(5)[3:]
    matrices = tiny_model.matrices()
    effects = {matrix.name: torch.zeros_like(matrix.weight, dtype=torch.float64) for matrix in matrices}

    def one_by_one(name: str, weight: torch.Tensor):
        def take(inputs: torch.Tensor, slopes: torch.Tensor) -> None:
            for x, d in zip(inputs.double(), slopes.double(), strict=True):
                effects[name] += (weight.double() * d[:, None] * x[None, :]).square()

        return take

    takers = {matrix.name: one_by_one(matrix.name, matrix.weight.detach()) for matrix in matrices}
    with tiny_model.lease:
        for row in (*whole_rows(tiny_model, task), *answer_rows(tiny_model, text)):
            take_row(tiny_model, matrices, row, takers)
    mask = prune_mask(tiny_model, "cap_fine", sparsity=0.4, calibration=task, text=text)
    kept = torch.cat([effects[name][keep].sqrt() for name, keep in mask.keep.items()])
    gone = torch.cat([effects[name][~keep].sqrt() for name, keep in mask.keep.items()])
    assert len(gone) == round(0.4 * mask.counts.sizes.sum())
    # Roots are kept in half precision: on either side of the cut scores may be off in the eleventh bit.
    assert float(kept.min()) >= float(gone.max()) * (1 - 2e-3)


def test_a_weight_at_one_token_by_hand() -> None:
    # |W| = 2 and 3, effects per token of the first: 2·1·1 and 2·3·0; of the second: 3·1·2 and 3·3·1.
    squares = torch.tensor([[(1 * 1) ** 2 + (3 * 0) ** 2, (1 * 2) ** 2 + (3 * 1) ** 2]], dtype=torch.float32)
    score = taylor_score(torch.tensor([[-2.0, 3.0]]), squares.sqrt())
    torch.testing.assert_close(score, torch.tensor([[2.0, (6.0**2 + 9.0**2) ** 0.5]]))


def test_what_stays_makes_up_for_what_goes_as_least_squares_would() -> None:
    """Where the columns that go come first, column by column is the exact least-squares answer."""
    generator = torch.Generator().manual_seed(0)
    inputs, weight = torch.randn(50, 5, generator=generator), torch.randn(3, 5, generator=generator)
    moments = inputs.T @ inputs
    keep = torch.tensor([[False, False, True, True, True]]).expand(3, 5)
    damped = moments.double() + 0.01 * moments.double().diagonal().mean() * torch.eye(5, dtype=torch.float64)
    makes_up = torch.linalg.solve(damped[2:, 2:], damped[2:, :2] @ weight[:, :2].double().T).T
    expected = torch.cat([torch.zeros(3, 2), weight[:, 2:] + makes_up.float()], dim=1)
    torch.testing.assert_close(repaired(weight, moments, keep), expected, rtol=1e-4, atol=1e-5)


def test_repairing_sparsegpts_own_mask_gives_its_weights() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, weight = torch.randn(400, 150, generator=generator), torch.randn(7, 150, generator=generator)
    moments = inputs.T @ inputs
    whole = sparsegpt(weight, moments, 0.5)
    assert whole.updated is not None
    assert torch.equal(repaired(weight, moments, whole.keep), whole.updated)


def test_masks_hold_new_values_for_what_stays(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    task, text = tiny_task.calibration(2), tiny_task.calibration(5)[3:]
    mask = prune_mask(tiny_model, "cap_fine", sparsity=0.4, calibration=task, text=text)
    assert mask.updated is not None
    assert mask.updated.keys() == mask.keep.keys()
    for matrix in tiny_model.matrices():
        assert not bool(mask.updated[matrix.name][~mask.keep[matrix.name]].any())
    nothing = prune_mask(tiny_model, "cap_fine", sparsity=0.0, calibration=task, text=text)
    assert nothing.updated is not None
    for matrix in tiny_model.matrices():
        assert torch.equal(nothing.updated[matrix.name], matrix.weight.detach())


def test_text_is_needed_and_has_a_default(
    tiny_model: ReasoningModel, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cap_viz.tasks.example_sets.companion_task", lambda model: "toy_text")
    monkeypatch.setattr("cap_viz.tasks.example_sets.N_TEXT_PASSAGES", 3)
    task = tiny_task.calibration(1)
    steps = criterion_named("cap_fine").steps(tiny_model, MaskRequest(0.5, calibration=task))
    with pytest.raises(UsageError, match=r"'cap_fine' measures running text .* give text="):
        finish(steps)
    usual = examples_of(companion_text(tiny_model.ref))
    by_default = prune_mask(tiny_model, "cap_fine", sparsity=0.5, calibration=task)
    assert by_default.digest == prune_mask(tiny_model, "cap_fine", sparsity=0.5, calibration=task, text=usual).digest
    assert by_default.digest != prune_mask(tiny_model, "cap_fine", sparsity=0.5, calibration=task, text=task).digest


def test_specs_name_the_text(tiny_model: ReasoningModel) -> None:
    toy = resolve(TOY_MODEL).ref
    text = mask_spec_for(toy, "cap_fine", 0.5, task="toy_math", n=2).text
    assert text is not None
    assert (text.task, text.split, len(text.ids)) == ("toy_text", "calibration", 160)
    assert mask_spec_for(toy, "wanda", 0.5, task="toy_math", n=2).text is None
    assert companion_task(tiny_model.ref) == "generic_text"


def test_the_spec_survives_its_manifest() -> None:
    toy = resolve(TOY_MODEL).ref
    mask = mask_spec_for(toy, "cap_fine", 0.5, task="toy_math", n=2)
    spec = EvalSpec(toy, evaluation_set("toy_math", 2), mask)
    assert spec_from_dict(json.loads(json.dumps(spec_dict(spec)))) == spec


def test_masks_are_found_where_their_text_is_not(tiny_model: ReasoningModel) -> None:
    """Without WikiText-2 the spec is the one that stored runs have; only making the mask needs the texts."""
    text = companion_text(tiny_model.ref)
    assert (text.task, text.version, text.split, text.seed) == (
        "generic_text",
        load_task("generic_text").version,
        "calibration",
        0,
    )
    stored = {
        run.spec.mask.text
        for run in Store(shipped=shipped_folder()).runs()
        if isinstance(run.spec, EvalSpec) and run.spec.mask is not None and run.spec.model.id == DEFAULT_MODEL
    }
    assert stored == {None, text}
    with pytest.raises(CapVizError, match="set CAP_VIZ_DATA to a folder with wikitext2"):
        examples_of(text)
