"""The Brier score of the options: squared distance of their probabilities from the right answer."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from cap_viz.attribution.effect_metrics import Gold, Logliks, PerExample, Tokens


def brier(logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
    """Between 0 and 2; lower is better. Options that an example does not have are NaN and count nothing."""
    probabilities = softmax(np.where(np.isnan(logliks), -np.inf, logliks), axis=-1)
    right = np.arange(logliks.shape[-1]) == np.asarray(gold)[:, None]
    return np.square(probabilities - right).sum(axis=-1)
