"""Allocation of a sparsity to the layers: the same everywhere, or by each layer's share of outliers (OWL).

OWL (arXiv 2310.05175; `prune_wanda_outlier` of https://github.com/luuyin/OWL, lib/prune_all.py):

1. One dense pass gives Wanda's score |W_ij| * ||X_j||_2 of every weight.
2. D of a layer is the share of its scores (all its matrices together) above M = 5 times their mean.
3. A layer's density is `1 - s + d - mean d` with `d = 2 lambda (D - min D) / (max D - min D)`, lambda = 0.08:
   layers with many outliers keep more, the mean over layers stays s.

Deviations: where all D are equal the reference divides by zero, here every layer gets s. Where a layer would go
below 0 or above 1 (within 0.16 of either end at most) the reference's counts are wrong, here the differences between
layers are scaled down, so that sparsity 0 means no zeros. D is taken over the matrices of the scope.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps, portion
from cap_viz.pruning.calibration.activations import input_norm, squares, wanda_score
from cap_viz.pruning.calibration.sequential import dense_sums
from cap_viz.pruning.criterion import UNIFORM, Allocation, MaskRequest
from cap_viz.pruning.mask import layer_groups, scoped_matrices

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

OUTLIER_FACTOR = 5.0
LARGEST_OFFSET = 0.08

Result = TypeVar("Result")


def allocated(
    model: ReasoningModel, request: MaskRequest, main: Callable[[Allocation], Steps[Result]]
) -> Steps[Result]:
    """Run `main` with the allocation of the request, measuring it first where needed."""
    if request.allocation is None:
        return (yield from main(UNIFORM))
    allocation = yield from portion(owl_steps(model, request), 0, 2)
    return (yield from portion(main(allocation), 1, 2))


def owl_steps(model: ReasoningModel, request: MaskRequest) -> Steps[Allocation]:
    """Compute the OWL allocation from one dense pass over the request's calibration examples."""
    sums = yield from dense_sums(model, request, squares)
    shares: dict[int, float] = {}
    for group in layer_groups(scoped_matrices(model, request.scope)):
        with model.lease:
            shares[group[0].layer] = outlier_share(
                [wanda_score(matrix.weight, input_norm(sums[matrix.name])) for matrix in group]
            )
    return owl_allocation(shares)


def outlier_share(scores: list[Float[Tensor, "_output _input"]]) -> float:
    """The share of a layer's scores above `OUTLIER_FACTOR` times their mean."""
    import torch

    every = torch.cat([score.reshape(-1) for score in scores])
    bound = OUTLIER_FACTOR * every.mean(dtype=torch.float64)
    return int((every > bound).count_nonzero()) / len(every)


def owl_allocation(shares: Mapping[int, float]) -> Allocation:
    """Turn the layers' outlier shares into offsets from the asked sparsity; their mean is 0."""
    low, high = min(shares.values()), max(shares.values())
    if low == high:
        return UNIFORM
    density = {layer: 2 * LARGEST_OFFSET * (share - low) / (high - low) for layer, share in shares.items()}
    mean = sum(density.values()) / len(density)
    return Allocation({layer: mean - extra for layer, extra in density.items()})
