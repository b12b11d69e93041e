"""Pruning: criteria that rank weights, and masks made from them.

`prune_mask` is the entry point for notebooks; jobs advance `criterion.steps` or `criterion.rank` step by step.
Importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, Unpack

import numpy as np
from jaxtyping import Float

from cap_viz.errors import UsageError, choose
from cap_viz.progress import Steps, finish, finish_with_bar
from cap_viz.pruning.criteria.cap import CAP, RegionImportance, importance, region_importance
from cap_viz.pruning.criteria.cap_fine import CAP_FINE
from cap_viz.pruning.criteria.gblm import GBLM
from cap_viz.pruning.criteria.global_magnitude import GLOBAL_MAGNITUDE
from cap_viz.pruning.criteria.head import HEAD
from cap_viz.pruning.criteria.magnitude import MAGNITUDE
from cap_viz.pruning.criteria.random_weights import RANDOM
from cap_viz.pruning.criteria.ria import RIA
from cap_viz.pruning.criteria.shuffled_cap import SHUFFLED_CAP
from cap_viz.pruning.criteria.sparsegpt import SPARSEGPT
from cap_viz.pruning.criteria.taylor import TAYLOR
from cap_viz.pruning.criteria.wanda import WANDA, WANDA_ONESHOT
from cap_viz.pruning.criterion import Criterion, MaskRequest, Ranking, check_request
from cap_viz.pruning.mask import Mask, MatrixSize, ZeroCounts, check_sparsity
from cap_viz.pruning.options import USUAL, MaskFields, MaskOptions

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.tasks.base import Example

__all__ = [
    "CRITERIA",
    "Criterion",
    "CriterionName",
    "Mask",
    "MaskOptions",
    "MaskRequest",
    "MatrixSize",
    "Ranking",
    "RegionImportance",
    "Steps",
    "ZeroCounts",
    "check_request",
    "check_sparsity",
    "criterion_named",
    "criterion_title",
    "importance",
    "prune_mask",
    "rank_weights",
    "region_importance",
]

# In the order lists show them: ours, peers, controls, structured removal.
CRITERIA: dict[str, Criterion] = {
    criterion.name: criterion
    for criterion in (
        CAP,
        CAP_FINE,
        GLOBAL_MAGNITUDE,
        MAGNITUDE,
        WANDA,
        WANDA_ONESHOT,
        RIA,
        SPARSEGPT,
        TAYLOR,
        GBLM,
        SHUFFLED_CAP,
        RANDOM,
        HEAD,
    )
}


# The criteria that come with CAP Viz, for editors and type checkers; other names are looked up in `CRITERIA`.
CriterionName = Literal[
    "cap",
    "cap_fine",
    "global_magnitude",
    "magnitude",
    "wanda",
    "wanda_oneshot",
    "ria",
    "sparsegpt",
    "taylor",
    "gblm",
    "shuffled_cap",
    "random",
    "head",
]


class HeadScoresLike(Protocol):
    """Any result that has the mean effect of each head on a metric."""

    def mean_effect(self, metric: str) -> Float[np.ndarray, "layer head"]: ...


def criterion_named(name: str) -> Criterion:
    """Look up a criterion. Raises `UsageError`, listing the known names, for an unknown one."""
    return choose("criterion", name, CRITERIA)


def criterion_title(name: str) -> str:
    """Return the criterion's title, or its name for one that this version does not have (in an old run)."""
    return CRITERIA[name].title if name in CRITERIA else name


class MaskInputs(MaskFields, total=False):
    """What a mask is built from, and its options. Criteria ignore what they do not need.

    Head scores come as `scores` (read at `metric`) or directly as `effect`, positive where the head helps. `text`
    defaults to the model's usual one (`companion_text` in `tasks/example_sets.py`). `calibration` is described at
    `MaskRequest`, the options at `MaskOptions`.
    """

    effect: Float[np.ndarray, "layer head"] | None
    scores: HeadScoresLike | None
    calibration: Sequence[Example] | None
    text: Sequence[Example] | None


def prune_mask(
    model: ReasoningModel,
    criterion_name: CriterionName | str,
    *,
    sparsity: float,
    progress: bool = True,
    **inputs: Unpack[MaskInputs],
) -> Mask:
    """Return the mask of weights `criterion_name` keeps when it prunes the share `sparsity` of the weights in `scope`.

    `inputs` are those of `MaskInputs`; `progress` shows a bar. Raises `UsageError` for an unknown criterion, a value
    out of range or a missing input.
    """
    criterion = criterion_named(criterion_name)
    return finish_with_bar(criterion.steps(model, request_for(model, criterion, sparsity, **inputs)), progress)


def rank_weights(model: ReasoningModel, criterion_name: str, **inputs: Unpack[MaskInputs]) -> Ranking:
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
    return finish(criterion.rank(model, request_for(model, criterion, 0.0, **inputs)))


def request_for(
    model: ReasoningModel,
    criterion: Criterion,
    sparsity: float,
    *,
    effect: Float[np.ndarray, "layer head"] | None = None,
    scores: HeadScoresLike | None = None,
    calibration: Sequence[Example] | None = None,
    text: Sequence[Example] | None = None,
    **options: Unpack[MaskFields],
) -> MaskRequest:
    """Build the request: read effects from the scores, and default to the model's usual text if text is needed."""
    if effect is not None and scores is not None:
        raise UsageError("Give either scores= or effect=, not both: they are two ways to say the same.")
    if criterion.needs_scores and scores is not None:
        effect = scores.mean_effect(options.get("metric") or USUAL["metric"])
    if criterion.needs_text and text is None:
        from cap_viz.tasks.example_sets import companion_text, examples_of

        text = examples_of(companion_text(model.ref))
    return MaskRequest(
        sparsity,
        effect=None if effect is None else np.asarray(effect, dtype=np.float64),
        calibration=None if calibration is None else tuple(calibration),
        text=None if text is None else tuple(text),
        **options,
    )
