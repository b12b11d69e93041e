"""RIA: relative importance and activations (Zhang et al., ICLR 2024; "Plug-and-Play").

Score: `(|W_ij| / sum_i |W_ij| + |W_ij| / sum_j |W_ij|) * ||X_j||_2 ^ 0.5`: a weight's share of its input column plus
its share of its output row, times the square root of the input's norm. The `int(size * sparsity)` lowest scores of each
matrix are pruned, or the lowest n of m neighbours in a row.

Source: `prune_ria` of https://github.com/biomedical-cybernetics/Relative-importance-and-activation-pruning
(lib/prune.py), by default with the whole matrix as one group, block by block behind pruned blocks as in Wanda.

Deviations: calibration is the task's examples instead of 128 windows of C4; the reference also prunes the weight at the
last rank and its ties (one weight more per matrix); a row or column of zeros scores 0 instead of NaN; no channel
permutation for n:m. The reference divides ||X|| by the root of the number of sequences, which changes no order.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps
from cap_viz.pruning.calibration.activations import squares
from cap_viz.pruning.calibration.sequential import sequential_steps
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request
from cap_viz.pruning.mask import Mask
from cap_viz.pruning.selection.local_groups import PER_MATRIX, by_input_norm, group_for
from cap_viz.pruning.selection.owl import allocated

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

NORM_EXPONENT = 0.5


def ria_score(weight: Float[Tensor, "output input"], norm: Float[Tensor, " input"]) -> Float[Tensor, "output input"]:
    """A weight's share of its column plus its share of its row, times the root of the input norm."""
    magnitude = weight.detach().float().abs()
    columns, rows = magnitude.sum(dim=0), magnitude.sum(dim=1, keepdim=True)
    # Sums of 0 belong to weights of 0, whose score is 0.
    columns[columns == 0] = 1
    rows[rows == 0] = 1
    return (magnitude / columns + magnitude / rows) * norm**NORM_EXPONENT


def ria_steps(model: ReasoningModel, request: MaskRequest) -> Steps[Mask]:
    """Build the sequential mask."""
    check_request(RIA, request, model.shape)
    prune = by_input_norm(group_for(request.pattern, PER_MATRIX), ria_score)
    pruned = partial(sequential_steps, model, request, criterion="ria", measure=squares, prune=prune)
    return (yield from allocated(model, request, pruned))


RIA = Criterion(
    name="ria",
    title="RIA",
    summary="Share of row and column times the root of the input norm, per matrix; blocks measured behind pruned ones.",
    source="RIA, Zhang et al., ICLR 2024; biomedical-cybernetics/Relative-importance-and-activation-pruning",
    needs_scores=False,
    needs_calibration=True,
    threshold="per matrix",
    steps=ria_steps,
    allocations=True,
    patterns=True,
)
