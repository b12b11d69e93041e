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

from collections.abc import Callable, Sequence
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


def rescored_order(
    effects: Callable[[HeadSet], Float[np.ndarray, "layer head"]], counts: Sequence[int]
) -> tuple[Head, ...]:
    """Order the heads, most important first, by removing the least important and scoring the others again.

    `effects` scores all heads with a set of them removed. Heads are removed up to each of the ascending `counts`, and
    scored anew in between; the last scores order the heads that are left.
    """
    removed: list[Head] = []
    scores = effects(())
    for count in (*counts, scores.size):
        if removed:
            scores = effects(tuple(sorted(removed)))
        left = [head for head in order_of(scores)[::-1] if head not in removed]
        removed += left[: count - len(removed)]
    return tuple(removed[::-1])


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


@dataclass(frozen=True)
class OrderLosses:
    """Losses of one order of the heads, per set and question, at the same numbers of heads.

    With the first heads removed from either end, and with only the first of the order, or of the order by size, kept.
    """

    most_first: Float[np.ndarray, "count example"]
    least_first: Float[np.ndarray, "count example"]
    kept: Float[np.ndarray, "count example"]
    kept_by_size: Float[np.ndarray, "count example"]


@dataclass(frozen=True)
class RemovalAreas:
    """Areas that sum up an order; an axis of resamples, or none.

    `most` and `least`: loss above the whole model's, averaged over the share of heads removed from either end, up to
    the largest share measured. `cpr` and `cmd` are NaN where removing every head does not hurt.
    """

    most: Float[np.ndarray, "*resample"]
    least: Float[np.ndarray, "*resample"]
    cpr: Float[np.ndarray, "*resample"]
    cmd: Float[np.ndarray, "*resample"]


def question_weights(n: int, *, resamples: int, seed: int) -> Float[np.ndarray, "resample example"]:
    """Weights of the questions that average them as observed (first row), then as in each bootstrap resample."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.concatenate([np.ones((1, n)), drawn]) / n


def removal_areas(
    losses: OrderLosses,
    shares: Float[np.ndarray, " count"],
    dense: Float[np.ndarray, " example"],
    empty: Float[np.ndarray, " example"],
    weights: Float[np.ndarray, "resample example"],
) -> RemovalAreas:
    """Sum up an order under each weighting of the questions.

    `dense` are the losses of the whole model, `empty` those without any head. CPR and CMD are taken between the
    smallest share of heads kept and the whole model.
    """

    def means(values: Float[np.ndarray, "*count example"]) -> Float[np.ndarray, "resample *count"]:
        return weights @ np.asarray(values, dtype=np.float64).T

    whole, none = means(dense)[:, None], means(empty)[:, None]
    at = np.array([0.0, *shares])

    def rise(removed: Float[np.ndarray, "count example"]) -> Float[np.ndarray, " resample"]:
        return np.trapezoid(np.concatenate([0 * whole, means(removed) - whole], axis=1), at) / at[-1]

    def faithful(kept: Float[np.ndarray, "count example"]) -> Float[np.ndarray, "resample circuit"]:
        possible = np.where(none > whole, none - whole, np.nan)
        return np.concatenate([none - means(kept), none - whole], axis=1) / possible

    up_to = np.array([*shares, 1.0])
    return RemovalAreas(
        most=rise(losses.most_first),
        least=rise(losses.least_first),
        cpr=np.trapezoid(faithful(losses.kept), up_to),
        cmd=np.trapezoid(np.abs(1 - faithful(losses.kept_by_size)), up_to),
    )


def michel_scores(gradient: Float[np.ndarray, "layer head example"]) -> Float[np.ndarray, "layer head"]:
    """Compute the head importance of Michel et al. 2019 (arXiv 1905.10650) from gradient effects of zero ablation.

    The mean absolute effect over examples, divided by its Euclidean norm over the heads of a layer (their section 4.1);
    a layer without any effect keeps zeros.
    """
    size = np.abs(np.asarray(gradient, dtype=np.float64)).mean(axis=-1)
    norm = np.linalg.norm(size, axis=1, keepdims=True)
    return size / np.where(norm > 0, norm, 1.0)
