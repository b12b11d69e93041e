"""Checks that the shortcuts of the forward pass are valid for a model, run on an example before they are used.

Validity depends on the model's architecture, so a shortcut that passed is not checked again while the model is
loaded; one that failed is, so that every plan logs why it takes the slow path.

1. Packed options must give the same result as one row per option; else options get rows of their own.
2. Running the blocks one by one must reproduce the model; else its heads cannot be scored.
3. What a block's attention adds to the residual stream must be what its output projection returns, normed where the
   family does so; else direct effects cannot be computed. For paths between heads, z must follow from queries, keys and
   values, and the residual stream must pass through a block unchanged.
4. The direct blocks (`attribution/forward/llama_fast_path.py`) must reproduce the model's own; else those are used.
5. So must decoding with the direct blocks (`attribution/forward/llama_decoding.py`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.forward.dense_pass import BlockCall, Hook, dense_pass, keeping
from cap_viz.attribution.forward.greedy import begun
from cap_viz.attribution.forward.llama_decoding import DirectDecoder
from cap_viz.attribution.forward.llama_fast_path import DirectModel, direct_model
from cap_viz.attribution.forward.packing import EncodedExample, PackedBatch, lay_out, packed_rows, separate_rows
from cap_viz.attribution.forward.patching import heads_site, mlp_site, zeros
from cap_viz.attribution.forward.path_replay import PROJECTIONS, DirectPaths, OwnPaths, side_by_side
from cap_viz.attribution.forward.replay import OwnBlocks, block_runner, replay_dense, run_block, written
from cap_viz.errors import CapVizError
from cap_viz.models.loading import ReasoningModel

log = logging.getLogger(__name__)

# In float32 packed and separate rows agree within 5e-5 where packing is valid; near this bound it is not.
PACKING_TOLERANCE = 1e-3
# Relative to the largest activation; float32 leaves about 1e-6.
REPLAY_TOLERANCE = 1e-4
# Half precisions have 11 and 8 bits instead of 24, so the same sums agree less well: measured 0.05 to 0.07 nats (rms)
# on an option in bfloat16. An invalid shortcut is wrong by whole nats.
COARSER = {"bfloat16": 500.0, "float16": 60.0}


def coarser(model: ReasoningModel) -> float:
    """Factor on the float32 tolerances for the model's precision."""
    return COARSER.get(str(model.dtype).removeprefix("torch."), 1.0)


