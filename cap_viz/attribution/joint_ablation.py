"""Joint ablation of sets of heads: the measurements behind `stats/joint.py` and `attribution/pair_scores.py`.

Sets that begin in the same layer run together from there on (`attribution/forward/replay.py`). `set_steps` yields one
block per batch and group of sets; `joint_effects` and `pair_effects` collect them for notebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.exact import Replacements, ScorePlan, make_score_plan, replacements
from cap_viz.attribution.forward.dense_pass import dense_pass, read_logliks
from cap_viz.attribution.forward.patching import Hook
from cap_viz.attribution.forward.replay import block_runner
from cap_viz.attribution.forward.shortcut_checks import batch_of, checked
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.attribution.pair_scores import PairScores, sets_of_pairs
from cap_viz.attribution.pruned_weights import MaskLike, Weights, weights_under
from cap_viz.attribution.results import Ablation
from cap_viz.errors import UsageError
from cap_viz.models.loading import ModelShape, ReasoningModel
from cap_viz.progress import Progress, Steps, finish_with_bar
from cap_viz.stats.joint import Head, HeadSet, plain_heads
from cap_viz.tasks.base import Example

# How many times the tokens of a step sets may hold, since they share a part of them: with 2, pairs of eight heads
# spread over the layers take a third less time, with 4 no less than with 2.
SHARING = 2


@dataclass(frozen=True)
class SetBlock:
    """Log-likelihoods of one batch with some of the sets removed in turn; `sets` are their numbers.

    `work` is the block's portion of `set_work`, in blocks x tokens; `last` marks the last block of the batch.
    """

    batch: int
    sets: tuple[int, ...]
    logliks: Float[np.ndarray, "set example option"]
    work: float
    last: bool


def first_layer(heads: HeadSet) -> int:
    return min(heads)[0]


def set_work(plan: ScorePlan, batch: int, sets: Sequence[HeadSet], n_layers: int) -> float:
    """Return the work in a batch, in blocks x tokens: each set runs from its first layer on."""
    n_blocks = sum(n_layers - (first_layer(heads) if heads else 0) for heads in sets)
    return float(plan.n_tokens(batch) * n_blocks)


def set_groups(sets: Sequence[HeadSet], n_tokens: int, most: int) -> list[tuple[int, ...]]:
    """Return the numbers of the sets that are ablated at once: of one first layer, and `most` tokens or one set.

    Sets that begin with the same heads stand together, so that they share what is computed until they differ.
    """
    removed = sorted((number for number, heads in enumerate(sets) if heads), key=lambda one: sorted(sets[one]))
    size, groups = max(1, most // n_tokens), []
    for _, alike in groupby(removed, key=lambda one: first_layer(sets[one])):
        numbers = tuple(alike)
        groups += [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return groups


def set_steps(
    model: ReasoningModel,
    plan: ScorePlan,
    sets: Sequence[HeadSet],
    *,
    weights: Weights | None = None,
    only: Iterable[int] | None = None,
    replaced: Replacements | None = None,
) -> Generator[SetBlock, None, None]:
    """Yield the log-likelihoods with each set removed, batch by batch, with `weights` swapped in.

    One of the sets is empty and stands for the untouched model; the plan is one of `parts="sets"`. The lease is held
    within a step only. Raises `UsageError` for a head the model does not have or that a set lists twice.
    """
    check_sets(sets, model.shape)
    held, n_layers = weights or {}, model.shape.n_layers
    values_of = (replaced or replacements(model, plan, held)).z
    runner = block_runner(model, direct=plan.batches.direct)
    empty = sets.index(())
    for number in plan.batches.numbers(only):
        members = plan.batches.batches[number]
        batch = batch_of(model, [plan.encoded[i] for i in members], packed=plan.batches.packed)
        with model.swapped(held):
            values = values_of(members)
        n_tokens = batch.tokens.numel()
        groups = set_groups(sets, n_tokens, SHARING * (plan.batches.most_tokens or n_tokens))
        with model.swapped(held), torch.inference_mode():
            dense = dense_pass(model, batch)
            logliks = checked(model, batch, read_logliks(model, batch, dense.final[:, None])[0])
        yield SetBlock(number, (empty,), logliks[None], n_tokens * n_layers, not groups)
        for group in groups:
            chosen = [sets[one] for one in group]
            with model.swapped(held), torch.inference_mode():
                logliks = checked(model, batch, runner.ablate_sets(batch, dense, chosen, values))
            work = n_tokens * (n_layers - first_layer(chosen[0])) * len(group)
            yield SetBlock(number, group, logliks, work, group == groups[-1])


class SetArrays:
    """Log-likelihoods of all sets, assembled from blocks; NaN where no block has arrived yet."""

    def __init__(self, plan: ScorePlan, sets: tuple[HeadSet, ...]) -> None:
        self.plan, self.sets = plan, sets
        self.ablated = np.full((len(sets), *plan.questions.tokens.shape), np.nan, dtype=np.float32)

    def add(self, block: SetBlock) -> None:
        members = self.plan.batches.batches[block.batch]
        self.ablated[np.ix_(block.sets, members, range(block.logliks.shape[-1]))] = block.logliks

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Return the part of the arrays that belongs to one batch."""
        return {"ablated": self.ablated[:, list(self.plan.batches.batches[number])]}

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """Put the content of one batch back: the inverse of `batch`."""
        self.ablated[:, list(self.plan.batches.batches[number])] = content["ablated"]

    def result(self) -> JointScores:
        return JointScores(questions=self.plan.questions, sets=self.sets, ablated=self.ablated.copy())


