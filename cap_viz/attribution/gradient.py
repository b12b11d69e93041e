"""Gradient estimator of head scores: every head of every layer from one forward and one backward pass per batch.

1. Encode the examples and fix the batch plan: fewer tokens per batch than in the exact estimator, since a backward pass
   keeps all layers' activations. A metric that does not compare options needs only the gold one.
2. For each batch, run `attribution/forward/backward.py`'s `gradient_pass` and yield its block.

Counterpart of `attribution/exact.py`, with the same division of work: nothing is averaged or stored here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cap_viz.attribution.batch_plan import BatchPlan, plan_batches
from cap_viz.attribution.effect_metrics import COMPARES_OPTIONS, check_differentiable
from cap_viz.attribution.exact import Replacements, ScorePlan, encode_all, make_score_plan, replacements
from cap_viz.attribution.forward.backward import gradient_pass
from cap_viz.attribution.forward.patching import with_options
from cap_viz.attribution.forward.shortcut_checks import batch_of, packing_is_valid
from cap_viz.attribution.pruned_weights import MaskLike, Weights, weights_under
from cap_viz.attribution.results import GradientEffects
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models.batch_size import backward_tokens_at_once
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import Progress, Steps, finish
from cap_viz.tasks.base import Example

# Rows x positions of one forward and backward: about 2 MB of kept activations a token for SmolLM2-135M, and a step
# of about one second on two laptop cores.
TOKENS_PER_BACKWARD = 320


@dataclass(frozen=True)
class GradientBlock:
    """First-order effects of all heads on one batch; `units` is summed over its examples. `work` counts examples.

    `dense` holds the log-likelihoods of the options asked for; `by_span` splits the effects, where asked for.
    """

    batch: int
    dense: Float[np.ndarray, "example option"]
    effects: Float[np.ndarray, "layer head example"]
    units: Float[np.ndarray, "layer unit"] | None
    work: int
    by_span: Float[np.ndarray, "layer head span example"] | None = None


def make_gradient_plan(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    metric: str,
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    batches: BatchPlan | None = None,
) -> ScorePlan:
    """Encode the examples and fix the batches (or follow `batches`, when a run is resumed).

    `reference` and `seed` are those of `make_score_plan`. Raises `UsageError` for no examples, an unknown ablation, a
    metric without gradient, or a metric that compares options where an example has only one; `CapVizError` for a model
    whose weights are not all on the device.
    """
    check_differentiable(metric)
    model.check_whole("estimate by gradients")
    if metric in COMPARES_OPTIONS and any(len(example.options) < 2 for example in examples):
        raise UsageError(f"Metric {metric!r} compares options, and an example has a single one; use nll.")
    encoded = encode_all(model, examples)
    asked = tuple(
        tuple(range(len(example.options))) if metric in COMPARES_OPTIONS else (example.gold,) for example in examples
    )
    rows = tuple(with_options(example, options) for example, options in zip(encoded, asked, strict=True))
    if batches is None:
        lengths = [example.row_length for example in rows]
        most = backward_tokens_at_once(TOKENS_PER_BACKWARD, model)
        batches = BatchPlan(plan_batches(lengths, most), packed=packing_is_valid(model, rows))
    plan = make_score_plan(model, examples, ablation=ablation, reference=reference, seed=seed, batches=batches)
    return replace(plan, encoded=rows, asked=asked)


def gradient_steps(
    model: ReasoningModel,
    plan: ScorePlan,
    *,
    metric: str,
    units: bool = False,
    weights: Weights | None = None,
    only: Iterable[int] | None = None,
    replaced: Replacements | None = None,
    spans: Callable[[Sequence[int]], Bool[Tensor, "row position span"]] | None = None,
) -> Generator[GradientBlock, None, None]:
    """Yield one block per batch, with `weights` swapped in; all batches, or `only` the given ones.

    The lease is held within a step only, and the model is dense again at every yield. `spans` returns the positions of
    each span in the rows of some examples; the effects are then split by them, too.
    """
    held = weights or {}
    replaced = replaced or replacements(model, plan, held)
    for number in plan.batches.numbers(only):
        members = plan.batches.batches[number]
        batch = batch_of(model, [plan.encoded[i] for i in members], packed=plan.batches.packed)
        gold = torch.tensor([plan.asked[i].index(plan.examples[i].gold) for i in members], device=model.device)
        split = None if spans is None else spans(members)
        with model.swapped(held):
            value = replaced.z(members)
            found = gradient_pass(model, batch, metric=metric, gold=gold, value=value, units=units, spans=split)
        yield GradientBlock(
            batch=number,
            dense=found.logliks.cpu().numpy(),
            effects=finite(model, found.effects.cpu().numpy()),
            units=None if found.units is None else finite(model, found.units.cpu().numpy()),
            work=len(members),
            by_span=None if found.by_span is None else finite(model, found.by_span.cpu().numpy()),
        )


def finite(model: ReasoningModel, values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise CapVizError(
            f"{model.ref.id} gave gradients that are not finite; its weights or dtype are broken, run doctor."
        )
    return values


class GradientArrays:
    """Whole arrays assembled from blocks; NaN where no block has arrived yet."""

    def __init__(self, plan: ScorePlan, metric: str, n_layers: int, n_heads: int) -> None:
        self.plan = plan
        self.metric = metric
        self.questions = plan.questions
        n, n_options = self.questions.tokens.shape
        self.dense = np.full((n, n_options), np.nan, dtype=np.float32)
        self.effects = np.full((n_layers, n_heads, n), np.nan, dtype=np.float32)
        self.units: dict[int, Float[np.ndarray, "layer unit"]] = {}

    def add(self, block: GradientBlock) -> None:
        members = list(self.plan.batches.batches[block.batch])
        self.plan.place_logliks(self.dense, block.batch, block.dense)
        self.effects[:, :, members] = block.effects
        if block.units is not None:
            self.units[block.batch] = block.units

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """Return the part of the arrays that belongs to one batch."""
        members = list(self.plan.batches.batches[number])
        content = {"dense": self.dense[members], "effects": self.effects[:, :, members]}
        return content | ({"units": self.units[number]} if number in self.units else {})

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """Put the content of one batch back: the inverse of `batch`."""
        members = list(self.plan.batches.batches[number])
        self.dense[members], self.effects[:, :, members] = content["dense"], content["effects"]
        if "units" in content:
            self.units[number] = content["units"]

    def result(self) -> GradientEffects:
        """Return the effects so far; `units`, a mean over examples, is None until the last batch has arrived."""
        units = None
        if len(self.units) == len(self.plan.batches.batches):
            # Sum in the plan's order, so that a resumed run gives the same bits.
            by_batch = np.stack([self.units[number] for number in sorted(self.units)])
            units = (by_batch.sum(axis=0, dtype=np.float64) / len(self.questions)).astype(np.float32)
        return GradientEffects(
            questions=self.questions,
            known_logliks=self.dense.copy(),
            per_example=self.effects.copy(),
            metric=self.metric,
            units=units,
        )


def gradient_effect_steps(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    metric: str = "nll",
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    units: bool = False,
    mask: MaskLike | None = None,
) -> Steps[GradientEffects]:
    """Compute first-order effects of every head (with `units`, of every MLP hidden unit, too) on a metric.

    With `mask` the pruned model is measured. Raises `UsageError` for a metric without gradient, an unknown ablation,
    no examples, or a mask of another model.
    """
    plan = make_gradient_plan(model, examples, metric=metric, ablation=ablation, reference=reference, seed=seed)
    arrays, done = GradientArrays(plan, metric, model.shape.n_layers, model.shape.n_heads), 0
    for block in gradient_steps(model, plan, metric=metric, units=units, weights=weights_under(model, mask)):
        arrays.add(block)
        done += block.work
        yield Progress(done, len(examples), "gradients of all heads")
    return arrays.result()


def gradient_effects(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    metric: str = "nll",
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    units: bool = False,
    mask: MaskLike | None = None,
) -> GradientEffects:
    """Run `gradient_effect_steps` to their end."""
    return finish(
        gradient_effect_steps(
            model, examples, metric=metric, ablation=ablation, reference=reference, seed=seed, units=units, mask=mask
        )
    )
