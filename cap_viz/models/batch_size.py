"""Tokens per forward: enough to keep the matrix products busy, as far as the free memory allows.

1. The usual sizes suit SmolLM2 on a CPU. Smaller models take up to `MOST_TIMES` times as many tokens, or the calls
   would cost more than the products.
2. A GPU takes `MOST_TIMES_ON_GPU` times as many, whatever the model.
3. The number is halved while its activations would fill more than `SHARE` of the device's free memory.

Memory is measured when a plan is made, with the weights in place. Halving keeps the plan the same when the free memory
varies a little: other batch sizes move log-likelihoods by up to 4e-5. The chosen size is part of the stored plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cap_viz.models.devices import free_memory
from cap_viz.settings import CPU

if TYPE_CHECKING:
    from cap_viz.models.loading import ModelShape, ReasoningModel

REFERENCE_PARAMS = 134_515_008
MOST_TIMES = 4
MOST_TIMES_ON_GPU = 16
# The rest is for memory that the sum of activations leaves out: logits, copies, other programs.
SHARE = 0.5
# Vectors a step keeps per token besides the residual stream and its norm: queries and keys before and after rotation,
# values, z and its copy for the output projection.
QUERY_SIZED, KEY_SIZED = 4, 3


def tokens_at_once(usual: int, model: ReasoningModel) -> int:
    """Return the tokens per forward of `model`, scaled from `usual` for SmolLM2 on a CPU; at least one."""
    most = usual * times(model.shape.n_params, str(model.device))
    return fitting(most, activation_bytes(model.shape, model.dtype.itemsize), str(model.device))


def backward_tokens_at_once(usual: int, model: ReasoningModel) -> int:
    """Return the tokens per forward and backward pass: `usual` where memory allows it, at least one.

    Every block keeps about as much as a scoring step: 2.5 MB a token by this sum for SmolLM2, 3 MB measured.
    """
    each = model.shape.n_layers * activation_bytes(model.shape, model.dtype.itemsize)
    return fitting(usual, each, str(model.device))


def fitting(most: int, bytes_each: int, device: str) -> int:
    """Halve `most` until that many tokens of `bytes_each` fit into `SHARE` of the device's free memory."""
    room = SHARE * free_memory(device)
    while most > 1 and most * bytes_each > room:
        most //= 2
    return most


def times(n_params: int, device: str) -> int:
    """Return the factor on the usual number of tokens for a model of that size, memory aside."""
    if device != CPU:
        return MOST_TIMES_ON_GPU
    return max(1, min(MOST_TIMES, REFERENCE_PARAMS // n_params))


def activation_bytes(shape: ModelShape, bytes_each: int) -> int:
    """Return the bytes per token of a scoring step: one block's activations, and the residual before each block."""
    wide, narrow = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
    per_block = 2 * shape.d_model + QUERY_SIZED * wide + KEY_SIZED * narrow
    return bytes_each * (per_block + shape.n_layers * shape.d_model)
