"""Masks: which weights to keep, and the zeros per matrix. Reading the counts needs no torch.

A mask only holds what to keep, and new values of the kept weights where a criterion updates them.
`ReasoningModel.masked(mask.keep, mask.updated)` applies it and restores the dense weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Literal, Self, TypeVar, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from cap_viz.attribution.result_base import Result, drawing
from cap_viz.errors import UsageError
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Progress

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from cap_viz.models.loading import Matrix, ReasoningModel

Scope = Literal["both", "attention", "mlp"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Made = TypeVar("Made")
Keep = Mapping[str, Bool[Tensor, "_output _input"]]
Updated = Mapping[str, Float[Tensor, "_output _input"]]


@dataclass(frozen=True)
class MatrixSize:
    """One prunable matrix: its layer, kind (q, k, v, o, gate, up, down), part, and weight shape."""

    layer: int
    kind: str
    part: str
    rows: int
    columns: int

    @property
    def name(self) -> str:
        """As `Matrix.name`: `<layer>.<kind>`."""
        return f"{self.layer}.{self.kind}"

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.rows * self.columns


@dataclass(frozen=True)
class ZeroCounts:
    """Zeros per matrix at each of several sparsities, in the order of `matrices`."""

    sparsities: Float[np.ndarray, " sparsity"]
    matrices: tuple[MatrixSize, ...]
    zeros: Int[np.ndarray, "sparsity matrix"]

    @property
    def sizes(self) -> Int[np.ndarray, " matrix"]:
        """Number of weights of each matrix."""
        return np.array([matrix.size for matrix in self.matrices], dtype=np.int64)

    @property
    def share(self) -> Float[np.ndarray, "sparsity matrix"]:
        """The sparsity each matrix reaches."""
        return self.zeros / self.sizes

    @property
    def reached(self) -> Float[np.ndarray, " sparsity"]:
        """The sparsity reached over all matrices together."""
        return self.zeros.sum(axis=1) / self.sizes.sum()

    def by_layer(self, part: str | None = None) -> Float[np.ndarray, "sparsity layer"]:
        """The sparsity each layer reaches, over one part or all its matrices; NaN for a layer without any."""
        taken = [i for i, matrix in enumerate(self.matrices) if part in (None, matrix.part)]
        n_layers = 1 + max(matrix.layer for matrix in self.matrices)
        layers = np.array([self.matrices[i].layer for i in taken], dtype=np.int64)
        sizes = np.bincount(layers, weights=self.sizes[taken], minlength=n_layers)
        zeros = [np.bincount(layers, weights=row, minlength=n_layers) for row in self.zeros[:, taken]]
        with np.errstate(invalid="ignore"):
            return np.array(zeros).reshape(-1, n_layers) / sizes

    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Table `zeros`: one row per sparsity and matrix, in ascending sparsity."""
        n_sparsities, n_matrices = self.zeros.shape
        matrices = self.matrices * n_sparsities
        zeros = pd.DataFrame(
            {
                "sparsity": np.repeat(self.sparsities, n_matrices),
                "layer": np.array([m.layer for m in matrices], dtype=np.int16),
                "kind": [m.kind for m in matrices],
                "part": [m.part for m in matrices],
                "rows": np.array([m.rows for m in matrices], dtype=np.int32),
                "columns": np.array([m.columns for m in matrices], dtype=np.int32),
                "zeros": self.zeros.reshape(-1),
            }
        )
        return {"zeros": zeros}

    @classmethod
    def from_tables(cls, tables: Mapping[str, pd.DataFrame]) -> Self:
        table = tables["zeros"]
        sparsities = np.unique(table["sparsity"].to_numpy())
        first = table[table["sparsity"] == sparsities[0]]
        matrices = tuple(
            MatrixSize(layer=layer, kind=kind, part=part, rows=rows, columns=columns)
            for layer, kind, part, rows, columns in zip(
                *(first[name].tolist() for name in ("layer", "kind", "part", "rows", "columns")), strict=True
            )
        )
        zeros = table["zeros"].to_numpy().reshape(len(sparsities), len(matrices))
        return cls(sparsities=sparsities, matrices=matrices, zeros=zeros)


