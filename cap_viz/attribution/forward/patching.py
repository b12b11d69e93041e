"""Replacement of an output inside the model: sites, and the values of zero, mean and resample ablation.

A site is an output that every block has: z of its heads (hook_z, before the output projection) or its MLP's output.
The replacement is one tensor per layer with axes row and position, both of length 1 where all tokens get the same:

zero      zeros
mean      the output's mean over all tokens of a set of reference examples
resample  the output on another example, token by token (Chan et al. 2022, Causal Scrubbing): the token of the same
          segment (question, option k) with the nearest position, since indices into packed rows do not correspond.
          Where the other example feeds no token of an option, the last token of its question is used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cap_viz.attribution.forward.dense_pass import Hook, dense_pass, keeping
from cap_viz.attribution.forward.packing import EncodedExample, PackedBatch
from cap_viz.models.loading import ModelShape, ReasoningModel

# Added distances, larger than any between positions: for falling back to the question, and for forbidden tokens.
SECOND_CHOICE, IMPOSSIBLE = 1 << 30, 1 << 40


@dataclass(frozen=True)
class Site:
    """An output of every block: `hook` is the end of its hook's name, `shape` the shape at one token."""

    hook: str
    shape: tuple[int, ...]

    def name(self, layer: int) -> str:
        return f"blocks.{layer}.{self.hook}"


def heads_site(shape: ModelShape) -> Site:
    """z of all heads of a layer."""
    return Site("attn.hook_z", (shape.n_heads, shape.d_head))


def mlp_site(shape: ModelShape) -> Site:
    """Output of a layer's MLP, bias included (before the norm, where one follows)."""
    return Site("mlp.hook_out", (shape.d_model,))


def dense_outputs(model: ReasoningModel, batch: PackedBatch, site: Site) -> list[Float[Tensor, "row position ..."]]:
    """Outputs of the untouched model at the site, one per layer."""
    names = [site.name(layer) for layer in range(model.shape.n_layers)]
    with keeping(model, names) as kept:
        dense_pass(model, batch, keep_calls=False)
    return [kept[name].reshape(*batch.tokens.shape, *site.shape) for name in names]


def zeros(model: ReasoningModel, site: Site) -> Float[Tensor, "layer 1 1 ..."]:
    return torch.zeros(model.shape.n_layers, 1, 1, *site.shape, dtype=model.dtype, device=model.device)


def means(model: ReasoningModel, batches: Iterable[PackedBatch], site: Site) -> Float[Tensor, "layer 1 1 ..."]:
    """Mean output over the batches' real tokens, each counted once; the lease is held for one batch at a time."""
    total, n_tokens = zeros(model, site).double(), 0
    for batch in batches:
        with model.lease, torch.inference_mode():
            for layer, output in enumerate(dense_outputs(model, batch, site)):
                total[layer, 0, 0] += output[batch.is_real].double().sum(dim=0)
        n_tokens += int(batch.is_real.sum())
    return (total / n_tokens).to(model.dtype)


def resampled(
    model: ReasoningModel, batch: PackedBatch, others: PackedBatch, site: Site
) -> Float[Tensor, "layer row position ..."]:
    """Outputs on the rows of `others`, aligned to the tokens of `batch`; both have the same layout, row by row."""
    index = counterparts(batch, others)
    rows = torch.arange(len(index), device=index.device)[:, None]
    with model.lease, torch.inference_mode():
        return torch.stack([output[rows, index] for output in dense_outputs(model, others, site)])


def set_hooks(heads: Iterable[tuple[int, int]], value: Float[Tensor, "layer #row #position head d_head"]) -> list[Hook]:
    """Hooks that replace z of every (layer, head) in `heads` by `value`."""
    by_layer: dict[int, list[int]] = defaultdict(list)
    for layer, head in heads:
        by_layer[layer].append(head)
    return [(f"blocks.{layer}.attn.hook_z", replacing(chosen, value[layer])) for layer, chosen in by_layer.items()]


def replacing(
    heads: list[int], value: Float[Tensor, "#row #position head d_head"]
) -> Callable[[Tensor, object], Tensor]:
    def hook(z: Tensor, hook: object) -> Tensor:
        by_head = z.reshape(*z.shape[:2], *value.shape[2:]).clone()
        by_head[:, :, heads] = value[:, :, heads]
        return by_head.reshape(z.shape)

    return hook


def counterparts(batch: PackedBatch, others: PackedBatch) -> Int[Tensor, "row position"]:
    """For each token, the position in the same row of `others` from which its replacement is taken."""
    own, other = batch.segments[:, :, None], others.segments[:, None, :]
    distance = (batch.positions[:, :, None] - others.positions[:, None, :]).abs()
    # Among fallbacks, the question's last token is chosen: it is the nearest to any option.
    distance = torch.where(other == own, distance, torch.where(other == 0, distance + SECOND_CHOICE, IMPOSSIBLE))
    return distance.argmin(dim=-1)


def with_options(encoded: EncodedExample, options: Sequence[int]) -> EncodedExample:
    """Return the example with the given options only; numbers beyond its last option wrap around to the first."""
    order = [k % len(encoded.branches) for k in options]
    return EncodedExample(
        prefix=encoded.prefix,
        branches=tuple(encoded.branches[k] for k in order),
        answer_lengths=tuple(encoded.answer_lengths[k] for k in order),
    )
