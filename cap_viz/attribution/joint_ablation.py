"""Joint ablation of sets of heads: the measurements behind `stats.joint_effect`.

`joint_steps` yields one block per batch and set; `joint_effects` collects them for notebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.batch_plan import BatchPlan, plan_batches
from cap_viz.attribution.exact import TOKENS_PER_FORWARD, ScorePlan, encode_all, make_score_plan, replacing
from cap_viz.attribution.forward.dense_pass import option_logliks
from cap_viz.attribution.forward.patching import Hook, heads_site, set_hooks
from cap_viz.attribution.forward.shortcut_checks import batch_of, checked, packing_is_valid
from cap_viz.attribution.joint_scores import JointScores
from cap_viz.errors import UsageError
from cap_viz.models.batch_size import tokens_at_once
from cap_viz.models.loading import ModelShape, ReasoningModel
from cap_viz.progress import Progress, Steps, finish_with_bar
from cap_viz.stats.joint import Head, HeadSet
from cap_viz.tasks.base import Example


@dataclass(frozen=True)
class JointBlock:
    """Log-likelihoods of one batch with the heads of set number `number` removed."""

    batch: int
    number: int
    logliks: Float[np.ndarray, "example option"]


def make_joint_plan(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    batches: BatchPlan | None = None,
) -> ScorePlan:
    """Encode the examples and fix the batches. Raises `UsageError` for no examples or an unknown ablation."""
    if batches is None:
        encoded = encode_all(model, examples)
        lengths = [example.row_length for example in encoded]
        batches = BatchPlan(
            plan_batches(lengths, tokens_at_once(TOKENS_PER_FORWARD, model)),
            packed=packing_is_valid(model, encoded),
        )
    return make_score_plan(model, examples, ablation=ablation, reference=reference, seed=seed, batches=batches)


def joint_steps(model: ReasoningModel, plan: ScorePlan, sets: Sequence[HeadSet]) -> Generator[JointBlock, None, None]:
    """Yield one block per batch and set. The lease is held within a step only."""
    check_sets(sets, model.shape)
    value_of = replacing(model, plan, heads_site(model.shape))
    for batch_number, members in enumerate(plan.batches.batches):
        batch = batch_of(model, [plan.encoded[i] for i in members], packed=plan.batches.packed)
        value = value_of(members)
        for number, heads in enumerate(sets):
            with model.lease, torch.inference_mode():
                logliks = checked(model, batch, option_logliks(model, batch, set_hooks(heads, value)))
            yield JointBlock(batch=batch_number, number=number, logliks=logliks)


def joint_effects(
    model: ReasoningModel,
    examples: Sequence[Example],
    sets: Sequence[Sequence[Head]],
    *,
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> JointScores:
    """Ablate each set of (layer, head) as a whole; the untouched model is added as the empty set.

    Use other examples than those that ranked the heads. `progress` shows a bar. Raises `UsageError` for a head the
    model does not have, a head listed twice in a set, no examples or an unknown ablation.
    """
    plain = (tuple((int(layer), int(head)) for layer, head in heads) for heads in sets)
    plan = make_joint_plan(model, examples, ablation=ablation, reference=reference, seed=seed)
    return finish_with_bar(joint_score_steps(model, plan, tuple(dict.fromkeys([(), *plain]))), progress)


def joint_score_steps(model: ReasoningModel, plan: ScorePlan, sets: tuple[HeadSet, ...]) -> Steps[JointScores]:
    """Ablate every set on every example; progress after each set of a batch."""
    blocks, total = [], len(plan.batches.batches) * len(sets)
    for block in joint_steps(model, plan, sets):
        blocks.append(block)
        yield Progress(len(blocks), total, "heads removed together")
    return collected(plan, sets, blocks)


def collected(plan: ScorePlan, sets: tuple[HeadSet, ...], blocks: Iterable[JointBlock]) -> JointScores:
    ablated = np.full((len(sets), *plan.questions.tokens.shape), np.nan, dtype=np.float32)
    for block in blocks:
        members = list(plan.batches.batches[block.batch])
        ablated[block.number, members, : block.logliks.shape[1]] = block.logliks
    return JointScores(questions=plan.questions, sets=sets, ablated=ablated)


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
