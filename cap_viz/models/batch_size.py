"""How many tokens go through the model at once: what keeps the products busy, as far as the memory at hand allows.

1. The usual sizes are made for SmolLM2 on a CPU. A model a hundred times smaller takes up to `MOST_TIMES` as many, or
   the calls would cost more than the products.
2. A GPU takes up to `MOST_TIMES_ON_GPU` as many, whatever the model.
3. As long as the activations of so many would fill more than `SHARE` of the device's free memory, half as many.

The memory is measured when a plan is made, with the weights in place. Powers of two keep a plan the same where the free
memory is not quite: other batch sizes move log-likelihoods by up to 4e-5. What was chosen is part of the stored plan.
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
# The rest is for what the sum of activations leaves out: logits, copies, what other programs take meanwhile.
SHARE = 0.5
# What a step keeps for a token beside the residual stream and its norm: queries and keys before and after their
# rotation, values, z and its copy for the output projection.
QUERY_SIZED, KEY_SIZED = 4, 3


def tokens_at_once(usual: int, model: ReasoningModel) -> int:
    """Tokens of one forward of `model`, where SmolLM2 on a CPU takes `usual`; at least one."""
    most = usual * times(model.shape.n_params, str(model.device))
    return fitting(most, activation_bytes(model.shape, model.dtype.itemsize), str(model.device))


def backward_tokens_at_once(usual: int, model: ReasoningModel) -> int:
    """Tokens of one forward and backward pass, `usual` where memory is no limit; at least one.

    Every block keeps about what a step of scoring keeps: 2.5 MB a token by this sum for SmolLM2, 3 MB measured.
    """
    each = model.shape.n_layers * activation_bytes(model.shape, model.dtype.itemsize)
    return fitting(usual, each, str(model.device))


def fitting(most: int, bytes_each: int, device: str) -> int:
    """`most`, halved until so many tokens of `bytes_each` fit into the share of the memory that is free there."""
    room = SHARE * free_memory(device)
    while most > 1 and most * bytes_each > room:
        most //= 2
    return most


def times(n_params: int, device: str) -> int:
    """How many times the usual tokens a model of that size takes where memory is no limit."""
    if device != CPU:
        return MOST_TIMES_ON_GPU
    return max(1, min(MOST_TIMES, REFERENCE_PARAMS // n_params))


def activation_bytes(shape: ModelShape, bytes_each: int) -> int:
    """Of one token in a step of scoring: what a block keeps, and the residual streams recorded before every block."""
    wide, narrow = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
    per_block = 2 * shape.d_model + QUERY_SIZED * wide + KEY_SIZED * narrow
    return bytes_each * (per_block + shape.n_layers * shape.d_model)
