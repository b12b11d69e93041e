"""Direct effects beside exact scores, paths and pairs beside a loop over them: python -m benchmarks.circuit [--json]

Both sides run on the same ARC-Easy calibration examples in the same run with the same threads, turn by turn; plans,
self-checks and dense passes are included.

direct_share        seconds for the direct effects of all heads / those for their exact scores, median over the repeats
max_abs_diff        largest difference between an option's log-likelihoods of the direct blocks and of the model's own
paths_ratio         naive seconds / our seconds for all query paths between `--k` heads spread over the layers, median
paths_max_abs_diff  largest difference between an option's log-likelihoods of the two sides
pairs_ratio         naive seconds / our seconds for all pairs of `--pair-heads` heads spread over the layers, median
pairs_max_abs_diff  as for paths
toy_page_s          seconds for all that the Circuit page shows of the toy reasoner, computed anew: the exact effects of
                    all heads, direct effects, paths, pairs and spans of eight heads, on 32 questions; median

The naive side of pairs: `run_with_hooks` of TransformerLens for each pair with both outputs zeroed, and for each head
alone. That of paths: one dense run with a cache of z and of the residual streams, then `run_with_hooks` for each path,
with the receiver's queries computed from the changed stream. One row per option, rows sorted by length and batched,
log-softmax at the answers only. A few paths and pairs over the layers are timed and scaled to all.

With `--clock cpu` processor time takes the place of elapsed time, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.guards import self_checks_made
from benchmarks.replay_vs_naive import (
    CLOCKS,
    Clock,
    OptionRow,
    answer_logliks,
    naive_batches,
    option_rows,
    spread_heads,
)
from cap_viz.attribution.exact import direct_effects, encode_all, exact_scores, make_score_plan, replacements
from cap_viz.attribution.forward.dense_pass import dense_pass
from cap_viz.attribution.forward.replay import OwnBlocks
from cap_viz.attribution.forward.shortcut_checks import batch_of
from cap_viz.attribution.joint_ablation import joint_steps
from cap_viz.attribution.pair_scores import sets_of_pairs
from cap_viz.attribution.path_scores import HeadPath, Receiver, strongest_heads
from cap_viz.attribution.paths import make_path_plan, path_score_steps
from cap_viz.models.catalogue import DEFAULT_MODEL, TOY_MODEL, resolve
from cap_viz.models.loading import ReasoningModel, load, load_model
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.scores import load_scores
from cap_viz.runs.run_queries import direct_spec, pair_spec, path_spec, position_spec
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.stats import mean_with_ci
from cap_viz.stats.joint import Head
from cap_viz.tasks import Example, load_task
from cap_viz.tasks.example_sets import calibration_set, evaluation_set

BAR, PATHS_BAR, PAIRS_BAR, TOY_PAGE_BAR = 0.25, 5.0, 5.0, 10.0
TOY_HEADS, TOY_QUESTIONS = 8, 32
# Layers compared with the model's own blocks: first, middle, last.
COMPARED = 3


def own_difference(model: ReasoningModel, examples: Sequence[Example]) -> float:
    """Largest difference to the model's own blocks on the first example, at some layers."""
    plan = make_score_plan(model, examples[:1], parts="writes")
    batch = batch_of(model, plan.encoded, packed=plan.batches.packed)
    fast, z = direct_effects(model, examples[:1], progress=False).ablated, replacements(model, plan).z([0])
    differences = []
    with model.lease, torch.inference_mode():
        dense = dense_pass(model, batch)
        for layer in np.linspace(0, model.shape.n_layers - 1, COMPARED).astype(int).tolist():
            own = OwnBlocks(model).ablate_writes(batch, dense, layer, z[layer]).cpu().numpy()
            differences.append(float(np.nanmax(np.abs(own - fast[layer, :, :, : own.shape[-1]]))))
    return max(differences)


@dataclass(frozen=True)
class Turn:
    """One repeat of both sides: seconds (the naive ones scaled to all paths or pairs) and the largest difference."""

    naive: float
    ours: float
    difference: float


def query_paths(model: ReasoningModel, k: int) -> list[HeadPath]:
    """All query paths between `k` heads spread over the layers."""
    heads = spread_heads(model, k)
    pairs = [(sender, head) for sender in heads for head in heads if sender[0] < head[0]]
    return [HeadPath(sender, Receiver("head", *head), "q") for sender, head in pairs]


