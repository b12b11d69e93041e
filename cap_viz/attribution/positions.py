"""Effects of heads split by position: where z is replaced (spans), or which step of a worked solution is predicted.

By span: z of a head is replaced at the positions of one named span only, and everything else is dense or responds.

1. Without chosen heads, to first order: the inner product of (value - z) with the metric's gradient, summed over the
   span's positions (`attribution/gradient.py`). The sum over spans is the head's first-order effect.
2. For chosen heads, exactly: suffix replay with a copy of each row per head and span (`attribution/forward/replay.py`).

By step: z is replaced at all positions, as in exact scores, and the loss of each step of the gold solution read apart.

Nothing is averaged or stored here.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cap_viz.attribution.batch_plan import BatchPlan
from cap_viz.attribution.effect_metrics import METRICS, MetricName, metric_named
from cap_viz.attribution.exact import Replacements, ScorePlan, head_groups, make_score_plan, replacements
from cap_viz.attribution.forward.dense_pass import dense_pass, read_logliks
from cap_viz.attribution.forward.packing import EncodedExample, PackedBatch
from cap_viz.attribution.forward.replay import block_runner
from cap_viz.attribution.forward.shortcut_checks import batch_of, checked
from cap_viz.attribution.forward.token_spans import counted, name_tokens, read_by_step, step_lengths
from cap_viz.attribution.gradient import gradient_steps, make_gradient_plan
from cap_viz.attribution.joint_ablation import check_sets
from cap_viz.attribution.position_effects import EVERYWHERE, WHOLE_SOLUTION, PositionEffects, check_split
from cap_viz.attribution.pruned_weights import MaskLike, Weights, weights_under
from cap_viz.attribution.results import Ablation
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import Progress, Steps, finish_with_bar
from cap_viz.stats.joint import Head, plain_heads
from cap_viz.tasks.base import Example
from cap_viz.tasks.spans import By, span_names, with_solution

# Number of a head in `PositionPlan.heads`, and of a part in `PositionPlan.parts`.
Place = tuple[int, int]


@dataclass(frozen=True)
class PositionPlan:
    """Everything fixed before the first forward: `sample` holds examples, batches and ablation.

    The last of `parts` stands for all of them, and `tokens` are the lengths of the parts. `metric` is that of the
    gradient, None for exact effects. `numbered` holds numbers of spans, from 1, in place of token ids; it is empty
    where effects are split by step.
    """

    sample: ScorePlan
    heads: tuple[Head, ...]
    parts: tuple[str, ...]
    tokens: Int[np.ndarray, "example part"]
    metric: str | None
    numbered: tuple[EncodedExample, ...]

    @property
    def batches(self) -> BatchPlan:
        return self.sample.batches

    @property
    def by_step(self) -> bool:
        return not self.numbered

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics on which there are effects; those that other packages add are left out."""
        if self.metric is not None:
            return (self.metric,)
        return tuple(name for name in self.sample.questions.metrics if not METRICS[name].origin)

    def versions(self) -> dict[int, list[Place]]:
        """List the replacements that are run side by side in each layer: a head everywhere, or at each of the parts."""
        parts = (len(self.parts) - 1,) if self.by_step else range(len(self.parts))
        found: dict[int, list[Place]] = {}
        for number, (layer, _) in sorted(enumerate(self.heads), key=lambda one: one[1]):
            found.setdefault(layer, []).extend((number, part) for part in parts)
        return found

    def batch_work(self, batch: int, n_layers: int) -> float:
        """Cost of a batch: in blocks × tokens, of gradients in examples."""
        if self.metric is not None:
            return len(self.batches.batches[batch])
        blocks = sum((n_layers - layer) * len(versions) for layer, versions in self.versions().items())
        return self.sample.n_tokens(batch) * blocks

    def batch(self, model: ReasoningModel, members: Sequence[int]) -> PackedBatch:
        """Lay out some examples, to be read option by option or step by step."""
        batch = batch_of(model, [self.sample.encoded[i] for i in members], packed=self.batches.packed)
        return read_by_step(batch, self.tokens[list(members), :-1]) if self.by_step else batch

    def spans(self, model: ReasoningModel, members: Sequence[int]) -> Bool[Tensor, "row position part"]:
        """Return which positions belong to each span, and at last to any."""
        numbers = batch_of(model, [self.numbered[i] for i in members], packed=self.batches.packed).tokens[..., None]
        single = numbers == torch.arange(1, len(self.parts), device=numbers.device)
        return torch.cat([single, numbers > 0], dim=-1)


