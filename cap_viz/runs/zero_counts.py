"""Zeros per matrix and per head under a mask, from stored runs or from the rule, without computing anything.

Zeros per matrix come from the first available source:

1. the zeros table of a stored evaluation under the same mask: exact;
2. a stored profile (zeros at every sparsity, for criteria with a fixed score): within 0.05 points per matrix;
3. the rule itself, for criteria that take the same share of each row or matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from cap_viz.models.catalogue import ModelRef
from cap_viz.models.loading import ModelShape
from cap_viz.pruning import MatrixSize, ZeroCounts, criterion_named
from cap_viz.pruning.head_sparsity import HeadZeros
from cap_viz.pruning.selection.local_groups import LOCAL_GROUPS, group_for, local_profile
from cap_viz.runs.kinds.profile import load_head_zeros, load_zeros
from cap_viz.runs.run_queries import runs_of
from cap_viz.runs.spec import EvalSpec, MaskSpec, ProfileSpec
from cap_viz.runs.store import DamagedRun, Store, StoredRun


@dataclass(frozen=True)
class Zeros:
    """Zeros per matrix of one criterion at one sparsity; `counts` has one row, `source` names its origin."""

    criterion: str
    counts: ZeroCounts
    source: str

    @property
    def reached(self) -> float:
        return float(self.counts.reached[0])

    @cached_property
    def parts(self) -> dict[str, float]:
        """Sparsity reached in each part (attention, mlp) within the scope."""
        return {part: self.share_of(part) for part in ("attention", "mlp") if self.taken(part)}

    @property
    def attention_share_of_zeros(self) -> float:
        """Share of all zeros that lies in attention matrices."""
        zeros = self.counts.zeros[0]
        return float(zeros[self.taken("attention")].sum() / max(int(zeros.sum()), 1))

    def by_layer(self, part: str | None = None) -> Float[np.ndarray, " layer"]:
        return self.counts.by_layer(part)[0]

    def by_kind(self) -> tuple[tuple[str, ...], Float[np.ndarray, "layer kind"]]:
        """Return the kinds of matrices in the order of masks, and their shares of zeros by layer.

        NaN stands where a layer lacks a kind.
        """
        matrices = self.counts.matrices
        found = tuple(dict.fromkeys(matrix.kind for matrix in matrices))
        share = np.full((1 + max(matrix.layer for matrix in matrices), len(found)), np.nan)
        for matrix, value in zip(matrices, self.counts.share[0], strict=True):
            share[matrix.layer, found.index(matrix.kind)] = value
        return found, share

    def taken(self, part: str) -> list[int]:
        return [i for i, matrix in enumerate(self.counts.matrices) if matrix.part == part]

    def share_of(self, part: str) -> float:
        taken = self.taken(part)
        return float(self.counts.zeros[0, taken].sum() / self.counts.sizes[taken].sum())


def zeros_of(
    store: Store,
    runs: Sequence[StoredRun],
    mask: MaskSpec,
    model: ModelRef,
    read: Callable[[Store, StoredRun], ZeroCounts] = load_zeros,
) -> Zeros | None:
    """Return the zeros under a mask from stored runs (see `read`) or from the rule; None when a job has to count them.

    Raises `DamagedRun` when the only source is a run that cannot be trusted.
    """
    damage: DamagedRun | None = None
    for run, source in zero_sources(runs, mask, model):
        try:
            counts = at_sparsity(read(store, run), mask.sparsity)
        except DamagedRun as error:
            damage = error
            continue
        if counts is not None:
            return Zeros(mask.criterion, counts, source)
    shape = shape_from(runs, model)
    counts = None if shape is None else zeros_by_rule(mask, matrix_sizes(shape, mask.scope))
    if counts is not None:
        return Zeros(mask.criterion, counts, "exact rule")
    if damage is not None:
        raise damage
    return None


def zero_sources(runs: Sequence[StoredRun], mask: MaskSpec, model: ModelRef) -> list[tuple[StoredRun, str]]:
    """Stored runs that hold the zeros of a mask, exact ones first."""
    measured, profiles = under_mask(runs, mask, model)
    whole = [run for run in profiles if run.spec.parts is None]
    return [*((run, "measured run") for run in measured), *((run, "stored profile") for run in whole)]


def under_mask(
    runs: Sequence[StoredRun], mask: MaskSpec, model: ModelRef
) -> tuple[list[StoredRun[EvalSpec]], list[StoredRun[ProfileSpec]]]:
    """Find the evaluations under exactly this mask, and the profiles of its recipe."""
    own = [run for run in runs if run.spec.model == model]
    every = replace(mask, sparsity=0.0)
    return (
        [run for run in runs_of(own, EvalSpec) if run.spec.mask == mask],
        [run for run in runs_of(own, ProfileSpec) if run.spec.mask == every],
    )


def head_zeros_of(
    store: Store,
    runs: Sequence[StoredRun],
    mask: MaskSpec,
    model: ModelRef,
    read: Callable[[Store, StoredRun], HeadZeros] = load_head_zeros,
) -> Float[np.ndarray, "layer head"] | None:
    """Return the share of zeros in each head's own weights under a mask; None when a job has to count them.

    It comes from a stored evaluation under the mask (exact), or from a stored profile of heads. Raises `DamagedRun`.
    """
    for run in (run for found in under_mask(runs, mask, model) for run in found if "heads" in run.digests):
        counts = read(store, run)
        found = np.flatnonzero(np.isclose(counts.sparsities, mask.sparsity, atol=1e-9))
        if len(found):
            return counts.share[found[0]]
    return None


def at_sparsity(counts: ZeroCounts, sparsity: float) -> ZeroCounts | None:
    """Select the row of a profile at a sparsity; None if it has none."""
    found = np.flatnonzero(np.isclose(counts.sparsities, sparsity, atol=1e-9))
    if not len(found):
        return None
    return replace(counts, sparsities=counts.sparsities[found[:1]], zeros=counts.zeros[found[:1]])


def zeros_by_rule(mask: MaskSpec, matrices: Sequence[MatrixSize]) -> ZeroCounts | None:
    """Zeros of criteria that take the same share of every row, matrix or block of columns; None for others."""
    group = LOCAL_GROUPS.get(criterion_named(mask.criterion).threshold)
    if group is None or mask.allocation is not None:
        return None
    return local_profile(group_for(mask.pattern, group), matrices, [mask.sparsity])


def shape_from(runs: Sequence[StoredRun], model: ModelRef) -> ModelShape | None:
    """Return the model's dimensions as recorded by any of its stored runs."""
    for run in runs:
        if run.spec.model == model:
            try:
                return ModelShape(**run.provenance["shape"])
            except (KeyError, TypeError):
                continue
    return None


def matrix_sizes(shape: ModelShape, scope: str) -> tuple[MatrixSize, ...]:
    """Sizes of the matrices in the scope, in the order of masks: Llama's seven per block."""
    queries, keys = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
    attention = {
        "q": (queries, shape.d_model),
        "k": (keys, shape.d_model),
        "v": (keys, shape.d_model),
        "o": (shape.d_model, queries),
    }
    mlp = {
        "gate": (shape.d_mlp, shape.d_model),
        "up": (shape.d_mlp, shape.d_model),
        "down": (shape.d_model, shape.d_mlp),
    }
    return tuple(
        MatrixSize(layer=layer, kind=kind, part=part, rows=rows, columns=columns)
        for layer in range(shape.n_layers)
        for part, kinds in (("attention", attention), ("mlp", mlp))
        if scope in ("both", part)
        for kind, (rows, columns) in kinds.items()
    )
