"""Zeros per head, in the query head's own rows of W_Q and columns of W_O.

Rows of W_K and W_V belong to a whole KV group and are not counted. From a ranking: rank all weights once; for each
sparsity, count per head the ranks below the cutoff. From a mask: count its zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cap_viz.errors import UsageError
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress, Steps
from cap_viz.pruning.criterion import Ranking
from cap_viz.pruning.mask import Mask, Scope, layer_groups, scoped_matrices

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

# Kinds of matrices in which every query head has its own rows or columns.
OWN_KINDS = ("q", "o")


@dataclass(frozen=True)
class HeadZeros:
    """Zeros of every head at each of several sparsities; every head has `size` weights of its own."""

    sparsities: Float[np.ndarray, " sparsity"]
    zeros: Int[np.ndarray, "sparsity layer head"]
    size: int

    @property
    def share(self) -> Float[np.ndarray, "sparsity layer head"]:
        """The sparsity each head reaches."""
        return self.zeros / self.size

    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Table `heads`: one row per sparsity, layer and head, with the zeros among the `size` weights of the head."""
        sparsity, layer, head = np.indices(self.zeros.shape).reshape(3, -1)
        heads = pd.DataFrame(
            {
                "sparsity": self.sparsities[sparsity],
                "layer": layer.astype(np.int16),
                "head": head.astype(np.int16),
                "zeros": self.zeros.reshape(-1).astype(np.int32),
                "size": np.int32(self.size),
            }
        )
        return {"heads": heads}

    @classmethod
    def from_tables(cls, tables: Mapping[str, pd.DataFrame]) -> Self:
        table = tables["heads"]
        n_layers, n_heads = (1 + int(table[name].to_numpy().max()) for name in ("layer", "head"))
        return cls(
            sparsities=table["sparsity"].to_numpy()[:: n_layers * n_heads],
            zeros=table["zeros"].to_numpy(dtype=np.int64).reshape(-1, n_layers, n_heads),
            size=int(table["size"].iloc[0]),
        )


def head_profile_steps(
    model: ReasoningModel, ranking: Ranking, scope: Scope, sparsities: Sequence[float]
) -> Steps[HeadZeros]:
    """Count zeros per head at ascending sparsities. Raises `UsageError` where the scope leaves attention out."""
    check_attention(scope)
    zeros: list[Int[np.ndarray, "head sparsity"]] = []
    groups = layer_groups(scoped_matrices(model, "attention"))
    for index, group in enumerate(groups):
        counts = np.zeros((model.shape.n_heads, len(sparsities)), dtype=np.int64)
        with model.lease:
            for matrix in group:
                if matrix.kind in OWN_KINDS:
                    places, limits = ranking.rank_and_cutoffs(matrix, sparsities)
                    counts += counted(by_head(places, matrix.kind, model.shape.n_heads), limits)
        zeros.append(counts)
        yield Progress(index + 1, len(groups), "counting the zeros of heads")
    return HeadZeros(
        sparsities=np.asarray(sparsities, dtype=np.float64),
        zeros=np.stack(zeros).transpose(2, 0, 1),
        size=own_size(model),
    )


def mask_head_zeros(model: ReasoningModel, mask: Mask) -> HeadZeros:
    """Count zeros per head of a mask. Raises `UsageError` where its scope leaves attention out."""
    check_attention(mask.scope)
    shape = model.shape
    zeros = np.zeros((1, shape.n_layers, shape.n_heads), dtype=np.int64)
    for layer in range(shape.n_layers):
        for kind in OWN_KINDS:
            gone = by_head(~mask.keep[f"{layer}.{kind}"], kind, shape.n_heads)
            zeros[0, layer] += gone.sum(dim=1).cpu().numpy()
    return HeadZeros(sparsities=np.array([mask.sparsity]), zeros=zeros, size=own_size(model))


def check_attention(scope: Scope) -> None:
    if scope == "mlp":
        raise UsageError("Heads have no zeros when only MLP weights are pruned; choose the scope attention or both.")


def own_size(model: ReasoningModel) -> int:
    return len(OWN_KINDS) * model.shape.d_head * model.shape.d_model


def by_head(values: Tensor, kind: str, n_heads: int) -> Tensor:
    """Reshape a matrix's values [output, input] to [head, own]: rows of q, columns of o."""
    return (values if kind == "q" else values.T).reshape(n_heads, -1)


def counted(places: Int[Tensor, "head own"], limits: Sequence[int]) -> Int[np.ndarray, "head limit"]:
    """Count the places of each head below each of the ascending limits."""
    import torch

    n_heads, n_bins = len(places), len(limits) + 1
    bounds = torch.tensor(limits, dtype=places.dtype, device=places.device)
    # The first limit above each place: the place counts for this limit and all later ones.
    first = torch.bucketize(places, bounds, right=True)
    first += torch.arange(n_heads, device=places.device)[:, None] * n_bins
    found = first.reshape(-1).bincount(minlength=n_heads * n_bins).reshape(n_heads, n_bins)
    return found[:, :-1].cumsum(dim=1).cpu().numpy()
