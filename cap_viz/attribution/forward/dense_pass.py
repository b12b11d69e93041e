"""The dense pass: option log-likelihoods, and everything needed to restart the model at any block.

TransformerLens 4.3 still runs the earlier blocks under `start_at_layer`, so each block's call is recorded here
(positional and keyword arguments, as the model itself made them) and `attribution/forward/replay.py` calls the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.forward.packing import PackedBatch
from cap_viz.models.loading import ReasoningModel

# A forward hook of TransformerLens: its name, and a function of the output there and the hook point. What the function
# returns, if anything, takes the output's place.
Hook = tuple[str, Callable[[Tensor, Any], Tensor | None]]


@dataclass(frozen=True)
class BlockCall:
    """Recorded call of one block: `hidden` is its input [row, position, d_model], `args` and `kwargs` are the rest."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class DensePass:
    """One forward pass of the untouched model: the calls of its blocks and the residual stream after the last."""

    calls: tuple[BlockCall, ...]
    final: Float[Tensor, "row position d_model"]


def dense_pass(model: ReasoningModel, batch: PackedBatch, *, keep_calls: bool = True) -> DensePass:
    """Run the model once on packed rows; with `keep_calls`, record every block's call."""
    calls: list[BlockCall] = []
    outputs: list[Tensor] = []

    def record(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(BlockCall(hidden=args[0], args=args[1:], kwargs=dict(kwargs)))

    def record_final(module: torch.nn.Module, args: Any, output: Any) -> None:
        outputs.append(first_tensor(output))

    blocks = model.blocks
    with ExitStack() as stack:
        if keep_calls:
            for block in blocks:
                stack.enter_context(block.register_forward_pre_hook(record, with_kwargs=True))
        stack.enter_context(blocks[-1].register_forward_hook(record_final))
        # Vocabulary logits are read at the answers only (`read_logliks`), so ask the model for a single one.
        model.bridge(
            batch.tokens,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=1,
        )
    return DensePass(calls=tuple(calls), final=outputs[0])


def option_logliks(
    model: ReasoningModel, batch: PackedBatch, hooks: Sequence[Hook] = ()
) -> Float[Tensor, "example option"]:
    """Run one full forward with the hooks; return the log-likelihood of every option."""
    with model.bridge.hooks(fwd_hooks=list(hooks)):
        final = dense_pass(model, batch, keep_calls=False).final
    return read_logliks(model, batch, final[:, None])[0]


@contextmanager
def keeping(model: ReasoningModel, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs at the named hooks of the forward inside, in the order they are computed."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor, hook: Any) -> Tensor:
        kept[name] = output
        # Returned, so that the model goes on with the kept tensor: a hook may be handed a reshaped copy.
        return output

    with model.bridge.hooks(fwd_hooks=[(name, partial(keep, name)) for name in names]):
        yield kept


def first_tensor(output: Any) -> Tensor:
    """Return the residual stream from a block's output: the tensor itself or the first of a tuple, by model family."""
    return output[0] if isinstance(output, tuple) else output


def read_logliks(
    model: ReasoningModel,
    batch: PackedBatch,
    final: Float[Tensor, "row variant position d_model"],
    *,
    scale_of: Float[Tensor, "row position d_model"] | None = None,
) -> Float[Tensor, "variant example option"]:
    """Read the summed log-likelihood of each option from the last residual stream; NaN for absent options.

    `variant` counts versions of each row (one per ablated head; 1 in the dense pass). Vocabulary logits are
    computed once per distinct place that predicts an answer token. With `scale_of`, the final norm divides by the
    scale of that residual stream instead of its own.
    """
    read = final[batch.read_row, :, batch.read_position]
    if scale_of is None:
        normed = model.bridge.ln_final(read)
    else:
        normed = frozen_norm(model, scale_of[batch.read_row, batch.read_position][:, None], read)
    logits = at_least_float32(model.bridge.unembed(normed))
    log_norm = logits.logsumexp(dim=-1)
    variants = torch.arange(final.shape[1], device=final.device)
    picked = logits[batch.answer_read[:, None], variants, batch.answer_token[:, None]]
    return loglik_sums(batch, picked - log_norm[batch.answer_read])


def frozen_norm(
    model: ReasoningModel, dense: Float[Tensor, "read 1 d_model"], read: Float[Tensor, "read variant d_model"]
) -> Float[Tensor, "read variant d_model"]:
    """Apply the final norm to `read` with the scale of `dense`.

    For a fixed scale every norm is linear but for its bias N(0), so the change u adds (N(u) - N(0)) · s(u) / s(dense),
    whatever the family centres, weights or offsets.
    """
    norm, change = model.bridge.ln_final, read - dense
    with keeping(model, ["ln_final.hook_scale"]) as kept:
        (normed, scale), (of_change, own_scale) = ((norm(x), kept["ln_final.hook_scale"]) for x in (dense, change))
    linear = (of_change - norm(torch.zeros_like(dense))) * (own_scale / scale)
    return normed + linear.to(normed.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """Promote half precision to float32, for log-likelihoods and sums over many terms."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def loglik_sums(
    batch: PackedBatch, token_logliks: Float[Tensor, "answer variant"]
) -> Float[Tensor, "variant example option"]:
    """Sum over each option's tokens; NaN for absent options."""
    n_variants = token_logliks.shape[1]
    slot = batch.answer_example * batch.n_options + batch.answer_option
    total = token_logliks.new_zeros(batch.n_examples * batch.n_options, n_variants)
    total.index_add_(0, slot, token_logliks)
    total[batch.answer_tokens.flatten() == 0] = torch.nan
    return total.T.reshape(n_variants, batch.n_examples, batch.n_options)