@dataclass(frozen=True, repr=False)
class Mask(Result):
    """The weights a criterion keeps at a sparsity. Matrices outside the scope are not in `keep`.

    `counts` has one row, at the sparsity asked for; its matrices are those of the scope. A pruned weight counts as
    a zero, a kept one that is zero anyway does not. `updated` holds whole matrices to use in place of the
    model's own (SparseGPT); matrices it does not name keep their weights. `structured`: the zeros fill whole rows and
    columns.
    """

    criterion: str
    sparsity: float
    scope: Scope
    keep: Keep = field(compare=False)
    counts: ZeroCounts = field(compare=False)
    updated: Updated = field(default_factory=dict, compare=False)
    structured: bool = False

    @property
    def reached(self) -> float:
        """The sparsity over all weights of the scope; `sparsity` is the one asked for."""
        return float(self.counts.reached[0])

    @property
    def parameters_saved(self) -> int:
        """Weights a smaller model with the same output can leave out: all zeros of a structured mask, else none."""
        return int(self.counts.zeros.sum()) if self.structured else 0

    @cached_property
    def digest(self) -> str:
        """16 hex digits of a hash over `keep` and `updated`: equal for equal masks, whatever criterion made them."""
        digest = hashlib.sha256()
        for name, kept in self.keep.items():
            digest.update(f"{name} {tuple(kept.shape)} ".encode())
            digest.update(packed_bits(kept))
            if name in self.updated:
                digest.update(self.updated[name].cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def headline(self) -> str:
        where = {"both": "attention and MLP", "attention": "attention", "mlp": "MLP"}[self.scope]
        return f"{self.criterion} at sparsity {self.sparsity:g}, {self.reached:.2%} of the {where} weights are zero"

    def overview(self) -> pd.DataFrame:
        """Return the zeros and their share in each part of the model."""
        counts, rows = self.counts, []
        for part in self.parts:
            of_part = np.array([matrix.part == part for matrix in counts.matrices])
            weights, zeros = int(counts.sizes[of_part].sum()), int(counts.zeros[0, of_part].sum())
            rows.append({"part": part, "weights": weights, "zeros": zeros, "share": zeros / weights})
        return pd.DataFrame(rows)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the model in the scope: attention, mlp or both."""
        return tuple(dict.fromkeys(matrix.part for matrix in self.counts.matrices))

    def to_pandas(self) -> pd.DataFrame:
        """Tabulate the zeros, one row per matrix.

        Columns: layer, kind (q, k, v, o, gate, up, down), part (attention, mlp), rows and columns of the weight, zeros,
        share of zeros.
        """
        table = self.counts.to_tables()["zeros"].drop(columns="sparsity")
        return table.assign(share=table["zeros"] / (table["rows"] * table["columns"]))

    def plot(self) -> go.Figure:
        """Draw the share of zeros in every layer, attention and MLP apart."""
        with drawing():
            from cap_viz.figures.prune import LayerShares, zeros_by_layer
        shares = {part: self.counts.by_layer(part)[0] for part in self.parts}
        return zeros_by_layer([LayerShares(self.criterion, self.criterion, shares)], self.sparsity)

    def to_tables(self) -> dict[str, pd.DataFrame]:
        """Tables `zeros` (as `ZeroCounts`), `keep` (a bit per weight, packed row by row) and, if any, `updated`."""
        kept = [(name, *keep.shape, packed_bits(keep)) for name, keep in self.keep.items()]
        tables = {**self.counts.to_tables(), "keep": pd.DataFrame(kept, columns=["matrix", "rows", "columns", "bits"])}
        if self.updated:
            # Float32 holds every value of the shorter types.
            values = [
                (name, str(new.dtype).removeprefix("torch."), new.cpu().float().contiguous().numpy().tobytes())
                for name, new in self.updated.items()
            ]
            tables["updated"] = pd.DataFrame(values, columns=["matrix", "dtype", "values"])
        return tables

    @classmethod
    def from_tables(
        cls, tables: Mapping[str, pd.DataFrame], *, criterion: str, sparsity: float, scope: Scope, structured: bool
    ) -> Self:
        import torch

        keep, updated = {}, {}
        for name, rows, columns, bits in tables["keep"].to_numpy().tolist():
            flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=rows * columns)
            keep[name] = torch.from_numpy(flat.astype(bool).reshape(rows, columns))
        for name, dtype, values in tables["updated"].to_numpy().tolist() if "updated" in tables else ():
            flat = torch.from_numpy(np.frombuffer(values, dtype=np.float32).copy())
            updated[name] = flat.reshape(keep[name].shape).to(getattr(torch, dtype))
        counts = ZeroCounts.from_tables(tables)
        return cls(criterion, sparsity, scope, keep, counts, updated, structured)


def packed_bits(keep: Bool[Tensor, "output input"]) -> bytes:
    return np.packbits(keep.cpu().numpy()).tobytes()


def scoped_matrices(model: ReasoningModel, scope: Scope) -> tuple[Matrix, ...]:
    """Return the matrices in the scope, in layer order."""
    with model.lease:
        return tuple(matrix for matrix in model.matrices() if scope in ("both", matrix.part))


def matrix_size(matrix: Matrix) -> MatrixSize:
    """Describe a matrix without its weights."""
    rows, columns = matrix.weight.shape
    return MatrixSize(layer=matrix.layer, kind=matrix.kind, part=matrix.part, rows=rows, columns=columns)


def layer_groups(matrices: Sequence[Matrix]) -> list[list[Matrix]]:
    """Group the matrices by layer, the portion a job works on between two yields."""
    groups: dict[int, list[Matrix]] = {}
    for matrix in matrices:
        groups.setdefault(matrix.layer, []).append(matrix)
    return list(groups.values())


def each_matrix(
    model: ReasoningModel, scope: Scope, note: str, work: Callable[[Matrix], Made]
) -> Generator[Progress, None, dict[str, Made]]:
    """Apply `work` to each matrix of the scope, a layer per step under the lease; return the results by name."""
    found: dict[str, Made] = {}
    groups = layer_groups(scoped_matrices(model, scope))
    for index, group in enumerate(groups):
        with model.lease:
            found |= {matrix.name: work(matrix) for matrix in group}
        yield Progress(index + 1, len(groups), note)
    return found


def mask_from(
    *,
    criterion: str,
    sparsity: float,
    scope: Scope,
    matrices: Sequence[MatrixSize],
    keep: Keep,
    updated: Updated | None = None,
    structured: bool = False,
) -> Mask:
    """Make a mask, counting its zeros from `keep`."""
    zeros = [matrix.size - int(keep[matrix.name].count_nonzero()) for matrix in matrices]
    counts = zero_counts([sparsity], matrices, [zeros])
    return Mask(
        criterion=criterion,
        sparsity=sparsity,
        scope=scope,
        keep=keep,
        counts=counts,
        updated=updated or {},
        structured=structured,
    )


def zero_counts(
    sparsities: Sequence[float], matrices: Sequence[MatrixSize], zeros: Sequence[Sequence[int]]
) -> ZeroCounts:
    """Make the counts from rows of plain integers, one row per sparsity."""
    return ZeroCounts(
        sparsities=np.asarray(sparsities, dtype=np.float64),
        matrices=tuple(matrices),
        zeros=np.array(zeros, dtype=np.int64).reshape(len(sparsities), len(matrices)),
    )


def check_sparsity(sparsity: float) -> None:
    """Raise `UsageError` unless 0 <= sparsity < 1."""
    if not isinstance(sparsity, Real):
        raise UsageError(f"The sparsity is {sparsity!r}, which is not a number; give a share such as 0.2 for 20 %.")
    # A percentage (20 for 0.2) is the usual slip; NaN fails the comparison as well.
    if not (math.isfinite(sparsity) and 0 <= sparsity < 1):
        raise UsageError(f"The sparsity is {sparsity:g}; give a share of at least 0 and below 1, such as 0.2 for 20 %.")
