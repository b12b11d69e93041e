"""The head that stretches a scale of importances most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Outlier:
    """The head that stretches the scale of I most. `range_left` is the share of effects' range left without it."""

    layer: int
    head: int
    importance: float
    range_left: float


def widest_outlier(importance: Float[np.ndarray, "layer head"]) -> Outlier:
    """Find the head that, left out, would shrink the range of I (hence of the effects) most."""
    flat = np.sort(importance.ravel())
    spread = flat[-1] - flat[0]
    if flat.size < 3 or spread == 0:
        return Outlier(0, 0, float(flat[-1]), 1.0)
    without_top, without_bottom = flat[-2] - flat[0], flat[-1] - flat[1]
    extreme = np.argmax(importance) if without_top <= without_bottom else np.argmin(importance)
    layer, head = np.unravel_index(int(extreme), importance.shape)
    left = min(without_top, without_bottom) / spread
    return Outlier(int(layer), int(head), float(importance[layer, head]), float(left))
