"""Rounding noise of head scores in half precision: the floor below which a mean effect carries no information.

Measured by `benchmarks/precision.py` on SmolLM2-135M-Instruct and arc_easy, 6 examples: the root mean square difference
of a single effect (one head, one example) between that precision and float32, in nats. Other models round by other
amounts, so the floor is an indication, not a bound. Precisions and metrics that were not measured have no floor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MEASURED_ON = "SmolLM2-135M"
ROUNDING_RMS = {"bfloat16": {"nll": 0.0406, "choice_nll": 0.196}}


@dataclass(frozen=True)
class NoiseFloor:
    """Noise floor in nats; `below` of the `n_heads` mean effects are smaller in size."""

    dtype: str
    floor: float
    below: int
    n_heads: int

    def __str__(self) -> str:
        return (
            f"{self.below} of {self.n_heads} heads have effects below {self.floor:.2g} nats, which rounding to "
            f"{self.dtype} makes by itself (measured on {MEASURED_ON}): read nothing into their order."
        )


def floor_of(dtype: str, metric: str, n: int) -> float | None:
    """Return two standard errors of rounding in a mean of `n` examples; None in full precision or where unmeasured."""
    rms = ROUNDING_RMS.get(dtype, {}).get(metric)
    return None if rms is None else 2 * rms / math.sqrt(n)


def noise_floor(dtype: str, metric: str, mean_effect: Float[np.ndarray, "layer head"], n: int) -> NoiseFloor | None:
    floor = floor_of(dtype, metric, n)
    if floor is None:
        return None
    return NoiseFloor(dtype, floor, below=int((np.abs(mean_effect) < floor).sum()), n_heads=mean_effect.size)
