"""Exact head scores: ablate every attention head on every example and keep the options' log-likelihoods.

1. Encode the examples and fix the batch plan.
2. For each batch, run one dense pass; for each layer, replay the suffix with all heads at once: by
   `attribution/forward/llama_fast_path.py` where it reproduces the model's own blocks, else by those blocks
   (`attribution/forward/replay.py`).
3. Yield a block after every layer, or after some of its heads where examples are long; a batch is complete when all
   its layers are.

With `parts="blocks"` the whole attention and the whole MLP of every layer are ablated, one after the other; with
`parts="writes"` only what each head adds to the last residual stream, which is its direct effect.

Nothing here is averaged or stored: `runs/` stores, `stats/` analyses.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise, product
from math import ceil
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.batch_plan import BatchPlan, plan_batches
from cap_viz.attribution.forward.dense_pass import dense_pass, read_logliks
from cap_viz.attribution.forward.packing import EncodedExample, PackedBatch, encode
from cap_viz.attribution.forward.patching import Site, heads_site, means, mlp_site, resampled, with_options, zeros
from cap_viz.attribution.forward.replay import block_runner
from cap_viz.attribution.forward.shortcut_checks import (
    batch_of,
    check_replay,
    check_writes,
    checked,
    direct_is_valid,
    packing_is_valid,
)
from cap_viz.attribution.pruned_weights import MaskLike, Weights, weights_under
from cap_viz.attribution.results import (
    ABLATIONS,
    BLOCK_PARTS,
    PARTS,
    Ablation,
    Ablations,
    BlockScores,
    DirectScores,
    HeadScores,
    Questions,
    check_frozen_norm,
    questions_of,
)
from cap_viz.errors import UsageError, choose
from cap_viz.models.batch_size import tokens_at_once
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import Progress, Steps, finish, finish_with_bar
from cap_viz.tasks.base import Example

Scores = TypeVar("Scores", bound=Ablations)

# Rows x positions of one replayed forward. Large enough to keep the matrix products busy, small enough that a
# step stays near one second on two laptop cores.
TOKENS_PER_FORWARD = 768
# A single example may be longer than that: then only some heads are replayed at a time, so that a step stays short.
MOST_TOKENS_PER_STEP = 1152


@dataclass(frozen=True)
class ScoreBlock:
    """Log-likelihoods of one batch with parts of one layer ablated (heads, or its attention and MLP).

    `ablated[p, i, k]` belongs to the p-th of `parts`, the i-th example of the batch and its option k. `work` is the
    block's portion of `ScorePlan.batch_work`, in blocks x tokens; `last` marks the last block of the batch.
    """

    batch: int
    layer: int
    parts: range
    dense: Float[np.ndarray, "example option"]
    ablated: Float[np.ndarray, "part example option"]
    work: float
    last: bool


@dataclass(frozen=True)
class Reference:
    """Reference examples of mean and resample ablation, and their batches.

    `partners[i]` is the index of the reference example that stands in for the plan's example i in resample ablation.
    """

    encoded: tuple[EncodedExample, ...]
    batches: tuple[tuple[int, ...], ...]
    partners: tuple[int, ...] = ()


@dataclass(frozen=True)
class ScorePlan:
    """Everything fixed before the first forward. `asked[i]` lists the options of example i that `encoded[i]` holds."""

    examples: tuple[Example, ...]
    questions: Questions
    encoded: tuple[EncodedExample, ...]
    asked: tuple[tuple[int, ...], ...]
    batches: BatchPlan
    ablation: str
    reference: Reference
    parts: str = "heads"
    frozen_norm: bool = False

    def n_parts(self, n_heads: int) -> int:
        """Number of parts ablated in turn in each layer."""
        return versions_of(self.parts, n_heads)

    def n_tokens(self, batch: int) -> int:
        """Number of tokens of a batch with its padding."""
        members = self.batches.batches[batch]
        return len(members) * max(self.encoded[i].row_length for i in members)

    def place_logliks(
        self, whole: Float[np.ndarray, "example option"], batch: int, logliks: Float[np.ndarray, "member asked"]
    ) -> None:
        """Put the log-likelihoods of the options asked for in a batch into those of all examples and options."""
        for i, found in zip(self.batches.batches[batch], logliks, strict=True):
            whole[i, list(self.asked[i])] = found[: len(self.asked[i])]

    def work(self, batch: int, layer: int, n_layers: int) -> int:
        return self.n_tokens(batch) * (1 if self.parts == "writes" else n_layers - layer)

    def batch_work(self, batch: int, n_layers: int) -> int:
        return sum(self.work(batch, layer, n_layers) for layer in range(n_layers))


def make_score_plan(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    parts: str = "heads",
    frozen_norm: bool = False,
    versions: int | None = None,
    batches: BatchPlan | None = None,
) -> ScorePlan:
    """Encode the examples and fix the batches (or follow `batches`, when a run is resumed).

    Mean and resample ablation take their values from `reference`, by default the examples themselves; `seed` draws
    the partners of resample. With `frozen_norm`, which belongs to `parts="writes"`, the final norm keeps its dense
    scale. `versions` of an example are run side by side, by default one per part. Raises `UsageError` for no examples,
    unknown names, resample without another example, a frozen norm with other parts, or an example that does not fit the
    context.
    """
    choose("ablation", ablation, ABLATIONS)
    choose("part of the model", parts, PARTS)
    check_frozen_norm(frozen_norm, parts)
    encoded = encode_all(model, examples)
    if batches is None:
        side_by_side = versions or versions_of(parts, model.shape.n_heads)
        budget = max(1, tokens_at_once(TOKENS_PER_FORWARD, model) // side_by_side)
        lengths = [example.row_length for example in encoded]
        packed = packing_is_valid(model, encoded)
        check_replay(model, encoded, packed=packed)
        if parts == "writes":
            check_writes(model, encoded, packed=packed)
        direct = direct_is_valid(model, encoded, packed=packed)
        most = tokens_at_once(MOST_TOKENS_PER_STEP, model)
        batches = BatchPlan(plan_batches(lengths, budget), packed=packed, direct=direct, most_tokens=most)
    return ScorePlan(
        examples=tuple(examples),
        questions=questions_of(examples, [example.answer_lengths for example in encoded]),
        encoded=encoded,
        asked=tuple(tuple(range(len(example.options))) for example in examples),
        batches=batches,
        ablation=ablation,
        reference=reference_of(model, examples, encoded, batches, ablation, reference, seed),
        parts=parts,
        frozen_norm=frozen_norm,
    )


def versions_of(parts: str, n_heads: int) -> int:
    """Number of versions of an example that are run side by side in a layer, one per part; sets choose theirs."""
    return {"blocks": len(BLOCK_PARTS), "sets": 1}.get(parts, n_heads)


def reference_of(
    model: ReasoningModel,
    examples: Sequence[Example],
    encoded: tuple[EncodedExample, ...],
    batches: BatchPlan,
    ablation: str,
    reference: Sequence[Example] | None,
    seed: int,
) -> Reference:
    """Encode and batch the reference examples; without any, and for zero ablation, use the plan's own."""
    others, encoded_others, members = examples, encoded, batches.batches
    if reference is not None and ablation != "zero":
        others, encoded_others = reference, encode_all(model, reference)
        members = plan_batches([example.row_length for example in encoded_others], TOKENS_PER_FORWARD)
    partners = partners_of(examples, others, seed) if ablation == "resample" else ()
    return Reference(encoded_others, members, partners)


