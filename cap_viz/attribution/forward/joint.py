"""Joint ablation of a set of heads: one full forward with z of every head of the set replaced.

Joint effects do not follow from single ones, and a set spans many layers, so nothing is replayed: each set costs one
forward. A set of one head gives the exact estimator's result (tested, as are whole layers).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.forward.dense_pass import dense_pass, read_logliks
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.models.loading import ReasoningModel


def ablate_set(
    model: ReasoningModel,
    batch: PackedBatch,
    heads: Iterable[tuple[int, int]],
    value: Float[Tensor, "layer #row #position head d_head"],
) -> Float[Tensor, "example option"]:
    """Compute option log-likelihoods with z of every (layer, head) in `heads` replaced by `value` at every position."""
    with model.bridge.hooks(fwd_hooks=set_hooks(heads, value)):
        final = dense_pass(model, batch, keep_calls=False).final
    return read_logliks(model, batch, final[:, None])[0]


def set_hooks(
    heads: Iterable[tuple[int, int]], value: Float[Tensor, "layer #row #position head d_head"]
) -> list[tuple[str, Callable[[Tensor, object], Tensor]]]:
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
