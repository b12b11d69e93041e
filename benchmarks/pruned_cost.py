"""What zeros cost or save on disk and in time: python -m benchmarks.pruned_cost [--json] [--write]

unstructured   CAP at 50 %, exported as a Hugging Face folder: bytes of its safetensors file and seconds of a forward,
               relative to the dense model exported the same way
whole heads    the criterion `head` at 20 % and 50 % of the heads, by the shipped head scores: a network without the
               removed rows and columns (its logits equal the masked model's), relative to dense

Forwards are of plain transformers with one prompt of `--tokens` tokens, dense and pruned in turns; ratios of medians.
`--write` also stores the figures where the Prune page reads them (cap_viz/assets/pruned_cost.json).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.guards import shipped_only
from cap_viz.files import write_json
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.pruning import Mask, prune_mask
from cap_viz.pruning.export import export_model
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.model_card import model_card
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.settings import ASSETS

TASK = "mini_science"
TARGET = ASSETS / "pruned_cost.json"
KEPT_HEADS = "kept_heads"


@dataclass(frozen=True)
class Cost:
    """Bytes on disk, parameters, and median seconds of a forward, beside those of the dense model in the same turns."""

    parameters: int
    bytes: int
    seconds: float
    dense_seconds: float


def attend_kept_heads(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention of a layer whose query heads share keys and values unevenly: `module.group_of_head` says which."""
    out = nn.functional.scaled_dot_product_attention(
        query,
        key[:, module.group_of_head],
        value[:, module.group_of_head],
        attn_mask=attention_mask,
        is_causal=attention_mask is None,
        scale=options["scaling"],
    )
    return out.transpose(1, 2).contiguous(), None


class NoAttention(nn.Module):
    """A layer without any head left."""

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(hidden_states), None


def without_heads(network: PreTrainedModel, mask: Mask, head_dim: int) -> PreTrainedModel:
    """Leave the rows and columns of removed heads out of a Llama-like network, in place."""
    ALL_ATTENTION_FUNCTIONS.register(KEPT_HEADS, attend_kept_heads)
    ALL_MASK_ATTENTION_FUNCTIONS.register(KEPT_HEADS, sdpa_mask)
    network.set_attn_implementation(KEPT_HEADS)
    for number, layer in enumerate(network.model.layers):
        heads = mask.keep[f"{number}.o"][0, ::head_dim].nonzero().ravel()
        groups = mask.keep[f"{number}.k"][::head_dim, 0].nonzero().ravel()
        if not len(heads):
            layer.self_attn = NoAttention()
            continue
        attention = layer.self_attn
        per_group = attention.num_key_value_groups
        attention.q_proj = sliced(attention.q_proj, rows=lines(heads, head_dim))
        attention.k_proj = sliced(attention.k_proj, rows=lines(groups, head_dim))
        attention.v_proj = sliced(attention.v_proj, rows=lines(groups, head_dim))
        attention.o_proj = sliced(attention.o_proj, columns=lines(heads, head_dim))
        attention.group_of_head = torch.searchsorted(groups, heads // per_group)
    return network


def lines(numbers: Tensor, width: int) -> Tensor:
    """The rows or columns of heads with these numbers."""
    return (numbers[:, None] * width + torch.arange(width)).ravel()


def sliced(linear: nn.Linear, *, rows: Tensor | None = None, columns: Tensor | None = None) -> nn.Linear:
    weight = linear.weight.detach()
    weight = weight if rows is None else weight[rows]
    weight = (weight if columns is None else weight[:, columns]).contiguous()
    small = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    small.weight = nn.Parameter(weight, requires_grad=False)
    return small


def cost_of(network: PreTrainedModel, dense: PreTrainedModel, tokens: Tensor, repeats: int) -> Cost:
    seconds: dict[int, list[float]] = {0: [], 1: []}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for place, one in enumerate((dense, network)):
                started = time.perf_counter()
                one(tokens)
                seconds[place].append(time.perf_counter() - started)
    # Each parameter once: input and output embeddings may be the same.
    parameters = sum(parameter.numel() for parameter in network.parameters())
    medians = [statistics.median(times[1:]) for times in seconds.values()]
    return Cost(parameters, 4 * parameters, medians[1], medians[0])


def check_equal(network: PreTrainedModel, model: ReasoningModel, mask: Mask, tokens: Tensor) -> float:
    """Largest difference between the small network's logits and those of the masked model."""
    with torch.inference_mode(), model.lease, model.masked(mask.keep, mask.updated):
        expected = model.bridge(tokens)
    with torch.inference_mode():
        found = network(tokens).logits
    return float((found - expected).abs().max())


def loaded(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def measure(model: ReasoningModel, *, n_tokens: int, repeats: int, shares: Sequence[float]) -> dict[str, Any]:
    tokens = torch.from_numpy(np.random.default_rng(0).integers(100, 1000, size=(1, n_tokens)))
    found: dict[str, Any] = {}
    with shipped_only() as store, tempfile.TemporaryDirectory() as folder:
        run = score_runs(store.runs(), model.ref, TASK)[0]
        assert isinstance(run.spec, ScoreSpec)
        scores = load_scores(store, run)
        effect = scores.mean_effect("nll")
        sizes = {}
        for sparsity in (0.0, 0.5):
            spec = mask_spec_for(model.ref, "cap", sparsity, task=TASK, n=len(scores.questions), scores=run.spec)
            mask = prune_mask(model, "cap", sparsity=sparsity, effect=effect)
            target = export_model(model, mask, Path(folder, f"{sparsity}"), card=model_card(model, mask, spec, store))
            sizes[sparsity] = sum(file.stat().st_size for file in target.glob("*.safetensors"))
        dense, pruned = loaded(Path(folder, "0.0")), loaded(Path(folder, "0.5"))
        cost = cost_of(pruned, dense, tokens, repeats)
        found["unstructured 50 %"] = {
            "bytes_ratio": round(sizes[0.5] / sizes[0.0], 4),
            "seconds_ratio": round(cost.seconds / cost.dense_seconds, 3),
        }
        found["dense"] = {"parameters": cost.parameters, "bytes": sizes[0.0], "seconds": round(cost.dense_seconds, 4)}
        for share in shares:
            mask = prune_mask(model, "head", sparsity=share, effect=effect)
            small = without_heads(loaded(Path(folder, "0.0")), mask, model.shape.d_head)
            difference = check_equal(small, model, mask, tokens)
            few = cost_of(small, dense, tokens, repeats)
            found[f"whole heads {100 * share:.0f} %"] = {
                "parameters_ratio": round(few.parameters / cost.parameters, 4),
                "bytes_ratio": round(few.bytes / (4 * cost.parameters), 4),
                "seconds_ratio": round(few.seconds / few.dense_seconds, 3),
                "max_abs_diff": difference,
            }
    return found | {
        "model": model.ref.id,
        "tokens": n_tokens,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="store the figures for the Prune page")
    options = parser.parse_args()
    found = measure(load_model(options.model), n_tokens=options.tokens, repeats=options.repeats, shares=(0.2, 0.5))
    if options.write:
        write_json(TARGET, found)
    print(json.dumps(found) if options.json else "\n".join(f"{name:18} {value}" for name, value in found.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
