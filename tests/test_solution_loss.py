"""Loss on worked solutions against transformers' own loss, as a stored run, in the shell and laid over another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from cap_viz.errors import UsageError
from cap_viz.evaluation.solution_loss import solution_loss_of
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.runs.audit import audit_of
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds import numbers_of
from cap_viz.runs.kinds.evaluation import load_report
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.protocols import solution_spec
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import evaluation_set
from tests.shell import Shell

TASK = "mini_text"
N = 3


def computed(model: ReasoningModel, store: Store, **changes: object) -> StoredRun:
    spec = replace(solution_spec(model.ref, evaluation_set(TASK, N)), **changes)  # pyright: ignore[reportArgumentType]
    return finish(run_steps(spec, model, store))


def test_it_is_the_loss_of_transformers_after_the_prompt(tiny_model: ReasoningModel, tiny_folder: Path) -> None:
    """The network itself with `labels` on the continuation alone: no code of ours."""
    store = Store()
    network = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    losses = []
    for example in load_task(TASK).evaluation(N):
        tokens = tiny_model.tokenizer(example.prompt + example.options[0])["input_ids"]
        given = len(tiny_model.tokenizer(example.prompt)["input_ids"])
        labels = torch.tensor([[-100] * given + tokens[given:]])
        with torch.inference_mode():
            losses.append(float(network(torch.tensor([tokens]), labels=labels).loss))
    run = computed(tiny_model, store)
    found = solution_loss_of(load_report(store, run))
    assert found.value == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.n == N
    np.testing.assert_allclose(numbers_of(store, run)["nll"], losses, rtol=1e-5)
    np.testing.assert_allclose(audit_of(store, run)["nll"], losses, rtol=1e-5)


def test_a_pruned_model_has_its_own(tiny_model: ReasoningModel) -> None:
    store = Store()
    mask = mask_spec_for(tiny_model.ref, "global_magnitude", 0.9, task=TASK, n=2)
    dense, pruned = (load_report(store, computed(tiny_model, store, mask=one)) for one in (None, mask))
    assert solution_loss_of(pruned).value != solution_loss_of(dense).value


def test_tasks_with_options_have_none(tiny_model: ReasoningModel) -> None:
    examples = evaluation_set("mini_science", 2)
    with pytest.raises(UsageError, match=r"mini_science\b.*\boptions\b"):
        solution_spec(tiny_model.ref, examples)
    with pytest.raises(UsageError, match=r"mini_science\b.*\boptions\b"):
        finish(run_steps(EvalSpec(tiny_model.ref, examples, protocol="solution"), tiny_model, Store()))


def test_the_shell_prints_it(tiny_folder: Path, shell: Shell) -> None:
    options = ["solution-loss", "--model", str(tiny_folder), "--task", TASK, "--n", str(N)]
    code, out, err = shell(*options)
    assert code == 0, err
    (said,) = [line for line in out.splitlines() if TASK in line]
    assert all(part in said for part in (f"{N} solutions", "dense"))
    found = shell.json(*options)
    assert f"loss {found['solution_loss']:.3f} nats" in out
    low, high = found["solution_loss_ci"]
    assert low <= found["solution_loss"] <= high
    pruned = shell.json(*options, "--criterion", "cap", "--sparsity", "0.5", "--n-calibration", "4")
    assert pruned["criterion"] == "cap"
    assert pruned["solution_loss"] != found["solution_loss"]
    code, _, err = shell("solution-loss", "--model", str(tiny_folder), "--task", "mini_science")
    assert code == 2
    assert "mini_science" in err
    assert "options" in err