def path_turn(
    model: ReasoningModel, examples: Sequence[Example], paths: Sequence[HeadPath], timed: Sequence[int], clock: Clock
) -> Turn:
    started = clock()
    batches = naive_batches(option_rows(encode_all(model, examples)))
    caches = [naive_cache(model, batch, paths) for batch in batches]
    cached = clock()
    naive = {number: naive_path(model, batches, caches, paths[number]) for number in timed}
    middle = clock()
    with self_checks_made(model):
        found = finish(path_score_steps(model, make_path_plan(model, examples, paths), {}))
    ended = clock()
    each = (middle - cached) / len(timed)
    return Turn(cached - started + each * len(paths), ended - middle, largest_difference(naive, found.ablated))


def largest_difference(
    naive: Mapping[int, Mapping[tuple[int, int], float]], ours: Float[np.ndarray, "number example option"]
) -> float:
    return max(
        abs(loglik - float(ours[number, example, option]))
        for number, values in naive.items()
        for (example, option), loglik in values.items()
    )


def naive_ids(batch: Sequence[OptionRow]) -> Tensor:
    width = max(len(row.ids) for row in batch)
    return torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in batch])


def naive_cache(model: ReasoningModel, batch: Sequence[OptionRow], paths: Sequence[HeadPath]) -> Any:
    """z of the senders' layers and the residual streams that the receivers read."""
    names = {f"blocks.{path.sender[0]}.attn.hook_z" for path in paths}
    names |= {f"blocks.{path.receiver.layer}.hook_in" for path in paths}
    with torch.inference_mode():
        return model.bridge.run_with_cache(naive_ids(batch), names_filter=sorted(names))[1]


def naive_path(
    model: ReasoningModel, batches: Sequence[Sequence[OptionRow]], caches: Sequence[Any], path: HeadPath
) -> dict[Any, float]:
    """(example, option) -> log-likelihood with the sender's write taken out of the receiver's queries."""
    (layer, head), receiver = path.sender, path.receiver
    block, found = model.bridge.blocks[receiver.layer], {}
    for batch, cache in zip(batches, caches, strict=True):
        with torch.inference_mode():
            write = cache[f"blocks.{layer}.attn.hook_z"][:, :, head] @ model.bridge.blocks[layer].attn.W_O[head]
            q = block.ln1(cache[f"blocks.{receiver.layer}.hook_in"] - write) @ block.attn.W_Q[receiver.head]

            def put_in(queries: Tensor, hook: Any, q: Tensor = q) -> Tensor:
                queries[:, :, receiver.head] = q
                return queries

            hooks = [(f"blocks.{receiver.layer}.attn.hook_q", put_in)]
            logits = model.bridge.run_with_hooks(naive_ids(batch), fwd_hooks=hooks)
        found |= answer_logliks(logits, batch)
    return found


def pair_turn(
    model: ReasoningModel, examples: Sequence[Example], heads: Sequence[Head], timed: Sequence[int], clock: Clock
) -> Turn:
    sets = sets_of_pairs(heads)
    started = clock()
    batches = naive_batches(option_rows(encode_all(model, examples)))
    cached = clock()
    naive = {number: naive_set(model, batches, sets[number]) for number in timed}
    middle = clock()
    with self_checks_made(model):
        found = finish(joint_steps(model, make_score_plan(model, examples, parts="sets"), sets))
    ended = clock()
    each = (middle - cached) / len(timed)
    return Turn(cached - started + each * len(sets), ended - middle, largest_difference(naive, found.ablated))


def naive_set(
    model: ReasoningModel, batches: Sequence[Sequence[OptionRow]], heads: Sequence[Head]
) -> dict[tuple[int, int], float]:
    """(example, option) -> log-likelihood with the outputs of these heads zeroed."""

    def without(head: int) -> Callable[[Tensor, Any], Tensor]:
        def remove(z: Tensor, hook: Any) -> Tensor:
            z[:, :, head] = 0
            return z

        return remove

    hooks, found = [(f"blocks.{layer}.attn.hook_z", without(head)) for layer, head in heads], {}
    for batch in batches:
        with torch.inference_mode():
            found |= answer_logliks(model.bridge.run_with_hooks(naive_ids(batch), fwd_hooks=hooks), batch)
    return found


