"""Quality of a head ranking, measured by removing heads in its order.

1. Removal curve: the metric's loss with the first r heads of an order removed. Removing the most important heads first
   should raise it early; removing the least important first should keep it low.
2. Faithfulness of a circuit (k heads kept, all others removed): (empty - loss) / (empty - dense); 1 means as good as
   the whole model, 0 as bad as no head at all.
3. CPR and CMD of the MIB benchmark (Mueller et al. 2025, arXiv 2504.13151): the area under faithfulness over the
   share of heads kept, and the area between it and 1, by the trapezoidal rule. MIB keeps the highest scores for CPR
   and the largest absolute scores for CMD, at shares from 0.001 to 1; sensible shares depend on the number of heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cap_viz.errors import CapVizError
from cap_viz.stats.joint import Head, HeadSet


@dataclass(frozen=True)
class CircuitAreas:
    """CPR (higher is better) and CMD (lower is better; 0: every circuit does as well as the whole model)."""

    cpr: float
    cmd: float


def order_of(scores: Float[np.ndarray, "layer head"]) -> tuple[Head, ...]:
    """Sort heads by descending score; ties go to the lower layer, then the lower head."""
    flat = np.argsort(-np.asarray(scores, dtype=np.float64).reshape(-1), kind="stable")
    return tuple((int(i) // scores.shape[1], int(i) % scores.shape[1]) for i in flat)


def first(order: Sequence[Head], count: int) -> HeadSet:
    """Return the first `count` heads of an order, sorted by layer and head."""
    return tuple(sorted(order[:count]))


def all_but_first(order: Sequence[Head], count: int) -> HeadSet:
    """Return all heads but the first `count` of an order, sorted by layer and head."""
    return tuple(sorted(order[count:]))


def faithfulness(loss: Float[np.ndarray, " circuit"], *, dense: float, empty: float) -> Float[np.ndarray, " circuit"]:
    """Return the share of all heads' contribution to the metric that each circuit keeps.

    `loss` is the loss of each circuit, `dense` of the whole model, `empty` without any head. Raises `CapVizError` where
    removing every head does not hurt.
    """
    if not empty > dense:
        raise CapVizError(
            f"Without any head the loss is {empty:.3g}, not above the model's own {dense:.3g}: there is nothing to be "
            "faithful to on these examples."
        )
    return (empty - np.asarray(loss, dtype=np.float64)) / (empty - dense)


def circuit_areas(shares: Float[np.ndarray, " circuit"], faithful: Float[np.ndarray, " circuit"]) -> CircuitAreas:
    """Compute CPR and CMD between the smallest and the largest share. Raises `CapVizError` unless shares ascend."""
    shares, faithful = np.asarray(shares, dtype=np.float64), np.asarray(faithful, dtype=np.float64)
    if shares.shape != faithful.shape or not (np.diff(shares) > 0).all() or len(shares) < 2:
        raise CapVizError("Areas need the same number of shares and circuits, at least 2, with ascending shares.")
    return CircuitAreas(
        cpr=float(np.trapezoid(faithful, shares)), cmd=float(np.trapezoid(np.abs(1 - faithful), shares))
    )


def michel_scores(gradient: Float[np.ndarray, "layer head example"]) -> Float[np.ndarray, "layer head"]:
    """Compute the head importance of Michel et al. 2019 (arXiv 1905.10650) from gradient effects of zero ablation.

    The mean absolute effect over examples, divided by its Euclidean norm over the heads of a layer (their section 4.1);
    a layer without any effect keeps zeros.
    """
    size = np.abs(np.asarray(gradient, dtype=np.float64)).mean(axis=-1)
    norm = np.linalg.norm(size, axis=1, keepdims=True)
    return size / np.where(norm > 0, norm, 1.0)