def make_position_plan(
    model: ReasoningModel,
    examples: Sequence[Example],
    by: By | str,
    heads: Sequence[Head] | None = None,
    *,
    metric: str | None = None,
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    batches: BatchPlan | None = None,
) -> PositionPlan:
    """Encode the examples, name their spans or steps, and fix the batches (or follow `batches`).

    With `metric` effects are those of its gradient, else exact. `reference` and `seed` are those of `make_score_plan`.
    Raises `UsageError` as it does, for heads the model does not have, for examples without the spans or steps, and as
    `check_split` does.
    """
    asked = None if heads is None else plain_heads(heads)
    check_split(by, asked, metric)
    shape = model.shape
    chosen = asked or tuple(product(range(shape.n_layers), range(shape.n_heads)))
    check_sets([chosen], shape)
    per_layer = len(chosen) / len({layer for layer, _ in chosen})
    options: dict[str, Any] = {"ablation": ablation, "seed": seed, "batches": batches}
    if by == "step":
        examples = tuple(map(with_solution, examples))
        reference = None if reference is None else tuple(map(with_solution, reference))
        sample = make_score_plan(
            model, examples, parts="sets", versions=ceil(per_layer), reference=reference, **options
        )
        with model.lease:
            parts, tokens = step_lengths(model.tokenizer, examples, sample.encoded)
        return PositionPlan(sample, chosen, (*parts, WHOLE_SOLUTION), with_total(tokens), metric, ())
    if metric is None:
        # On average one forward is as large as in exact scores.
        versions = ceil(per_layer * (1 + len(span_names(examples))))
        sample = make_score_plan(model, examples, parts="sets", versions=versions, reference=reference, **options)
    else:
        sample = make_gradient_plan(model, examples, metric=metric, reference=reference, **options)
    with model.lease:
        named = [name_tokens(model.tokenizer, *one) for one in zip(examples, sample.encoded, sample.asked, strict=True)]
    parts, tokens = counted([one.fed for one in named])
    numbered = tuple(one.numbered(row, parts) for one, row in zip(named, sample.encoded, strict=True))
    return PositionPlan(sample, chosen, (*parts, EVERYWHERE), with_total(tokens), metric, numbered)


def with_total(tokens: Int[np.ndarray, "example part"]) -> Int[np.ndarray, "example part_and_all"]:
    return np.column_stack([tokens, tokens.sum(axis=1)])


@dataclass(frozen=True)
class PositionBlock:
    """Effects of one batch at some places: `effects[m, p, i]` belongs to the p-th of `places` and its i-th example.

    `dense` holds the log-likelihoods of the options asked for. `work` is the block's portion of
    `PositionPlan.batch_work`; `last` marks the last block of the batch.
    """

    batch: int
    places: tuple[Place, ...]
    dense: Float[np.ndarray, "example asked"]
    effects: Float[np.ndarray, "metric place example"]
    work: float
    last: bool


def position_steps(
    model: ReasoningModel,
    plan: PositionPlan,
    *,
    weights: Weights | None = None,
    only: Iterable[int] | None = None,
    replaced: Replacements | None = None,
) -> Generator[PositionBlock, None, None]:
    """Yield blocks of effects, batch by batch, of all batches or `only` some, with `weights` swapped in.

    The lease is held within a step only, never across a yield, at which the model is dense again.
    """
    compute = exact_position_steps if plan.metric is None else gradient_position_steps
    held = weights or {}
    return compute(model, plan, held, only, replaced or replacements(model, plan.sample, held))