def toy_page_seconds(clock: Clock) -> float:
    """Compute what the Circuit page shows of the toy reasoner, into an empty store."""
    source = resolve(TOY_MODEL)
    model, task = load(source), load_task("toy_math")
    scores = ScoreSpec(source.ref, calibration_set(task, TOY_QUESTIONS))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(shipped=Path(folder) / "none", local=Path(folder))
        started = clock()
        run = finish(run_steps(scores, model, store))
        heads = strongest_heads(mean_with_ci(load_scores(store, run).effects("nll")), TOY_HEADS)
        examples = evaluation_set(task, TOY_QUESTIONS)
        circuit = [make(scores, heads, examples=examples) for make in (path_spec, pair_spec)]
        for spec in (direct_spec(scores), *circuit, position_spec(scores, examples, "nll")):
            finish(run_steps(spec, model, store))
        return clock() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--task", default="arc_easy")
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--k", type=int, default=12)
    parser.add_argument("--paths", type=int, default=6, help="paths of the naive side that are timed")
    parser.add_argument("--pair-heads", type=int, default=8)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    model = load_model(options.model)
    examples = load_task(options.task).calibration(options.n)

    def seconds(run: Callable[[], object]) -> float:
        started = clock()
        run()
        return clock() - started

    # The first of each is not counted: it fills caches and makes the self-checks.
    runs = [lambda: exact_scores(model, examples), lambda: direct_effects(model, examples, progress=False)]
    for run in runs:
        run()
    taken = [[seconds(run) for run in runs] for _ in range(options.repeats)]
    paths = query_paths(model, options.k)
    timed = np.linspace(0, len(paths) - 1, options.paths).astype(int).tolist()
    path_turn(model, examples[:1], paths, timed[:1], clock)
    turns = [path_turn(model, examples, paths, timed, clock) for _ in range(options.repeats)]
    heads = spread_heads(model, options.pair_heads)
    timed = np.linspace(0, len(sets_of_pairs(heads)) - 1, options.paths).astype(int).tolist()
    pair_turn(model, examples[:1], heads, timed[:1], clock)
    pair_turns = [pair_turn(model, examples, heads, timed, clock) for _ in range(options.repeats)]
    found = {
        "model": options.model,
        "task": options.task,
        "n": options.n,
        "exact_s": statistics.median(exact for exact, _ in taken),
        "direct_s": statistics.median(direct for _, direct in taken),
        "direct_share": statistics.median(direct / exact for exact, direct in taken),
        "bar": BAR,
        "max_abs_diff": own_difference(model, examples),
        "paths": len(paths),
        "paths_naive_s": statistics.median(turn.naive for turn in turns),
        "paths_s": statistics.median(turn.ours for turn in turns),
        "paths_ratio": statistics.median(turn.naive / turn.ours for turn in turns),
        "paths_bar": PATHS_BAR,
        "paths_max_abs_diff": max(turn.difference for turn in turns),
        "pairs_naive_s": statistics.median(turn.naive for turn in pair_turns),
        "pairs_s": statistics.median(turn.ours for turn in pair_turns),
        "pairs_ratio": statistics.median(turn.naive / turn.ours for turn in pair_turns),
        "pairs_bar": PAIRS_BAR,
        "pairs_max_abs_diff": max(turn.difference for turn in pair_turns),
        "toy_page_s": statistics.median(toy_page_seconds(clock) for _ in range(options.repeats)),
        "toy_page_bar": TOY_PAGE_BAR,
    }
    if options.json:
        print(json.dumps(found))
        return
    print(f"{options.n} examples of {options.task}: exact {found['exact_s']:.1f} s, direct {found['direct_s']:.1f} s")
    print(f"share {found['direct_share']:.3f} (at most {BAR}), largest difference {found['max_abs_diff']:.1e}")
    print(f"{len(paths)} query paths: a loop {found['paths_naive_s']:.1f} s, here {found['paths_s']:.1f} s")
    print(f"ratio {found['paths_ratio']:.2f} (at least {PATHS_BAR}), difference {found['paths_max_abs_diff']:.1e}")
    print(f"pairs of {len(heads)} heads: a loop {found['pairs_naive_s']:.1f} s, here {found['pairs_s']:.1f} s")
    print(f"ratio {found['pairs_ratio']:.2f} (at least {PAIRS_BAR}), difference {found['pairs_max_abs_diff']:.1e}")
    print(f"the Circuit page of the toy reasoner: {found['toy_page_s']:.1f} s (at most {TOY_PAGE_BAR})")


if __name__ == "__main__":
    main()
