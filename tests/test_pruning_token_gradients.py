"""Inputs and output gradients of every matrix, token by token, against the gradient of its weights."""

from __future__ import annotations

import pytest
import torch

from cap_viz.errors import CapVizError
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish
from cap_viz.pruning.calibration import gradients
from cap_viz.pruning.calibration.gradients import ScoredRow, answer_rows, gradients_of, row_loss, whole_rows
from cap_viz.pruning.calibration.token_gradients import Take, adding, root_token_squares, take_row
from cap_viz.pruning.mask import scoped_matrices
from cap_viz.tasks import Task


def test_sums_by_hand() -> None:
    total = torch.zeros(2, 2)
    adding(total)(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    # Rows are outputs: squares of the first column of slopes are 4 and 1, of the second 0 and 1.
    assert total.tolist() == [[4 * 1 + 1 * 9, 4 * 4], [9, 0]]


def test_slopes_times_inputs_are_the_gradient_of_the_weights(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    matrices = scoped_matrices(tiny_model, "both")
    row = whole_rows(tiny_model, tiny_task.calibration(1))[0]
    sums = {matrix.name: torch.zeros_like(matrix.weight) for matrix in matrices}

    def adding_to(total: torch.Tensor) -> Take:
        def add(inputs: torch.Tensor, slopes: torch.Tensor) -> None:
            total.addmm_(slopes.T, inputs)

        return add

    takers = {name: adding_to(total) for name, total in sums.items()}
    with tiny_model.lease:
        take_row(tiny_model, matrices, row, takers)
    expected = gradients_by_autograd(tiny_model, row)
    for name, total in sums.items():
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-8)


def test_one_token_is_an_example_of_its_own(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    """Behind the last block's attention only scored tokens have a gradient: with one, the squares are dL/dW's."""
    rows = answer_rows(tiny_model, tiny_task.calibration(12))
    row = next(one for one in rows if len(one.tokens) - one.first == 1)
    last = tiny_model.shape.n_layers - 1
    down = [matrix for matrix in scoped_matrices(tiny_model, "mlp") if matrix.layer == last]
    roots = finish(root_token_squares(tiny_model, down, [row]))
    expected = gradients_by_autograd(tiny_model, row)
    for matrix in down:
        # Half precision keeps eleven bits.
        torch.testing.assert_close(
            roots[matrix.name].full(),
            expected[matrix.name].abs(),
            rtol=1e-3,
            atol=1e-6 * float(expected[matrix.name].abs().max()),
        )


def gradients_by_autograd(model: ReasoningModel, row: ScoredRow) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    matrices = scoped_matrices(model, "both")
    with torch.enable_grad(), gradients_of(model, matrices, lambda one, value: found.update({one.name: value.clone()})):
        row_loss(model, row).backward()
    return found


def test_portions_change_nothing(tiny_model: ReasoningModel, tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = scoped_matrices(tiny_model, "both")
    rows = whole_rows(tiny_model, tiny_task.calibration(2))
    at_once = finish(root_token_squares(tiny_model, matrices, rows))
    monkeypatch.setattr(gradients, "SUM_BYTES", 1)
    for name, one in finish(root_token_squares(tiny_model, matrices, rows)).items():
        assert torch.equal(one.full(), at_once[name].full())


def test_parameters_are_left_as_they_were(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    before = [(parameter.requires_grad, parameter.grad) for parameter in tiny_model.bridge.parameters()]
    rows = answer_rows(tiny_model, tiny_task.calibration(1))
    finish(root_token_squares(tiny_model, scoped_matrices(tiny_model, "mlp"), rows))
    assert before == [(parameter.requires_grad, parameter.grad) for parameter in tiny_model.bridge.parameters()]


def test_broken_weights_are_told(tiny_model: ReasoningModel, tiny_task: Task) -> None:
    matrices = scoped_matrices(tiny_model, "mlp")
    rows = answer_rows(tiny_model, tiny_task.calibration(1))
    broken = {matrices[0].name: torch.full_like(matrices[0].weight, torch.inf)}
    with tiny_model.swapped(broken), pytest.raises(CapVizError, match="gradients that are not finite"):
        finish(root_token_squares(tiny_model, matrices, rows))
