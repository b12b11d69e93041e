"""Inputs and output gradients of every matrix against the gradient of its weights."""

from __future__ import annotations

import pytest
import torch

from cap_viz.models import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning.activations import squares
from cap_viz.pruning.base import MaskRequest
from cap_viz.pruning.flows import Flow, flow_steps
from cap_viz.pruning.gradients import answer_rows, gradients_of, row_loss
from cap_viz.pruning.masks import scoped_matrices
from cap_viz.pruning.sequential import dense_sums
from cap_viz.tasks import Task


def test_sums_by_hand() -> None:
    inputs, slopes, weighted = torch.zeros(3, 2, dtype=torch.float64)
    flow = Flow(inputs, slopes, weighted, torch.zeros(2, 2))
    flow.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    assert flow.inputs.tolist() == [10, 4]
    assert flow.slopes.tolist() == [5, 1]
    # Squared lengths of the slopes are 4 and 2: 4 · (1, 4) + 2 · (9, 0).
    assert flow.weighted.tolist() == [22, 16]
    # Rows are outputs: squares of the first column of slopes are 4 and 1, of the second 0 and 1.
    assert flow.products.tolist() == [[4 * 1 + 1 * 9, 4 * 4], [9, 0]]
    assert flow.tokens == 2


def test_one_token_makes_the_weights_gradient(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    """Behind the last block's attention only scored tokens have a gradient: with one, dL/dW is d x^T."""
    rows = {example.id: answer_rows(tiny_model, [example])[0] for example in tiny_task.calibration(12)}
    example = next(one for one in tiny_task.calibration(12) if len(rows[one.id].tokens) - rows[one.id].first == 1)
    last = tiny_model.shape.n_layers - 1
    down = [matrix for matrix in scoped_matrices(tiny_model, "mlp") if matrix.layer == last]
    flows = finish(flow_steps(tiny_model, down, [rows[example.id]]))
    gradients: dict[str, torch.Tensor] = {}
    with torch.enable_grad(), gradients_of(tiny_model, down, lambda one, value: gradients.update({one.name: value})):
        row_loss(tiny_model, rows[example.id]).backward()
    for matrix in down:
        expected = gradients[matrix.name].double().square()
        torch.testing.assert_close(flows[matrix.name].weighted, expected.sum(dim=0), rtol=1e-4, atol=1e-12)
        torch.testing.assert_close(flows[matrix.name].products.double(), expected, rtol=1e-4, atol=1e-12)


def test_inputs_are_those_wanda_measures(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    examples = tiny_task.calibration(3)
    matrices = scoped_matrices(tiny_model, "both")
    flows = finish(flow_steps(tiny_model, matrices, answer_rows(tiny_model, examples)))
    wanda = finish(dense_sums(tiny_model, MaskRequest(0.5, calibration=examples), squares))
    assert flows.keys() == wanda.keys()
    for name, flow in flows.items():
        torch.testing.assert_close(flow.inputs, wanda[name], rtol=1e-5, atol=1e-9)
        assert bool((flow.slopes > 0).any())


def test_parameters_are_left_as_they_were(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    before = [(parameter.requires_grad, parameter.grad) for parameter in tiny_model.bridge.parameters()]
    rows = answer_rows(tiny_model, tiny_task.calibration(1))
    finish(flow_steps(tiny_model, scoped_matrices(tiny_model, "mlp"), rows))
    assert before == [(parameter.requires_grad, parameter.grad) for parameter in tiny_model.bridge.parameters()]


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_only_matrices_asked_for(tiny_model: ReasoningModel, tiny_task: Task, part: str) -> None:
    matrices = [matrix for matrix in scoped_matrices(tiny_model, "both") if matrix.part == part]
    rows = answer_rows(tiny_model, tiny_task.calibration(1))
    assert finish(flow_steps(tiny_model, matrices, rows)).keys() == {one.name for one in matrices}
