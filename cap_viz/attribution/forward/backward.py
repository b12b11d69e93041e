"""First-order effects of removing each head on a metric, from one forward and one backward pass.

1. The input of block 0 requires a gradient and the weights do not, so that the backward pass computes no weight
   gradient; hook_z of every layer is kept.
2. The examples' metrics are summed and differentiated with respect to every kept z at once. Examples do not attend to
   each other, so each row's gradient belongs to its own example.
3. Effect of head h on example x: the inner product of (value - z) with the gradient, summed over positions.
   Padding has no influence on any answer and contributes exactly zero.

This is attribution patching towards the ablation value (Nanda 2023; AtP*, arXiv 2403.00745); with zero ablation it is
the signed head importance of Michel et al. 2019 (arXiv 1905.10650). It is the derivative of the metric along the
straight line from z to the ablation value (tested against finite differences), not the effect itself; compare with the
exact estimator to see how far the two are apart.

The same backward pass gives the effect of every hidden unit of every MLP: minus the sum over positions of a times its
gradient, where a is the unit's activation before the down projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from cap_viz.attribution.forward.dense_pass import at_least_float32, keeping, option_logliks
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.attribution.forward.patching import heads_site
from cap_viz.models.loading import ReasoningModel


@dataclass(frozen=True)
class GradientPass:
    """First-order effects on one batch: `effects[l, h, i]` on its i-th example; `units` summed over the examples.

    `by_span` splits `effects` by where z is replaced; None where not asked for.
    """

    logliks: Float[Tensor, "example option"]
    effects: Float[Tensor, "layer head example"]
    units: Float[Tensor, "layer unit"] | None
    by_span: Float[Tensor, "layer head span example"] | None = None


def gradient_pass(
    model: ReasoningModel,
    batch: PackedBatch,
    *,
    metric: str,
    gold: Int[Tensor, " example"],
    value: Float[Tensor, "layer #row #position head d_head"],
    units: bool = False,
    spans: Bool[Tensor, "row position span"] | None = None,
) -> GradientPass:
    """Compute first-order effects of replacing z of each head by `value`, in the metric's unit (nats).

    `metric` is one of `LOSSES`. With `units`, effects of the MLPs' hidden units are added (None where `has_units` is
    false). With `spans`, each of which holds some positions, the effects are split by them.
    """
    layers = range(model.shape.n_layers)
    names = [heads_site(model.shape).name(layer) for layer in layers]
    unit_names = [units_hook(layer) for layer in layers] if units and has_units(model) else []
    start = model.blocks[0].register_forward_pre_hook(start_of_graph, with_kwargs=True)
    with torch.enable_grad(), weights_frozen(model), start, keeping(model, [*names, *unit_names]) as kept:
        logliks = option_logliks(model, batch)
        total = LOSSES[metric](logliks, gold, batch.answer_tokens).sum()
        slopes = dict(zip(kept, torch.autograd.grad(total, list(kept.values())), strict=True))
    z = torch.stack([kept[name].detach().reshape(*batch.tokens.shape, *value.shape[3:]) for name in names])
    slope = torch.stack([slopes[name].reshape(z.shape[1:]) for name in names])
    change, slope = at_least_float32(value - z), at_least_float32(slope)
    effects = by_example(batch, torch.einsum("lrphd,lrphd->lhr", change, slope))
    by_span = None
    if spans is not None:
        by_token = torch.einsum("lrphd,lrphd->lhrp", change, slope)
        by_span = by_example(batch, torch.einsum("lhrp,rps->lhsr", by_token, spans.to(by_token.dtype)))
    by_unit = [-(at_least_float32(kept[name].detach()) * slopes[name]).flatten(0, -2).sum(dim=0) for name in unit_names]
    return GradientPass(logliks.detach(), effects, torch.stack(by_unit) if by_unit else None, by_span)


def has_units(model: ReasoningModel) -> bool:
    """Whether every MLP of the model exposes its hidden units (mixtures of experts do not)."""
    hooks = model.bridge.hook_dict
    return all(units_hook(layer) in hooks for layer in range(model.shape.n_layers))


def units_hook(layer: int) -> str:
    return f"blocks.{layer}.mlp.hook_post"


def by_example(batch: PackedBatch, by_row: Float[Tensor, "*at row"]) -> Float[Tensor, "*at example"]:
    """Sum the values of each example's rows."""
    total = by_row.new_zeros(*by_row.shape[:-1], batch.n_examples)
    return total.index_add_(-1, example_of_row(batch), by_row)


def example_of_row(batch: PackedBatch) -> Int[Tensor, " row"]:
    """Example number of each row: an example has one packed row, or one row per option."""
    owner = torch.zeros(len(batch.tokens), dtype=torch.long, device=batch.tokens.device)
    owner[batch.read_row[batch.answer_read]] = batch.answer_example
    return owner


@contextmanager
def weights_frozen(model: ReasoningModel) -> Iterator[None]:
    """Let no weight require a gradient inside; restore each one's own setting afterwards."""
    trained = [parameter for parameter in model.bridge.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def start_of_graph(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (args[0].detach().requires_grad_(), *args[1:]), kwargs


Logliks = Float[Tensor, "example option"]
PerExample = Float[Tensor, " example"]
Gold = Int[Tensor, " example"]
Tokens = Int[Tensor, "example option"]


def nll(logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
    return -at_gold(logliks, gold) / at_gold(tokens, gold)


def choice_nll(logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
    return filled(logliks).logsumexp(dim=-1) - at_gold(logliks, gold)


def logit_diff(logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
    others = filled(logliks).scatter(-1, gold[:, None], -torch.inf)
    return others.logsumexp(dim=-1) - at_gold(logliks, gold)


# The differentiable metrics of `attribution/effect_metrics.py` (numpy), which documents them, on torch tensors; a test
# compares the two.
LOSSES: dict[str, Callable[[Logliks, Gold, Tokens], PerExample]] = {
    "nll": nll,
    "choice_nll": choice_nll,
    "logit_diff": logit_diff,
}


def filled(logliks: Logliks) -> Logliks:
    """Set absent options (NaN) to -inf, so that they never win and pass no gradient on."""
    return torch.where(logliks.isnan(), -torch.inf, logliks)


def at_gold(values: Shaped[Tensor, "example option"], gold: Int[Tensor, " example"]) -> Shaped[Tensor, " example"]:
    return values.gather(-1, gold[:, None])[:, 0]