def batch_of(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> PackedBatch:
    rows = packed_rows(encoded) if packed else separate_rows(encoded)
    return lay_out(rows, model.device, model.dtype)


def checked(model: ReasoningModel, batch: PackedBatch, logliks: Float[Tensor, "*part example option"]) -> np.ndarray:
    """Convert to numpy; raise `CapVizError` when the log-likelihood of an existing option is not finite."""
    if not bool(logliks[..., batch.answer_tokens > 0].isfinite().all()):
        raise CapVizError(
            f"{model.ref.id} gave log-likelihoods that are not finite; its weights or dtype are broken, run doctor."
        )
    return logliks.cpu().numpy()


def dense_logliks(
    model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool, direct: bool = False
) -> Float[np.ndarray, "example option"]:
    """Compute the log-likelihood of every option with the current weights.

    `direct` runs the direct blocks, which `direct_reading_is_valid` must have confirmed for the model.
    """
    batch, runner = batch_of(model, encoded, packed=packed), block_runner(model, direct=direct)
    with model.lease, torch.inference_mode():
        return checked(model, batch, runner.dense_logliks(batch))


def packing_is_valid(model: ReasoningModel, encoded: Sequence[EncodedExample]) -> bool:
    """Whether packed rows give the same log-likelihoods as separate rows, on the longest example."""
    if "packing" in model.passed:
        return True
    probe = [max(encoded, key=lambda example: example.row_length)]
    differences = dense_logliks(model, probe, packed=True) - dense_logliks(model, probe, packed=False)
    worst = float(np.abs(differences).max())
    if not worst < PACKING_TOLERANCE * coarser(model):
        log.warning("%s: packed options differ by %.1e; using a row for each option", model.ref.id, worst)
        return False
    # An example with a single option does not test packing.
    if len(probe[0].branches) > 1:
        model.passed.add("packing")
    return True


def check_replay(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> None:
    """Raise `CapVizError` when running the blocks one by one does not reproduce the model.

    Some families do more between their blocks than pass the residual stream on; their scores would be wrong.
    """
    if "replay" in model.passed:
        return
    batch = batch_of(model, [min(encoded, key=lambda example: example.row_length)], packed=packed)
    with model.lease, torch.inference_mode():
        dense = dense_pass(model, batch)
        difference = float((replay_dense(model, dense) - dense.final).abs().max())
        scale = float(dense.final.abs().max())
    if not difference <= REPLAY_TOLERANCE * coarser(model) * scale:
        raise CapVizError(
            f"The blocks of {model.ref.id} cannot be run one by one (difference {difference:.1e}); this family is "
            "not supported for head scores."
        )
    model.passed.add("replay")


def check_writes(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> None:
    """Raise `CapVizError` when what heads add to the residual stream is not what `written` says.

    Head 0 of the first and of the last layer is ablated in its block, whose MLP keeps its dense output.
    """
    if "writes" in model.passed:
        return
    batch = batch_of(model, [min(encoded, key=lambda example: example.row_length)], packed=packed)
    for layer in (0, model.shape.n_layers - 1):
        with model.lease, torch.inference_mode():
            call = dense_pass(model, batch).calls[layer]
            names = [site.name(layer) for site in (heads_site(model.shape), mlp_site(model.shape))]
            with keeping(model, names) as kept:
                dense = run_block(model, layer, call, call.hidden)
            z = kept[names[0]].reshape(*batch.tokens.shape, model.shape.n_heads, -1)
            without = z.clone()
            without[:, :, 0] = 0
            hooks = [(names[0], replaced_by(without)), (names[1], replaced_by(kept[names[1]]))]
            with model.bridge.hooks(fwd_hooks=hooks):
                change = run_block(model, layer, call, call.hidden) - dense
            difference = change - (written(model, layer, without) - written(model, layer, z))
            worst = float(difference[batch.is_real].abs().max() / dense[batch.is_real].abs().max())
        if not worst <= REPLAY_TOLERANCE * coarser(model):
            raise CapVizError(
                f"What the heads of {model.ref.id} write into the residual stream cannot be told from the rest of "
                f"their block (difference {worst:.1e}); this family is not supported for direct effects."
            )
    model.passed.add("writes")


def check_paths(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> None:
    """Raise `CapVizError` when what a receiver reads cannot be changed apart from the rest of its block."""
    if "paths" in model.passed:
        return
    batch = batch_of(model, [min(encoded, key=lambda example: example.row_length)], packed=packed)
    for layer in (0, model.shape.n_layers - 1):
        with model.lease, torch.inference_mode():
            worst = path_difference(model, layer, dense_pass(model, batch).calls[layer], batch)
        if not worst <= REPLAY_TOLERANCE * coarser(model):
            raise CapVizError(
                f"Heads and MLPs of {model.ref.id} cannot be given an input of their own (difference {worst:.1e}); "
                "this family is not supported for paths between heads."
            )
    model.passed.add("paths")


def path_difference(model: ReasoningModel, layer: int, call: BlockCall, batch: PackedBatch) -> float:
    """Return by how much a block does not do what path replay takes for granted, relative to its largest activations.

    Something is added to its input. With queries, keys and values held at their dense outputs, z must stay; with z and
    the MLP's output held, the block must pass the addition on unchanged. The MLP must read its own layer's attention,
    except where the family says that it computes the two side by side.
    """
    z, mlp = (site.name(layer) for site in (heads_site(model.shape), mlp_site(model.shape)))
    read, added = [f"blocks.{layer}.attn.hook_{each}" for each in PROJECTIONS], call.hidden.flip(-1)
    if any(name not in model.bridge.hook_dict for name in read):
        return math.inf

    def held(names: Sequence[str]) -> list[Hook]:
        return [(name, replaced_by(dense[name])) for name in names]

    with keeping(model, [*read, z, mlp]) as dense:
        output = run_block(model, layer, call, call.hidden)
    with keeping(model, [z]) as kept, model.bridge.hooks(fwd_hooks=held(read)):
        run_block(model, layer, call, call.hidden + added)
    with model.bridge.hooks(fwd_hooks=held([z, mlp])):
        passed_on = run_block(model, layer, call, call.hidden + added)
    without = [(z, replaced_by(torch.zeros_like(dense[z])))]
    with keeping(model, [mlp]) as alone, model.bridge.hooks(fwd_hooks=without):
        run_block(model, layer, call, call.hidden)
    if torch.equal(alone[mlp], dense[mlp]) != side_by_side(model):
        return math.inf
    pairs = ((kept[z], dense[z]), (passed_on - added, output))
    return max(float((a - b).abs()[batch.is_real].max() / b.abs()[batch.is_real].max()) for a, b in pairs)


def replaced_by(value: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda output, hook: value.reshape(output.shape)


def direct_reading_is_valid(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> bool:
    """Whether the direct blocks reproduce the model's log-likelihoods on the shortest example."""

    def difference(direct: DirectModel) -> float:
        batch = batch_of(model, [min(encoded, key=lambda example: example.row_length)], packed=packed)
        return relative_difference(direct.dense_logliks(batch), OwnBlocks(model).dense_logliks(batch))

    return direct_passes(model, "direct reading", difference)


def direct_is_valid(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> bool:
    """Whether the direct blocks reproduce the model's log-likelihoods, dense and ablated, on the shortest example."""

    def difference(direct: DirectModel) -> float:
        batch = batch_of(model, [min(encoded, key=lambda example: example.row_length)], packed=packed)
        layer = max(0, model.shape.n_layers - 2)
        values, dense = zeros(model, heads_site(model.shape)), dense_pass(model, batch)
        value, both = values[layer], ((layer, 0), (model.shape.n_layers - 1, 0))
        ours, own = (
            torch.cat(
                [
                    blocks.dense_logliks(batch)[None],
                    blocks.ablate_heads(batch, dense, layer, value),
                    blocks.ablate_writes(batch, dense, layer, value),
                    blocks.ablate_sets(batch, dense, [both], values),
                    blocks.ablate_writes(batch, dense, layer, value, frozen_norm=True),
                ]
            )
            for blocks in (direct, OwnBlocks(model))
        )
        return relative_difference(ours, own)

    return direct_passes(model, "direct", difference)


def direct_paths_are_valid(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> bool:
    """Whether the direct blocks reproduce the model's own, scores included, on paths of the shortest example."""

    def difference(direct: DirectModel) -> float:
        batch = batch_of(model, [min(encoded, key=lambda example: example.row_length)], packed=packed)
        layer, dense = model.shape.n_layers - 1, dense_pass(model, batch)
        value, heads = zeros(model, heads_site(model.shape))[0], [*range(model.shape.n_heads)]
        parts = [("all", *PROJECTIONS)[head % (1 + len(PROJECTIONS))] for head in heads]
        ours, own = (
            torch.cat(
                [
                    paths.into_heads(batch, dense, layer, changes, heads, parts),
                    paths.into_mlp(batch, dense, layer, changes),
                ]
            )
            for paths in (DirectPaths(direct), OwnPaths(model))
            for changes in [paths.writes(batch, dense, 0, value, heads)]
        )
        return relative_difference(ours, own)

    return direct_is_valid(model, encoded, packed=packed) and direct_passes(model, "direct paths", difference)


def direct_decoding_is_valid(model: ReasoningModel, prompts: Sequence[Sequence[int]]) -> bool:
    """Whether direct decoding reproduces the model's next-token logits after the two shortest prompts."""

    def difference(direct: DirectModel) -> float:
        probes, decoder = sorted(prompts, key=len)[:2], DirectDecoder(direct)
        ours = decoder.read(*begun(decoder, probes, 0, model.device))
        own = torch.stack(
            [model.bridge(torch.tensor([probe], device=model.device), use_cache=False)[0, -1] for probe in probes]
        )
        return float((ours - own).abs().max() / own.abs().max())

    return direct_passes(model, "direct decoding", difference)


def direct_passes(model: ReasoningModel, short_cut: str, difference: Callable[[DirectModel], float]) -> bool:
    """Whether the model has direct blocks and they differ from its own within the tolerance; a pass is remembered."""
    direct = direct_model(model)
    if direct is None:
        return False
    if short_cut in model.passed:
        return True
    with model.lease, torch.inference_mode():
        worst = difference(direct)
    if not worst <= REPLAY_TOLERANCE * coarser(model):
        log.warning("%s: %s differs from the model's own blocks by %.1e; using those", model.ref.id, short_cut, worst)
        return False
    model.passed.add(short_cut)
    return True


def relative_difference(ours: Tensor, own: Tensor) -> float:
    """Largest difference, relative to `own` where beyond 1 nat; options absent from `own` left out, other NaN kept."""
    difference = (ours - own).abs() / own.abs().clamp(min=1)
    return float(difference[~own.isnan()].max())
