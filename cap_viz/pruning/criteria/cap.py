"""CAP: weights ranked by magnitude times the causal importance of the head they belong to (arXiv 2606.19350).

1. Importance of head h: `I(h) = 1 + 9 (d(h) - min d) / (max d - min d)`, where d is the mean effect of
   removing the head, minimum and maximum over the whole model; 1 everywhere when all effects are equal.
2. Score of a weight: `S_ij = |W_ij| * I(region of ij)`. Rows of W_Q and columns of W_O belong to a query
   head; rows of W_K and W_V to a KV group, whose query heads' importances are combined by mean or max; all
   MLP weights of a layer share the mean importance of its heads (the paper's coarse MLP attribution).
3. One global threshold over all matrices in the scope (`pruning/selection/global_threshold.py`).

The paper specifies neither the range of minimum and maximum nor how a KV group combines its heads; here the range
is the whole model, and the combination an option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps
from cap_viz.pruning.criterion import Criterion, MaskRequest, check_request, fixed_score_steps
from cap_viz.pruning.options import KvCombine
from cap_viz.pruning.selection.global_threshold import GlobalRanking, rank_steps

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ReasoningModel

LOWEST, HIGHEST = 1.0, 10.0


@dataclass(frozen=True)
class RegionImportance:
    """Importance of every region of a model, from the importance of its heads.

    `query`: rows of W_Q and columns of W_O. `key_value`: rows of W_K and W_V. `mlp`: MLP weights of a layer.
    """

    query: Float[np.ndarray, "layer head"]
    key_value: Float[np.ndarray, "layer kv_head"]
    mlp: Float[np.ndarray, " layer"]


def importance(effect: Float[np.ndarray, "layer head"]) -> Float[np.ndarray, "layer head"]:
    """Scale effects to 1..10 over the whole model; 1 everywhere when they are all equal."""
    effect = np.asarray(effect, dtype=np.float64)
    low, high = effect.min(), effect.max()
    if low == high:
        return np.full(effect.shape, LOWEST)
    return LOWEST + (HIGHEST - LOWEST) * (effect - low) / (high - low)


def region_importance(
    head_importance: Float[np.ndarray, "layer head"], n_kv_heads: int, kv_combine: KvCombine | None = None
) -> RegionImportance:
    """Compute the importance of the regions; KV head g serves the g-th run of n_heads / n_kv_heads query heads.

    The heads of a KV group are combined by their mean or maximum, by default the mean.
    """
    n_layers, _ = head_importance.shape
    groups = head_importance.reshape(n_layers, n_kv_heads, -1)
    key_value = groups.max(axis=-1) if kv_combine == "max" else groups.mean(axis=-1)
    return RegionImportance(query=head_importance, key_value=key_value, mlp=head_importance.mean(axis=1))


def cap_score(
    weight: Float[Tensor, "output input"], kind: str, layer: int, regions: RegionImportance
) -> Float[Tensor, "output input"]:
    """|W| times the importance of each weight's region, in float32."""
    import torch

    magnitude = weight.detach().to(torch.float32).abs()
    if kind not in ("q", "k", "v", "o"):
        return magnitude.mul_(float(regions.mlp[layer]))
    per_head = regions.key_value[layer] if kind in ("k", "v") else regions.query[layer]
    factors = torch.tensor(per_head, dtype=torch.float32, device=weight.device)
    side = 1 if kind == "o" else 0
    factors = factors.repeat_interleave(weight.shape[side] // len(per_head))
    return magnitude.mul_(factors[None, :] if kind == "o" else factors[:, None])


def rank_cap(model: ReasoningModel, request: MaskRequest) -> Steps[GlobalRanking]:
    """Rank by magnitude times the importance from the request's effects."""
    check_request(CAP, request, model.shape)
    assert request.effect is not None
    regions = region_importance(importance(request.effect), model.shape.n_kv_heads, request.kv_combine)
    return rank_regions(model, "cap", request, regions)


def rank_regions(
    model: ReasoningModel, criterion: str, request: MaskRequest, regions: RegionImportance
) -> Steps[GlobalRanking]:
    """Rank by magnitude times the given importance."""

    def score(matrix: Matrix) -> Float[Tensor, "output input"]:
        return cap_score(matrix.weight, matrix.kind, matrix.layer, regions)

    return rank_steps(model, criterion=criterion, scope=request.scope, score=score)


CAP = Criterion(
    name="cap",
    title="CAP",
    summary="Magnitude times the causal importance of the head a weight belongs to; one global threshold.",
    source="CAP, arXiv 2606.19350",
    needs_scores=True,
    needs_calibration=False,
    threshold="global",
    rank=rank_cap,
    steps=fixed_score_steps(rank_cap),
    scales_importance=True,
)
