"""Pruning: criteria that rank weights, and masks made from them.

`prune_mask` is the notebook's way in; jobs advance `criterion.steps` or `criterion.rank` step by step.
Importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float

from cap_viz.errors import UsageError
from cap_viz.progress import finish
from cap_viz.pruning.base import (
    Criterion,
    KvCombine,
    MaskRequest,
    Ranking,
    Steps,
    check_request,
)
from cap_viz.pruning.cap import CAP, RegionImportance, importance, region_importance
from cap_viz.pruning.global_magnitude import GLOBAL_MAGNITUDE
from cap_viz.pruning.magnitude import MAGNITUDE
from cap_viz.pruning.masks import Mask, MatrixSize, Scope, ZeroCounts, check_sparsity
from cap_viz.pruning.wanda import WANDA, WANDA_ONESHOT

if TYPE_CHECKING:
    from cap_viz.models import ReasoningModel
    from cap_viz.tasks.base import Example

__all__ = [
    "CRITERIA",
    "Criterion",
    "Mask",
    "MaskRequest",
    "MatrixSize",
    "Ranking",
    "RegionImportance",
    "Steps",
    "ZeroCounts",
    "check_request",
    "check_sparsity",
    "criterion_named",
    "importance",
    "prune_mask",
    "rank_weights",
    "region_importance",
]

CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion for criterion in (CAP, GLOBAL_MAGNITUDE, MAGNITUDE, WANDA, WANDA_ONESHOT)
}


class HeadScoresLike(Protocol):
    """Anything that knows the mean effect of each head on a metric."""

    def mean_effect(self, metric: str) -> Float[np.ndarray, "layer head"]: ...


def criterion_named(name: str) -> Criterion:
    """Raises `UsageError` with the known names."""
    if name not in CRITERIA:
        raise UsageError(f"Unknown criterion {name!r}; choose one of {', '.join(CRITERIA)}.")
    return CRITERIA[name]


def prune_mask(
    model: ReasoningModel,
    criterion_name: str,
    *,
    sparsity: float,
    effect: Float[np.ndarray, "layer head"] | None = None,
    scores: HeadScoresLike | None = None,
    metric: str = "nll",
    kv_combine: KvCombine = "mean",
    calibration: Sequence[Example] | None = None,
    scope: Scope = "both",
) -> Mask:
    """The weights `criterion_name` keeps when the share `sparsity` of the weights in `scope` goes.

    Head scores come as `scores` (read at `metric`) or directly as `effect`, positive where the head helps;
    they and `calibration` are ignored by criteria that do not need them.

    Raises `UsageError` for an unknown criterion, a value out of range or a missing input.
    """
    criterion = criterion_named(criterion_name)
    request = mask_request(
        criterion,
        sparsity=sparsity,
        effect=effect,
        scores=scores,
        metric=metric,
        kv_combine=kv_combine,
        calibration=calibration,
        scope=scope,
    )
    return finish(criterion.steps(model, request))


def rank_weights(
    model: ReasoningModel,
    criterion_name: str,
    *,
    effect: Float[np.ndarray, "layer head"] | None = None,
    scores: HeadScoresLike | None = None,
    metric: str = "nll",
    kv_combine: KvCombine = "mean",
    calibration: Sequence[Example] | None = None,
    scope: Scope = "both",
) -> Ranking:
    """Rank the weights once; then `ranking.profile(sparsities)` counts zeros and `mask_steps` makes masks.

    Raises `UsageError` as `prune_mask` does, and for criteria whose score depends on the sparsity.
    """
    criterion = criterion_named(criterion_name)
    if criterion.rank is None:
        fixed = ", ".join(name for name, other in CRITERIA.items() if other.fixed_score)
        raise UsageError(
            f"The criterion {criterion_name!r} scores weights anew for every sparsity and cannot rank them "
            f"once; these can: {fixed}."
        )
    request = mask_request(
        criterion,
        sparsity=0.0,
        effect=effect,
        scores=scores,
        metric=metric,
        kv_combine=kv_combine,
        calibration=calibration,
        scope=scope,
    )
    return finish(criterion.rank(model, request))


def mask_request(
    criterion: Criterion,
    *,
    sparsity: float,
    effect: Float[np.ndarray, "layer head"] | None,
    scores: HeadScoresLike | None,
    metric: str,
    kv_combine: KvCombine,
    calibration: Sequence[Example] | None,
    scope: Scope,
) -> MaskRequest:
    """The request, with the effects read from the scores where the criterion needs them."""
    if effect is not None and scores is not None:
        raise UsageError("Give either scores= or effect=, not both: they are two ways to say the same.")
    if criterion.needs_scores and scores is not None:
        effect = scores.mean_effect(metric)
    return MaskRequest(
        sparsity=sparsity,
        scope=scope,
        effect=None if effect is None else np.asarray(effect, dtype=np.float64),
        kv_combine=kv_combine,
        calibration=None if calibration is None else tuple(calibration),
    )
