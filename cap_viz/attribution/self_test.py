"""Self-test of a loaded model: checks that ablation is exact and that weights are restored bit by bit.

The forward passes are compared with plain, slow ones on two questions of a task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.exact import encode_all
from cap_viz.attribution.forward.dense_pass import Hook, dense_pass, option_logliks
from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.attribution.forward.patching import heads_site, zeros
from cap_viz.attribution.forward.replay import OwnBlocks
from cap_viz.attribution.forward.shortcut_checks import batch_of, dense_logliks
from cap_viz.errors import CapVizError
from cap_viz.models.loading import ReasoningModel
from cap_viz.tasks import load_task
from cap_viz.tasks.readable import tasks_for

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """One line of the self-test."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Subject:
    """The questions the checks run on, and the heads they ablate."""

    model: ReasoningModel
    batch: PackedBatch
    dense: Float[Tensor, "example option"]
    heads: tuple[tuple[int, int], ...]


def checks(model: ReasoningModel) -> Iterator[Check]:
    """Yield the result of every check, in order; a failed one raises nothing."""
    encoded = encode_all(model, load_task(tasks_for(model.ref.id)[0]).evaluation(2))
    with model.lease, torch.inference_mode():
        batch = batch_of(model, encoded, packed=True)
        subject = Subject(model, batch, option_logliks(model, batch), spread_heads(model))
    packed, separate = (torch.from_numpy(dense_logliks(model, encoded, packed=packed)) for packed in (True, False))
    yield close("packed rows equal separate rows", [difference(subject, packed, separate)], 1e-3)
    for check in (no_op_hook, replay_is_full_forward, replay_is_zeroed_columns, only_its_slice, restore_is_exact):
        with model.lease, torch.inference_mode():
            result = check(subject)
        yield result


def spread_heads(model: ReasoningModel) -> tuple[tuple[int, int], ...]:
    """Up to four heads, from the first to the last layer."""
    shape = model.shape
    layers = sorted({0, shape.n_layers // 3, 2 * shape.n_layers // 3, shape.n_layers - 1})
    return tuple((layer, (7 * i + 1) % shape.n_heads) for i, layer in enumerate(layers))


def no_op_hook(subject: Subject) -> Check:
    """Check that a hook that returns z as it is changes no bit."""
    layer, _ = subject.heads[0]
    hooked = option_logliks(subject.model, subject.batch, [(f"blocks.{layer}.attn.hook_z", lambda z, hook: z)])
    return close("a hook that does nothing changes nothing", [difference(subject, hooked, subject.dense)], 0.0)


def replay_is_full_forward(subject: Subject) -> Check:
    """Compare suffix replay with a full forward with the head's z set to zero."""
    found = []
    for layer, head in subject.heads:
        zeroed = option_logliks(subject.model, subject.batch, [without_head(subject, layer, head)])
        found.append(difference(subject, replayed(subject, layer)[head], zeroed))
    return close("engine equals a full forward with the head zeroed", found, TOLERANCE)


def replay_is_zeroed_columns(subject: Subject) -> Check:
    """Compare suffix replay with zeroing the head's columns of the output projection."""
    model, found, width = subject.model, [], subject.model.shape.d_head
    for layer, head in subject.heads:
        projection = model.blocks[layer].attn.o.original_component
        weight = projection.weight.data
        edited = weight.clone()
        # GPT-2 stores its projections as [input, output].
        inputs = edited if type(projection).__name__ == "Conv1D" else edited.T
        inputs[head * width : (head + 1) * width] = 0
        projection.weight.data = edited
        try:
            ablated = option_logliks(model, subject.batch)
        finally:
            projection.weight.data = weight
        found.append(difference(subject, replayed(subject, layer)[head], ablated))
    return close("engine equals zeroed columns of the output projection", found, TOLERANCE)


def only_its_slice(subject: Subject) -> Check:
    """Check that ablation changes the output projection's input in the head's own slice only."""
    width, (layer, head) = subject.model.shape.d_head, subject.heads[-1]
    plain = projection_input(subject, layer)
    ablated = projection_input(subject, layer, [without_head(subject, layer, head)])
    own = slice(head * width, (head + 1) * width)
    zeroed = bool((ablated[..., own] == 0).all())
    changed = (plain != ablated).any(dim=0).any(dim=0).nonzero().flatten()
    outside = [int(i) for i in changed if not own.start <= int(i) < own.stop]
    detail = f"{len(changed)} of {plain.shape[-1]} columns differ, {len(outside)} of them outside the head's slice"
    return Check("only the head's own slice changes", zeroed and not outside and len(changed) > 0, detail)


def restore_is_exact(subject: Subject) -> Check:
    """Check that removing a mask restores every bit, even when the work inside fails."""
    model, name = subject.model, "masks are removed bit by bit, even after an error"
    before = weights_digest(model)
    try:
        matrix = model.matrices()[0]
    except CapVizError as error:
        return Check(name, True, f"not applicable: {error}")
    keep = {matrix.name: torch.zeros_like(matrix.weight, dtype=torch.bool)}
    inside = before
    with suppress(InterruptedError), model.masked(keep):
        inside = weights_digest(model)
        raise InterruptedError
    after = weights_digest(model)
    passed = after == before and inside != before
    return Check(name, passed, f"digest {before[:12]} → {after[:12]}")


def without_head(subject: Subject, layer: int, head: int) -> Hook:
    """Hook that sets z of a head to zero."""
    shape = subject.model.shape

    def zero(z: Tensor, hook: Any) -> Tensor:
        by_head = z.reshape(*z.shape[:2], shape.n_heads, shape.d_head).clone()
        by_head[:, :, head] = 0
        return by_head.reshape(z.shape)

    return f"blocks.{layer}.attn.hook_z", zero


def replayed(subject: Subject, layer: int) -> Float[Tensor, "head example option"]:
    model = subject.model
    value = zeros(model, heads_site(model.shape))[layer]
    return OwnBlocks(model).ablate_heads(subject.batch, dense_pass(model, subject.batch), layer, value)


def projection_input(subject: Subject, layer: int, hooks: Sequence[Hook] = ()) -> Float[Tensor, "row position feature"]:
    """Input of the output projection of `layer`, under hooks."""
    seen: list[Tensor] = []
    last = (f"blocks.{layer}.attn.o.hook_in", lambda x, hook: seen.append(x.clone()))
    option_logliks(subject.model, subject.batch, [*hooks, last])
    return seen[0].reshape(*subject.batch.tokens.shape, -1)


def weights_digest(model: ReasoningModel) -> str:
    """Hash of all weights, bit by bit."""
    digest = hashlib.sha256()
    for parameter in model.bridge.parameters():
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def difference(
    subject: Subject, first: Float[Tensor, "example option"], second: Float[Tensor, "example option"]
) -> Float[Tensor, ""]:
    """Largest absolute difference over the options there are; NaN where one of them is."""
    there = (subject.batch.answer_tokens > 0).to(first.device)
    return (first - second)[there].abs().max().cpu()


def close(name: str, differences: Sequence[Float[Tensor, ""]], bound: float) -> Check:
    worst = float(torch.stack(tuple(differences)).max())
    return Check(name, worst <= bound, f"largest difference in log-likelihood {worst:.1e}, allowed {bound:.0e}")