def partners_of(examples: Sequence[Example], reference: Sequence[Example], seed: int) -> tuple[int, ...]:
    """Draw a random reference example for every example, never itself.

    Each draw is seeded by the example's id, so that with a given reference an example keeps its partner, whatever other
    examples are scored with it.
    """
    partners = []
    for example in examples:
        others = [i for i, other in enumerate(reference) if other.id != example.id]
        if not others:
            raise UsageError(
                f"Resample ablation puts in values from another example, but there is none beside {example.id!r}; "
                "use at least two examples."
            )
        partners.append(random.Random(f"{seed} {example.id}").choice(others))
    return tuple(partners)


def encode_all(
    model: ReasoningModel, examples: Sequence[Example], *, shorten: bool = False
) -> tuple[EncodedExample, ...]:
    if not examples:
        raise UsageError("n = 0: there is no example to run; ask for at least one.")
    with model.lease:
        return tuple(encode(model.tokenizer, example, model.shape.n_ctx, shorten=shorten) for example in examples)


def score_steps(
    model: ReasoningModel,
    plan: ScorePlan,
    *,
    weights: Weights | None = None,
    only: Iterable[int] | None = None,
    replaced: Replacements | None = None,
) -> Generator[ScoreBlock, None, None]:
    """Yield blocks of ablated log-likelihoods, batch by batch, layers in order, with `weights` swapped in.

    All batches, or `only` the given ones. The lease is held within a step only, never across a yield, at which the
    model is dense again.
    """
    held = weights or {}
    replaced = replaced or replacements(model, plan, held)
    runner = block_runner(model, direct=plan.batches.direct)
    for number in plan.batches.numbers(only):
        members = plan.batches.batches[number]
        batch = batch_of(model, [plan.encoded[i] for i in members], packed=plan.batches.packed)
        with model.swapped(held):
            z, mlp = replaced.z(members), None if replaced.mlp is None else replaced.mlp(members)
        with model.swapped(held), torch.inference_mode():
            dense = dense_pass(model, batch)
            dense_values = checked(model, batch, read_logliks(model, batch, dense.final[:, None])[0])
        n_parts = plan.n_parts(model.shape.n_heads)
        groups = head_groups(n_parts, batch.tokens.numel(), None if mlp is not None else plan.batches.most_tokens)
        for layer, parts in product(range(model.shape.n_layers), groups):
            with model.swapped(held), torch.inference_mode():
                if plan.parts == "writes":
                    logliks = runner.ablate_writes(batch, dense, layer, z[layer], parts, frozen_norm=plan.frozen_norm)
                elif mlp is None:
                    logliks = runner.ablate_heads(batch, dense, layer, z[layer], parts)
                else:
                    logliks = runner.ablate_blocks(batch, dense, layer, z[layer], mlp[layer])
                ablated = checked(model, batch, logliks)
            yield ScoreBlock(
                batch=number,
                layer=layer,
                parts=parts,
                dense=dense_values,
                ablated=ablated,
                work=plan.work(number, layer, model.shape.n_layers) * len(parts) / n_parts,
                last=layer == model.shape.n_layers - 1 and parts == groups[-1],
            )