def gradient_position_steps(
    model: ReasoningModel, plan: PositionPlan, held: Weights, only: Iterable[int] | None, replaced: Replacements
) -> Generator[PositionBlock, None, None]:
    places = tuple(product(range(len(plan.heads)), range(len(plan.parts))))
    blocks = gradient_steps(
        model,
        plan.sample,
        metric=plan.metric or "nll",
        weights=held,
        only=only,
        replaced=replaced,
        spans=lambda members: plan.spans(model, members),
    )
    for block in blocks:
        assert block.by_span is not None
        effects = block.by_span.reshape(1, len(places), -1)
        yield PositionBlock(block.batch, places, block.dense, effects, block.work, last=True)


def exact_position_steps(
    model: ReasoningModel, plan: PositionPlan, held: Weights, only: Iterable[int] | None, replaced: Replacements
) -> Generator[PositionBlock, None, None]:
    runner, layers = block_runner(model, direct=plan.batches.direct), plan.versions()
    for number in plan.batches.numbers(only):
        members = plan.batches.batches[number]
        batch = plan.batch(model, members)
        spans = None if plan.by_step else plan.spans(model, members).movedim(-1, 0)
        with model.swapped(held):
            z = replaced.z(members)
        with model.swapped(held), torch.inference_mode():
            dense = dense_pass(model, batch)
            logliks = checked(model, batch, read_logliks(model, batch, dense.final[:, None])[0])
        n_tokens = batch.tokens.numel()
        for layer, versions in layers.items():
            groups = head_groups(len(versions), n_tokens, plan.batches.most_tokens)
            for group in groups:
                chosen = versions[group.start : group.stop]
                heads = [plan.heads[head][1] for head, _ in chosen]
                where = None if spans is None else spans[[part for _, part in chosen]]
                with model.swapped(held), torch.inference_mode():
                    ablated = runner.ablate_heads(batch, dense, layer, z[layer], heads, where)
                    ablated = checked(model, batch, ablated)
                last = layer == max(layers) and group == groups[-1]
                work = n_tokens * (model.shape.n_layers - layer) * len(chosen)
                if plan.by_step:
                    places = tuple((head, part) for head, _ in chosen for part in range(len(plan.parts)))
                    effects = on_steps(logliks, ablated, plan.tokens[list(members)])
                    solution = np.nansum(logliks, axis=1, keepdims=True)
                    yield PositionBlock(number, places, solution, effects, work, last)
                else:
                    effects = on_metrics(plan, members, logliks, ablated)
                    yield PositionBlock(number, tuple(chosen), logliks, effects, work, last)


def on_steps(
    dense: Float[np.ndarray, "example step"],
    ablated: Float[np.ndarray, "head example step"],
    tokens: Int[np.ndarray, "example part"],
) -> Float[np.ndarray, "1 place example"]:
    """Return the change of the loss per token of each step and at last of the whole solution, head by head."""
    change = dense.astype(np.float64) - ablated
    total = np.nansum(change, axis=-1, keepdims=True)
    per_token = np.concatenate([change, total], axis=-1) / np.where(tokens > 0, tokens, 1)
    return per_token.swapaxes(1, 2).reshape(1, -1, len(dense))


def on_metrics(
    plan: PositionPlan,
    members: Sequence[int],
    dense: Float[np.ndarray, "example option"],
    ablated: Float[np.ndarray, "place example option"],
) -> Float[np.ndarray, "metric place example"]:
    """Return the change of every metric."""
    questions = plan.sample.questions.take(members)
    gold, tokens = questions.gold, questions.tokens[:, : dense.shape[1]]
    losses = [metric_named(name) for name in plan.metrics]
    return np.stack([loss(ablated, gold, tokens) - loss(dense, gold, tokens) for loss in losses])


