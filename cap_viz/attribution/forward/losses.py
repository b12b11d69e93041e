"""The differentiable metrics on torch tensors, for the backward pass of the gradient estimator.

The definitions are those of `attribution/effect_metrics.py` (numpy), which documents each metric; a test compares the
two on random values. `accuracy` is left out: it is a step function without a useful gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

Logliks = Float[Tensor, "example option"]
Loss = Callable[[Logliks, Int[Tensor, " example"], Int[Tensor, "example option"]], Float[Tensor, " example"]]


def nll(
    logliks: Logliks, gold: Int[Tensor, " example"], tokens: Int[Tensor, "example option"]
) -> Float[Tensor, " example"]:
    return -at_gold(logliks, gold) / at_gold(tokens, gold)


def choice_nll(
    logliks: Logliks, gold: Int[Tensor, " example"], tokens: Int[Tensor, "example option"]
) -> Float[Tensor, " example"]:
    return filled(logliks).logsumexp(dim=-1) - at_gold(logliks, gold)


def logit_diff(
    logliks: Logliks, gold: Int[Tensor, " example"], tokens: Int[Tensor, "example option"]
) -> Float[Tensor, " example"]:
    others = filled(logliks).scatter(-1, gold[:, None], -torch.inf)
    return others.logsumexp(dim=-1) - at_gold(logliks, gold)


LOSSES: dict[str, Loss] = {"nll": nll, "choice_nll": choice_nll, "logit_diff": logit_diff}


def filled(logliks: Logliks) -> Logliks:
    """Set absent options (NaN) to -inf, so that they never win and pass no gradient on."""
    return torch.where(logliks.isnan(), -torch.inf, logliks)


def at_gold(values: Shaped[Tensor, "example option"], gold: Int[Tensor, " example"]) -> Shaped[Tensor, " example"]:
    return values.gather(-1, gold[:, None])[:, 0]
