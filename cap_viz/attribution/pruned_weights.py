"""Weights of a pruned model, which take the place of the dense ones while it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cap_viz.models.loading import ReasoningModel
from cap_viz.stats.joint import Head

# Matrices by name, as `ReasoningModel.swapped` takes them; empty for the dense model.
Weights = Mapping[str, Tensor]


class MaskLike(Protocol):
    """A mask: the weights to keep, and new values of matrices that a criterion updates."""

    @property
    def keep(self) -> Mapping[str, Bool[Tensor, "_output _input"]]: ...
    @property
    def updated(self) -> Mapping[str, Float[Tensor, "_output _input"]]: ...


@dataclass(frozen=True)
class HeadsRemoved:
    """A mask that takes whole heads out, in addition to those of another mask."""

    keep: Mapping[str, Bool[Tensor, "_output _input"]]
    updated: Mapping[str, Float[Tensor, "_output _input"]]


def without_heads(model: ReasoningModel, heads: Iterable[Head], mask: MaskLike | None = None) -> MaskLike | None:
    """Zero the columns of W_O that read each head, which equals zero ablation; `mask` itself without any head.

    Raises `CapVizError` for a family whose output projections are not linear layers of their own.
    """
    columns: dict[int, list[int]] = {}
    for layer, head in heads:
        width = model.shape.d_head
        columns.setdefault(layer, []).extend(range(head * width, (head + 1) * width))
    if not columns:
        return mask
    keep = {} if mask is None else dict(mask.keep)
    for matrix in model.matrices():
        if matrix.kind == "o" and matrix.layer in columns:
            whole = torch.ones_like(matrix.weight, dtype=torch.bool)
            kept = keep.get(matrix.name, whole).clone()
            kept[:, columns[matrix.layer]] = False
            keep[matrix.name] = kept
    return HeadsRemoved(keep, {} if mask is None else mask.updated)


def weights_under(model: ReasoningModel, mask: MaskLike | None) -> Weights:
    """Return the pruned matrices; none without a mask. Raises `UsageError` for a mask of another model."""
    if mask is None:
        return {}
    with model.lease:
        return model.pruned_weights(mask.keep, mask.updated)
