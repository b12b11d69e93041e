"""Cost model: bytes of memory and floating-point operations, estimated from a model's config alone.

Memory. One number per weight in the requested precision. Scoring adds the activations of one step, limited in tokens
(`attribution/exact.py`), and the residual streams of one dense pass. Pruning adds a mask (one byte a weight) and a
second copy of the pruned matrices; a global threshold adds 256 KB a matrix and the scores of one matrix at a time.

Operations. A product of [m, k] and [k, n] counts 2 m k n; only products count. Exact scores of a model of L layers run
the MLP of the ablated layer and all later blocks for every head: about L (L + 1) / 2 blocks per head of a layer and
token, against L for one forward. The last block runs only where an answer is read; when its own heads are ablated, its
attention runs at all positions. Gradient scores count three forwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from cap_viz.errors import UsageError
from cap_viz.models.batch_size import activation_bytes
from cap_viz.models.devices import BYTES
from cap_viz.models.loading import ModelShape
from cap_viz.models.weight_files import WORKING_MEMORY_BYTES

HISTOGRAM_BYTES = 1 << 18


@dataclass(frozen=True)
class Dimensions:
    """Shape and vocabulary size of a Llama-like model."""

    shape: ModelShape
    vocabulary: int

    @property
    def attention(self) -> int:
        """Weights of the four projections of a block."""
        shape = self.shape
        return 2 * shape.d_model * shape.d_head * (shape.n_heads + shape.n_kv_heads)

    @property
    def mlp(self) -> int:
        """Weights of the three projections of a gated MLP."""
        return 3 * self.shape.d_model * self.shape.d_mlp

    @property
    def block(self) -> int:
        return self.attention + self.mlp

    @property
    def prunable(self) -> int:
        return self.shape.n_layers * self.block


@dataclass(frozen=True)
class MemoryPlan:
    """Memory in bytes; `to_score` and `to_prune` add the program's working memory."""

    weights: int
    scoring: int
    masking: int

    @property
    def to_score(self) -> int:
        return WORKING_MEMORY_BYTES + self.weights + self.scoring

    @property
    def to_prune(self) -> int:
        return WORKING_MEMORY_BYTES + self.weights + self.masking


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one item."""

    evaluation: int
    gradient: int
    exact: int


def dimensions_of(config: Mapping[str, Any]) -> Dimensions:
    """Read dimensions from a `config.json` of the Llama family. Raises `UsageError` naming a missing or odd value."""
    try:
        layers, heads, d_model, d_mlp, vocabulary, n_ctx = (
            int(config[name])
            for name in (
                "num_hidden_layers",
                "num_attention_heads",
                "hidden_size",
                "intermediate_size",
                "vocab_size",
                "max_position_embeddings",
            )
        )
        kv_heads = int(config.get("num_key_value_heads") or heads)
        d_head = int(config.get("head_dim") or d_model // heads)
    except KeyError as error:
        raise UsageError(
            f"The config.json says nothing of {error}; only models built like Llama can be planned."
        ) from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UsageError(f"The config.json holds odd sizes ({error}); fetch it again.") from error
    embeddings = vocabulary * d_model * (1 if config.get("tie_word_embeddings") else 2)
    sizes = Dimensions(ModelShape(layers, heads, kv_heads, d_model, d_head, d_mlp, n_ctx, n_params=0), vocabulary)
    norms = (2 * layers + 1) * d_model
    return replace(sizes, shape=replace(sizes.shape, n_params=embeddings + sizes.prunable + norms))


def dimensions_in(folder: Path) -> Dimensions:
    """Read dimensions of the model in a folder; only its config.json is needed."""
    file = folder / "config.json"
    if not file.is_file():
        raise UsageError(f"{folder} has no config.json; name the folder of a model in Hugging Face layout.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read as JSON; fetch it again.") from error
    if not isinstance(config, dict):
        raise UsageError(f"{file} holds no object; fetch it again.")
    return dimensions_of(config)


def memory_plan(sizes: Dimensions, dtype: str, tokens: int) -> MemoryPlan:
    """Estimate memory for steps of `tokens` tokens: rows × positions × heads computed at once."""
    shape, bytes_each = sizes.shape, BYTES[dtype]
    largest = shape.d_model * max(shape.d_mlp, shape.n_heads * shape.d_head)
    matrices = 7 * shape.n_layers
    return MemoryPlan(
        weights=bytes_each * shape.n_params,
        scoring=tokens * activation_bytes(shape, bytes_each),
        # Scores of the largest matrix, their bits and the comparison with the threshold, 4 bytes a weight each.
        masking=sizes.prunable * (1 + bytes_each) + matrices * HISTOGRAM_BYTES + 3 * 4 * largest,
    )


def operations(sizes: Dimensions, tokens: int, reads: int) -> Operations:
    """Count operations of an item: `tokens` tokens (options share the question), answers read at `reads` positions."""
    forward = forward_operations(sizes, tokens, reads)
    return Operations(
        evaluation=forward, gradient=3 * forward, exact=forward + ablation_operations(sizes, tokens, reads)
    )


def forward_operations(sizes: Dimensions, tokens: int, reads: int) -> int:
    """Count all blocks but the last in full, and the last block and the vocabulary only where answers are read."""
    whole = (sizes.shape.n_layers - 1) * tokens * (2 * sizes.block + attention_operations(sizes, tokens))
    return whole + last_block(sizes, tokens, reads) + vocabulary_operations(sizes, reads)


def ablation_operations(sizes: Dimensions, tokens: int, reads: int) -> int:
    """Count operations for ablating every head of every layer in turn."""
    shape = sizes.shape
    total = 0
    for layer in range(shape.n_layers):
        # The attention of the ablated layer is computed once; a head changes its own slice of the output projection.
        once = tokens * (2 * sizes.attention + attention_operations(sizes, tokens))
        change = 2 * tokens * shape.d_head * shape.d_model
        if layer == shape.n_layers - 1:
            each = change + 2 * reads * sizes.mlp
        else:
            between = shape.n_layers - 2 - layer
            blocks = between * tokens * (2 * sizes.block + attention_operations(sizes, tokens))
            each = change + 2 * tokens * sizes.mlp + blocks + last_block(sizes, tokens, reads)
        total += once + shape.n_heads * (each + vocabulary_operations(sizes, reads))
    return total


def attention_operations(sizes: Dimensions, tokens: int) -> int:
    """Count one query's attention: scores against all positions, and the weighted sum of values."""
    return 4 * tokens * sizes.shape.n_heads * sizes.shape.d_head


def last_block(sizes: Dimensions, tokens: int, reads: int) -> int:
    """Count the last block: keys and values of all tokens, everything else where answers are read."""
    shape = sizes.shape
    keys_and_values = 2 * tokens * 2 * shape.d_model * shape.n_kv_heads * shape.d_head
    rest = 2 * (2 * shape.d_model * shape.n_heads * shape.d_head + sizes.mlp)
    return keys_and_values + reads * (rest + attention_operations(sizes, tokens))


def vocabulary_operations(sizes: Dimensions, reads: int) -> int:
    return 2 * reads * sizes.shape.d_model * sizes.vocabulary


def mean_operations(sizes: Dimensions, items: Sequence[tuple[int, int]]) -> Operations:
    """Average operations over items, each given as (tokens, reads)."""
    counts = zip(*(astuple(operations(sizes, tokens, reads)) for tokens, reads in items), strict=True)
    return Operations(*(sum(count) // len(count) for count in counts))
