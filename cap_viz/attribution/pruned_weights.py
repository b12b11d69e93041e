"""Weights of a pruned model, which take the place of the dense ones while it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from jaxtyping import Bool, Float

from cap_viz.models.loading import ReasoningModel
from cap_viz.models.tensors import Tensor

# Matrices by name, as `ReasoningModel.swapped` takes them; empty for the dense model.
Weights = Mapping[str, Tensor]


class MaskLike(Protocol):
    """A mask: the weights to keep, and new values of matrices that a criterion updates."""

    @property
    def keep(self) -> Mapping[str, Bool[Tensor, "_output _input"]]: ...
    @property
    def updated(self) -> Mapping[str, Float[Tensor, "_output _input"]]: ...


def weights_under(model: ReasoningModel, mask: MaskLike | None) -> Weights:
    """Return the pruned matrices; none without a mask. Raises `UsageError` for a mask of another model."""
    if mask is None:
        return {}
    with model.lease:
        return model.pruned_weights(mask.keep, mask.updated)
