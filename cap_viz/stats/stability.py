"""Stability of the ranking of heads across ablations (zero, mean, resample).

Ablations ask different questions: zero removes a head's output entirely, mean keeps its average contribution.
Spearman's correlation compares whole rankings, the overlap their tops. Compare both with the ranking's own reliability
(`split_half`): two rankings cannot agree better than each repeats itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cap_viz.errors import CapVizError, UsageError
from cap_viz.stats.ranking import rank_heads, usual_top
from cap_viz.stats.reliability import spearman_rows


@dataclass(frozen=True)
class RankStability:
    """Agreement between rankings, in the order of `names`; both arrays are symmetric with ones on the diagonal.

    `overlap` is the share of the `top` highest heads that two rankings have in common; `overlap_by_chance` is the share
    expected for unrelated rankings. `spearman` is NaN where all heads have the same effect.
    """

    names: tuple[str, ...]
    spearman: Float[np.ndarray, "ablation ablation"]
    overlap: Float[np.ndarray, "ablation ablation"]
    top: int
    overlap_by_chance: float


def rank_stability(scores: Mapping[str, Float[np.ndarray, "layer head"]], *, top: int | None = None) -> RankStability:
    """Compare the rankings by each named set of head scores; `top` defaults to a tenth of the heads.

    Raises `CapVizError` for fewer than two sets or sets of different shapes, `UsageError` for an impossible `top`.
    """
    if len(scores) < 2:
        raise CapVizError(f"Stability compares at least 2 rankings, not {len(scores)}.")
    arrays = [np.asarray(array, dtype=np.float64) for array in scores.values()]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise CapVizError(f"The rankings are about models of different shapes: {sorted(shapes)}.")
    flat = np.stack([array.reshape(-1) for array in arrays])
    n_heads = flat.shape[1]
    top = usual_top(n_heads) if top is None else top
    if not 1 <= top <= n_heads:
        raise UsageError(f"The top {top} of {n_heads} heads: choose between 1 and {n_heads}.")
    spearman = np.stack([spearman_rows(np.broadcast_to(row, flat.shape), flat) for row in flat])
    chosen = np.stack([rank_heads(array).reshape(-1) <= top for array in arrays]).astype(np.float64)
    return RankStability(
        names=tuple(scores),
        spearman=spearman,
        overlap=chosen @ chosen.T / top,
        top=top,
        overlap_by_chance=top / n_heads,
    )