class PositionArrays:
    """Whole arrays assembled from blocks; NaN where no block has arrived yet, and where an example lacks a part."""

    def __init__(self, plan: PositionPlan) -> None:
        self.plan = plan
        shape = (len(plan.metrics), len(plan.heads), *plan.tokens.T.shape)
        self.dense = np.full(plan.sample.questions.tokens.shape, np.nan, dtype=np.float32)
        self.effects = np.full(shape, np.nan, dtype=np.float32)

    def add(self, block: PositionBlock) -> None:
        members = list(self.plan.batches.batches[block.batch])
        self.plan.sample.place_logliks(self.dense, block.batch, block.dense)
        head, part = np.array(block.places).T
        has = self.plan.tokens[members].T[part] > 0
        self.effects[:, head[:, None], part[:, None], members] = np.where(has, block.effects, np.nan)

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Return the part of the arrays that belongs to one batch."""
        members = list(self.plan.batches.batches[number])
        return {"dense": self.dense[members], "effects": self.effects[..., members]}

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """Put the content of one batch back: the inverse of `batch`."""
        members = list(self.plan.batches.batches[number])
        self.dense[members], self.effects[..., members] = content["dense"], content["effects"]

    def result(self) -> PositionEffects:
        return PositionEffects(
            questions=self.plan.sample.questions,
            known_logliks=self.dense.copy(),
            heads=self.plan.heads,
            parts=self.plan.parts,
            tokens=self.plan.tokens,
            metrics=self.plan.metrics,
            per_example=self.effects.copy(),
            estimator="exact" if self.plan.metric is None else "gradient",
        )


def collected(model: ReasoningModel, plan: PositionPlan, weights: Weights) -> Steps[PositionEffects]:
    """Collect the blocks of `position_steps`; progress after each."""
    arrays, n_layers = PositionArrays(plan), model.shape.n_layers
    done, total = 0.0, float(sum(plan.batch_work(batch, n_layers) for batch in plan.batches.numbers()))
    for block in position_steps(model, plan, weights=weights):
        arrays.add(block)
        done += block.work
        yield Progress(done, total, "heads position by position")
    return arrays.result()


def span_effects(
    model: ReasoningModel,
    examples: Sequence[Example],
    heads: Sequence[Head] | None = None,
    *,
    metric: MetricName | str | None = None,
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    progress: bool = True,
) -> PositionEffects:
    """Split effects of heads by where their output is replaced: the first token, facts, question, answer cue, options.

    Without `heads`, of every head to first order, from the gradient of `metric` (nll unless named): these add up over
    the spans. With `heads`, pairs of layer and head, exactly, on every metric, by replacing the output at one span at a
    time; use other examples than those that ranked the heads. Options that are worked solutions are split into steps.

    `ablation`, `reference` and `seed` are those of `make_score_plan`. With `mask` all is measured on the pruned model.
    `progress` shows a bar. Raises `UsageError` as it does, for examples without a question in the prompt, heads that
    are not there, both heads and a metric, and a mask of another model.
    """
    first_order = metric or ("nll" if heads is None else None)
    options: dict[str, Any] = {"ablation": ablation, "reference": reference, "seed": seed}
    plan = make_position_plan(model, examples, "span", heads, metric=first_order, **options)
    return finish_with_bar(collected(model, plan, weights_under(model, mask)), progress)


def step_effects(
    model: ReasoningModel,
    examples: Sequence[Example],
    heads: Sequence[Head] | None = None,
    *,
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    progress: bool = True,
) -> PositionEffects:
    """Split effects of heads by what is predicted: the loss per token of each step of the worked solution, exactly.

    Of every head, or of `heads`, pairs of layer and head. A step is a sentence or line of the solution; the last one
    gives the answer. Arguments and errors are those of `span_effects`; raises `UsageError` for examples without a
    worked solution.
    """
    options: dict[str, Any] = {"ablation": ablation, "reference": reference, "seed": seed}
    plan = make_position_plan(model, examples, "step", heads, **options)
    return finish_with_bar(collected(model, plan, weights_under(model, mask)), progress)
