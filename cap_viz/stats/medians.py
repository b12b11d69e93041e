"""Head scores as a median over subsets of the examples, less sensitive to a few extreme ones than the mean.

1. Split the examples at random into K disjoint subsets of equal size (up to one example).
2. `median_of_k` (CAP paper, Eq. 2): median over the subsets of the mean loss with the head ablated, minus the mean
   loss of the untouched model over all examples.
3. `paired_median_of_k`: median over the subsets of the mean difference between the two on the same examples.

In the first, a subset of hard examples moves the ablated loss and not the dense one, so differences in difficulty
between subsets stay in the score; the second cancels them. Neither is a mean over examples: there is no t interval,
and the hybrid estimator does not apply.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from cap_viz.errors import CapVizError, UsageError

Losses = Float[np.ndarray, "*head example"]
DEFAULT_K = 3


def median_of_k(
    ablated: Losses, dense: Float[np.ndarray, " example"], *, k: int = DEFAULT_K, seed: int = 0
) -> Float[np.ndarray, "*head"]:
    """Median over k subsets of the ablated loss, minus the mean dense loss; positive means the head helps.

    The same for the same seed. Raises `UsageError` unless 1 ≤ k ≤ number of examples.
    """
    ablated, dense = checked(ablated, dense)
    return np.asarray(np.median(subset_losses(ablated, k, seed), axis=0) - dense.mean())


def paired_median_of_k(
    ablated: Losses, dense: Float[np.ndarray, " example"], *, k: int = DEFAULT_K, seed: int = 0
) -> Float[np.ndarray, "*head"]:
    """Median over k subsets of the mean effect; positive means the head helps. Raises as `median_of_k`."""
    ablated, dense = checked(ablated, dense)
    return np.asarray(np.median(subset_losses(ablated - dense, k, seed), axis=0))


def subset_losses(losses: Losses, k: int, seed: int) -> Float[np.ndarray, " subset *head"]:
    n = losses.shape[-1]
    if not 1 <= k <= n:
        raise UsageError(f"k = {k} subsets of {n} examples: choose at least 1 and at most one per example.")
    order = np.random.default_rng(seed).permutation(n)
    return np.stack([losses[..., members].mean(axis=-1) for members in np.array_split(order, k)])


def checked(ablated: Losses, dense: Float[np.ndarray, " example"]) -> tuple[Losses, Float[np.ndarray, " example"]]:
    ablated, dense = np.asarray(ablated, dtype=np.float64), np.asarray(dense, dtype=np.float64)
    if dense.shape != ablated.shape[-1:]:
        raise CapVizError(
            f"Ablated losses of {ablated.shape[-1]} examples and dense ones of {dense.size} do not match."
        )
    return ablated, dense