def head_groups(n_heads: int, n_tokens: int, most: int | None) -> list[range]:
    """Split the heads into even groups that are replayed together: one group unless it exceeds `most` tokens."""
    n_groups = 1 if most is None else min(n_heads, ceil(n_heads * n_tokens / most))
    edges = [n_heads * i // n_groups for i in range(n_groups + 1)]
    return [range(*edge) for edge in pairwise(edges)]


@dataclass(frozen=True)
class Replacements:
    """Replacement values for any batch of a plan: for z of the heads, and for MLP outputs where blocks are ablated.

    Make them once per plan: mean ablation runs a forward of all reference examples. Resample ablation runs one per
    call, under the weights that are swapped in then.
    """

    z: Callable[[Sequence[int]], Tensor]
    mlp: Callable[[Sequence[int]], Tensor] | None


def replacements(model: ReasoningModel, plan: ScorePlan, weights: Weights | None = None) -> Replacements:
    # Dense, the lease is held for one forward of the reference examples at a time.
    with model.swapped(weights) if weights else nullcontext():
        return Replacements(
            z=replacing(model, plan, heads_site(model.shape)),
            mlp=replacing(model, plan, mlp_site(model.shape)) if plan.parts == "blocks" else None,
        )


def replacing(model: ReasoningModel, plan: ScorePlan, site: Site) -> Callable[[Sequence[int]], Tensor]:
    """Return a function from example numbers to the replacement [layer, row, position, ...] of the site's output.

    Zero and mean values are computed once and are the same for all; resample runs one forward of the partners per call.
    """
    reference, packed = plan.reference, plan.batches.packed

    def laid_out(encoded: Sequence[EncodedExample]) -> PackedBatch:
        return batch_of(model, encoded, packed=packed)

    def from_partners(members: Sequence[int]) -> Float[Tensor, "layer row position ..."]:
        own = [plan.encoded[i] for i in members]
        others = [with_options(reference.encoded[reference.partners[i]], plan.asked[i]) for i in members]
        return resampled(model, laid_out(own), laid_out(others), site)

    if plan.ablation == "resample":
        return from_partners
    if plan.ablation == "zero":
        constant = zeros(model, site)
    else:
        constant = means(model, (laid_out([reference.encoded[i] for i in m]) for m in reference.batches), site)
    return lambda members: constant


RESULTS: dict[str, type[HeadScores] | type[BlockScores]] = {
    "heads": HeadScores,
    "blocks": BlockScores,
    "writes": DirectScores,
}


class ScoreArrays:
    """Whole arrays assembled from blocks; NaN where no block has arrived yet."""

    def __init__(self, plan: ScorePlan, n_layers: int, n_heads: int) -> None:
        self.plan = plan
        self.questions = plan.questions
        n, k = self.questions.tokens.shape
        self.dense = np.full((n, k), np.nan, dtype=np.float32)
        self.ablated = np.full((n_layers, plan.n_parts(n_heads), n, k), np.nan, dtype=np.float32)

    def add(self, block: ScoreBlock) -> None:
        members = list(self.plan.batches.batches[block.batch])
        width = block.dense.shape[1]
        self.dense[members, :width] = block.dense
        parts = slice(block.parts.start, block.parts.stop)
        self.ablated[block.layer, parts, members, :width] = block.ablated.swapaxes(0, 1)

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Return the part of the arrays that belongs to one batch."""
        members = list(self.plan.batches.batches[number])
        return {"dense": self.dense[members], "ablated": self.ablated[:, :, members]}

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """Put the content of one batch back: the inverse of `batch`."""
        members = list(self.plan.batches.batches[number])
        self.dense[members], self.ablated[:, :, members] = content["dense"], content["ablated"]

    def result(self) -> HeadScores | BlockScores:
        return RESULTS[self.plan.parts](questions=self.questions, dense=self.dense.copy(), ablated=self.ablated.copy())


def exact_steps(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
) -> Steps[HeadScores]:
    """Compute the log-likelihoods of all options with each head ablated in turn; every metric follows from them.

    With `mask` the pruned model is measured. Other arguments and errors are those of `make_score_plan`.
    """
    plan = make_score_plan(model, examples, ablation=ablation, reference=reference, seed=seed)
    return (yield from collected(model, plan, HeadScores, weights_under(model, mask)))


def exact_scores(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
) -> HeadScores:
    """Run `exact_steps` to their end."""
    return finish(exact_steps(model, examples, ablation=ablation, reference=reference, seed=seed, mask=mask))


def score_blocks(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    progress: bool = True,
) -> BlockScores:
    """Compute the log-likelihoods of all options with the attention, then the MLP of each layer ablated as a whole.

    The attention is ablated by replacing z of all its heads, the MLP by replacing its output. With `mask` the pruned
    model is measured. Other arguments and errors are those of `make_score_plan`; `progress` shows a bar.
    """
    plan = make_score_plan(model, examples, ablation=ablation, reference=reference, seed=seed, parts="blocks")
    return finish_with_bar(collected(model, plan, BlockScores, weights_under(model, mask)), progress)


def direct_effects(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    frozen_norm: bool = False,
    mask: MaskLike | None = None,
    progress: bool = True,
) -> DirectScores:
    """Compute the log-likelihoods of all options with each head's write to the last residual stream replaced.

    Every later layer goes on with the dense model's values and the final norm is computed anew, so that the effect is
    the one that no later head or MLP passes on or makes up for (the direct effect of arXiv 2307.15771). With
    `frozen_norm` the final norm divides by the scale of the dense pass: what the two differ by is the norm's share of
    self-repair (arXiv 2402.15390). With `mask` the pruned model is measured. Other arguments and errors are those of
    `make_score_plan`; `progress` shows a bar.
    """
    plan = make_score_plan(
        model, examples, ablation=ablation, reference=reference, seed=seed, parts="writes", frozen_norm=frozen_norm
    )
    return finish_with_bar(collected(model, plan, DirectScores, weights_under(model, mask)), progress)


def collected(model: ReasoningModel, plan: ScorePlan, kind: type[Scores], weights: Weights) -> Steps[Scores]:
    n_layers, batches = model.shape.n_layers, range(len(plan.batches.batches))
    arrays = ScoreArrays(plan, n_layers, model.shape.n_heads)
    done, total = 0.0, float(sum(plan.batch_work(batch, n_layers) for batch in batches))
    for block in score_steps(model, plan, weights=weights):
        arrays.add(block)
        done += block.work
        yield Progress(done, total, f"ablating {plan.parts}")
    return kind(questions=plan.questions, dense=arrays.dense, ablated=arrays.ablated)
