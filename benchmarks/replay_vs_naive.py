"""The exact estimator against a loop over heads: python -m benchmarks.replay_vs_naive [--json]

Both sides score the same ARC-Easy calibration examples in the same run with the same threads, turn by turn:

- naive: for each head TransformerLens' `run_with_hooks` with z set to zero, one row per option, rows sorted by length
  and batched, log-softmax at the answers only. A few heads spread over the layers are timed and scaled to all.
- ours: `score_steps`, all heads, its self-checks (made anew in every repeat) and the dense passes included.

ratio           naive seconds / our seconds, median over the repeats
max_abs_diff    largest difference between an option's log-likelihoods of the two sides
sgemm_fraction  our rate on the products of real tokens that must run / the machine's float32 matmul rate measured in
                between; attention scores, norms, softmax and padding count nothing

With `--clock cpu` processor time takes the place of elapsed time, all threads added up: for a machine that is busy with
other work. It does not see cores that idle.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.guards import self_checks_made
from cap_viz.attribution.exact import encode_all, exact_scores
from cap_viz.attribution.forward.packing import EncodedExample
from cap_viz.attribution.results import HeadScores
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.tasks import Example, load_task

BARS = {"ratio": 7.0, "sgemm_fraction": 0.5}
MOST_DIFFERENCE = 1e-4
NAIVE_TOKENS = 1024


@dataclass(frozen=True)
class OptionRow:
    """One option of one example as a plain sequence; the last `n_answer` tokens are scored."""

    example: int
    option: int
    ids: tuple[int, ...]
    n_answer: int


def option_rows(encoded: Sequence[EncodedExample]) -> list[OptionRow]:
    rows = [
        OptionRow(i, k, (*example.prefix, *branch), length)
        for i, example in enumerate(encoded)
        for k, (branch, length) in enumerate(zip(example.branches, example.answer_lengths, strict=True))
    ]
    return sorted(rows, key=lambda row: len(row.ids))


def naive_batches(rows: Sequence[OptionRow]) -> list[list[OptionRow]]:
    batches: list[list[OptionRow]] = [[]]
    for row in rows:
        if batches[-1] and len(row.ids) * (len(batches[-1]) + 1) > NAIVE_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches


def naive_head(
    model: ReasoningModel, batches: Sequence[Sequence[OptionRow]], layer: int, head: int
) -> dict[Any, float]:
    """(example, option) -> log-likelihood with the head's z at zero, by one full forward per batch."""

    def remove(z: Tensor, hook: Any) -> Tensor:
        z[:, :, head] = 0
        return z

    found: dict[Any, float] = {}
    for batch in batches:
        width = max(len(row.ids) for row in batch)
        ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in batch])
        with torch.inference_mode():
            logits = model.bridge.run_with_hooks(ids, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", remove)])
            found |= answer_logliks(logits, batch)
    return found


def answer_logliks(
    logits: Float[Tensor, "row position vocabulary"], batch: Sequence[OptionRow]
) -> dict[tuple[int, int], float]:
    """(example, option) -> summed log-likelihood of the answer's tokens."""
    found: dict[tuple[int, int], float] = {}
    for r, row in enumerate(batch):
        start = len(row.ids) - row.n_answer
        answers = torch.tensor(row.ids[start:])
        # In double: float32 log_softmax over 49,152 words is itself off by 1e-5 a token.
        picked = logits[r, start - 1 : len(row.ids) - 1].double().log_softmax(-1)
        found[row.example, row.option] = float(picked.gather(1, answers[:, None]).sum())
    return found


def spread_heads(model: ReasoningModel, n: int) -> list[tuple[int, int]]:
    layers = np.linspace(0, model.shape.n_layers - 1, n).round().astype(int)
    return [(int(layer), (5 * i + 1) % model.shape.n_heads) for i, layer in enumerate(layers)]


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


def matmul_rate(clock: Clock = time.perf_counter, seconds: float = 1.5) -> float:
    """FLOP per second of large float32 matrix products: the best of several stretches."""
    a, b, product = (torch.randn(2048, 2048) for _ in range(3))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = clock()
        torch.mm(a, b, out=product)
        best = max(best, 2 * 2048**3 / (clock() - started))
    return best


def must_run(model: ReasoningModel, example: EncodedExample) -> float:
    """FLOP of the products that replay cannot avoid for one example, all heads."""
    matrices = {(m.layer, m.kind): m.weight.numel() for m in model.matrices()}
    shape, n_tokens = model.shape, example.row_length
    n_reads = len(read_places(example))
    vocabulary = model.bridge.unembed.original_component.weight.numel()
    last = shape.n_layers - 1

    def mlp(layer: int) -> int:
        return sum(matrices[layer, kind] for kind in ("gate", "up", "down"))

    def whole(layer: int) -> int:
        return sum(matrices[layer, kind] for kind in "qkvo") + mlp(layer)

    dense = n_tokens * sum(whole(layer) for layer in range(shape.n_layers)) + n_reads * vocabulary
    total = float(dense)
    ending = n_tokens * (matrices[last, "k"] + matrices[last, "v"])
    ending += n_reads * (matrices[last, "q"] + matrices[last, "o"] + mlp(last) + vocabulary)
    for layer in range(shape.n_layers):
        total += n_tokens * matrices[layer, "o"]
        if layer == last:
            total += shape.n_heads * n_reads * (mlp(last) + vocabulary)
            continue
        between = sum(whole(later) for later in range(layer + 1, last))
        total += shape.n_heads * (n_tokens * (mlp(layer) + between) + ending)
    return 2 * total


def read_places(example: EncodedExample) -> set[tuple[int, int]]:
    """Distinct positions that predict an answer token: shared ones in the prefix, the rest per option."""
    places = set()
    for k, (branch, length) in enumerate(zip(example.branches, example.answer_lengths, strict=True)):
        whole = len(example.prefix) + len(branch)
        for before in range(whole - length - 1, whole - 1):
            places.add((0 if before < len(example.prefix) else k + 1, before))
    return places


@dataclass(frozen=True)
class Turn:
    """One repeat: seconds of both sides (naive scaled to all heads), and the machine's rate meanwhile."""

    naive: float
    ours: float
    rate: float


def one_turn(
    model: ReasoningModel, examples: Sequence[Example], heads: Sequence[tuple[int, int]], clock: Clock
) -> tuple[Turn, HeadScores, dict[tuple[int, int], dict[Any, float]]]:
    rate = matmul_rate(clock)
    started = clock()
    batches = naive_batches(option_rows(encode_all(model, examples)))
    naive = {pair: naive_head(model, batches, *pair) for pair in heads}
    middle = clock()
    with self_checks_made(model):
        scores = exact_scores(model, examples)
    ended = clock()
    n_heads = model.shape.n_layers * model.shape.n_heads
    turn = Turn((middle - started) * n_heads / len(heads), ended - middle, max(rate, matmul_rate(clock)))
    return turn, scores, naive


def measure(model: ReasoningModel, n_items: int, n_heads: int, repeats: int, clock: str) -> dict[str, Any]:
    examples = load_task("arc_easy").calibration(n_items)
    encoded = encode_all(model, examples)
    heads, turns, worst = spread_heads(model, n_heads), [], 0.0
    naive_head(model, naive_batches(option_rows(encoded[:2])), 0, 0)
    for _ in range(repeats):
        turn, scores, naive = one_turn(model, examples, heads, CLOCKS[clock])
        turns.append(turn)
        for (layer, head), found in naive.items():
            for (example, option), loglik in found.items():
                worst = max(worst, abs(loglik - float(scores.ablated[layer, head, example, option])))
    flop = sum(must_run(model, example) for example in encoded)
    return {
        "ratio": round(statistics.median(turn.naive / turn.ours for turn in turns), 2),
        "max_abs_diff": worst,
        "sgemm_fraction": round(statistics.median(flop / turn.ours / turn.rate for turn in turns), 3),
        "our_seconds_per_item": round(statistics.median(turn.ours for turn in turns) / n_items, 2),
        "naive_seconds_per_item": round(statistics.median(turn.naive for turn in turns) / n_items, 2),
        "sgemm_gflops": round(statistics.median(turn.rate for turn in turns) / 1e9, 1),
        "gflop_per_item": round(flop / n_items / 1e9, 1),
        "items": n_items,
        "heads_timed": len(heads),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "clock": clock,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = measure(load_model(options.model), options.items, options.heads, options.repeats, options.clock)
    if options.json:
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            print(f"{name:24} {value}")
    passed = all(numbers[name] >= bar for name, bar in BARS.items()) and numbers["max_abs_diff"] <= MOST_DIFFERENCE
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