def joint_effects(
    model: ReasoningModel,
    examples: Sequence[Example],
    sets: Sequence[Sequence[Head]],
    *,
    mask: MaskLike | None = None,
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> JointScores:
    """Ablate each set of (layer, head) as a whole; the untouched model is added as the empty set.

    Use other examples than those that ranked the heads. With `mask` that model is the pruned one. `progress` shows a
    bar. Raises `UsageError` for a head the model does not have, a head listed twice in a set, no examples or an unknown
    ablation.
    """
    plan = make_score_plan(model, examples, ablation=ablation, reference=reference, seed=seed, parts="sets")
    wanted: tuple[HeadSet, ...] = tuple(dict.fromkeys([(), *map(plain_heads, sets)]))
    return finish_with_bar(joint_steps(model, plan, wanted, weights_under(model, mask)), progress)


def pair_effects(
    model: ReasoningModel,
    examples: Sequence[Example],
    heads: Sequence[Head],
    *,
    mask: MaskLike | None = None,
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> PairScores:
    """Ablate each of the heads, (layer, head), alone and each pair of them together.

    Arguments and errors are those of `joint_effects`; raises `UsageError` for fewer than two heads as well.
    """
    sets = sets_of_pairs(plain_heads(heads))
    plan = make_score_plan(model, examples, ablation=ablation, reference=reference, seed=seed, parts="sets")
    return PairScores(finish_with_bar(joint_steps(model, plan, sets, weights_under(model, mask)), progress))


def joint_steps(
    model: ReasoningModel, plan: ScorePlan, sets: tuple[HeadSet, ...], weights: Weights | None = None
) -> Steps[JointScores]:
    """Collect the blocks of `set_steps`; progress after each."""
    arrays, n_layers = SetArrays(plan, sets), model.shape.n_layers
    done, total = 0.0, sum(set_work(plan, batch, sets, n_layers) for batch in plan.batches.numbers())
    for block in set_steps(model, plan, sets, weights=weights):
        arrays.add(block)
        done += block.work
        yield Progress(done, total, "heads removed together")
    return arrays.result()


def check_sets(sets: Sequence[HeadSet], shape: ModelShape) -> None:
    for heads in sets:
        for layer, head in heads:
            if not (0 <= layer < shape.n_layers and 0 <= head < shape.n_heads):
                raise UsageError(
                    f"There is no head {head} in layer {layer}: the model has layers 0 to {shape.n_layers - 1} with "
                    f"heads 0 to {shape.n_heads - 1}."
                )
        if len(set(heads)) < len(heads):
            raise UsageError(f"A set of heads lists one twice: {heads}.")


def hooks(heads: Iterable[tuple[int, int]], model: ReasoningModel | None = None) -> list[Hook]:
    """Hooks that zero heads, for any TransformerLens model: `model.run_with_hooks(tokens, fwd_hooks=hooks([(0, 3)]))`.

    `heads` are pairs of layer and head. For a model of `cap_viz.load_model`, run them on `model.bridge` while holding
    `model.lease`. With `model`, heads that it lacks are refused at once, else when the hooks run. Raises `UsageError`
    for a head that the model lacks and for one listed twice.
    """
    chosen = tuple(heads)
    if model is not None:
        check_sets([chosen], model.shape)
    by_layer: dict[int, list[int]] = {}
    for layer, head in chosen:
        if head in by_layer.setdefault(layer, []) or min(layer, head) < 0:
            raise UsageError(f"Head {head} of layer {layer} is listed twice or negative; list every head once, from 0.")
        by_layer[layer].append(head)
    n_heads = None if model is None else model.shape.n_heads
    return [(f"blocks.{layer}.attn.hook_z", zeroing(layer, some, n_heads)) for layer, some in by_layer.items()]


def zeroing(layer: int, heads: list[int], n_heads: int | None) -> Callable[[Tensor, object], Tensor]:
    def zero(z: Tensor, hook: object) -> Tensor:
        n = z.shape[2] if z.ndim == 4 else n_heads
        if n is None:
            raise UsageError("This model gives the outputs of all heads in one vector; name it: hooks(heads, model).")
        if max(heads) >= n:
            raise UsageError(f"There is no head {max(heads)} in layer {layer}: the model has heads 0 to {n - 1} there.")
        by_head = z.reshape(*z.shape[:2], n, -1).clone()
        by_head[:, :, heads] = 0
        return by_head.reshape(z.shape)

    return zero
