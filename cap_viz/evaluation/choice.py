"""Accuracy by log-likelihood, dense or under a mask, item by item.

`acc` takes the option with the highest summed log-likelihood, `acc_norm` the highest per character, both as
lm-evaluation-harness does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cap_viz.attribution.batch_plan import BatchPlan, plan_batches
from cap_viz.attribution.exact import encode_all
from cap_viz.attribution.forward.packing import EncodedExample
from cap_viz.attribution.forward.shortcut_checks import dense_logliks, direct_reading_is_valid, packing_is_valid
from cap_viz.attribution.results import EvalReport, questions_of
from cap_viz.models.batch_size import tokens_at_once
from cap_viz.models.loading import ReasoningModel
from cap_viz.pruning.mask import Mask
from cap_viz.stats.paired import PairedComparison, compare_paired
from cap_viz.tasks.base import Example
from cap_viz.tasks.pairing import check_same_items

# Positions of one forward: about half a second on two laptop cores, so that results stream in.
TOKENS_PER_FORWARD = 384
# Examples sorted by length among themselves, so that they still arrive roughly in source order.
SORT_WINDOW = 64


@dataclass(frozen=True)
class EvalBlock:
    """One batch: `logliks[i, k]` belongs to the i-th example of the batch."""

    batch: int
    logliks: Float[np.ndarray, "example option"]


@dataclass(frozen=True)
class EvalPlan:
    """Examples, their tokens and the batches, fixed before the first forward."""

    examples: tuple[Example, ...]
    encoded: tuple[EncodedExample, ...]
    batches: BatchPlan

    @property
    def dropped(self) -> tuple[int, ...]:
        """Tokens cut from the beginning of each prompt to make it fit."""
        return tuple(example.dropped for example in self.encoded)


def make_eval_plan(model: ReasoningModel, examples: Sequence[Example], batches: BatchPlan | None = None) -> EvalPlan:
    """Encode the examples and fix the batches (or follow `batches`, when a run is resumed)."""
    encoded = encode_all(model, examples, shorten=True)
    if batches is None:
        lengths = [example.row_length for example in encoded]
        packed = packing_is_valid(model, encoded)
        batches = BatchPlan(
            plan_batches(lengths, tokens_at_once(TOKENS_PER_FORWARD, model), window=SORT_WINDOW),
            packed=packed,
            direct=direct_reading_is_valid(model, encoded, packed=packed),
        )
    return EvalPlan(examples=tuple(examples), encoded=encoded, batches=batches)


def eval_steps(
    model: ReasoningModel,
    plan: EvalPlan,
    weights: Mapping[str, Tensor] | None = None,
    *,
    only: Iterable[int] | None = None,
) -> Generator[EvalBlock, None, None]:
    """Log-likelihoods batch by batch (all, or `only` those named) with `weights` swapped in.

    The model is dense again at every yield.
    """
    for number in plan.batches.numbers(only):
        with model.swapped(weights or {}):
            examples = [plan.encoded[i] for i in plan.batches.batches[number]]
            logliks = dense_logliks(model, examples, packed=plan.batches.packed, direct=plan.batches.direct)
        yield EvalBlock(batch=number, logliks=logliks)


class EvalArrays:
    """Collects blocks; `report()` covers the examples that have arrived."""

    def __init__(self, plan: EvalPlan) -> None:
        self.plan = plan
        self.questions = questions_of(plan.examples, [example.answer_lengths for example in plan.encoded])
        self.logliks = np.full(self.questions.tokens.shape, np.nan, dtype=np.float32)
        self.arrived: list[int] = []

    def add(self, block: EvalBlock) -> None:
        members = list(self.plan.batches.batches[block.batch])
        self.logliks[members, : block.logliks.shape[1]] = block.logliks
        self.arrived += members

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """The part of the arrays that belongs to one batch."""
        return {"logliks": self.logliks[list(self.plan.batches.batches[number])]}

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """The inverse of `batch`."""
        self.add(EvalBlock(number, content["logliks"]))

    def report(self) -> EvalReport:
        rows = sorted(self.arrived)
        return EvalReport(questions=self.questions.take(rows), logliks=self.logliks[rows])


def evaluate(model: ReasoningModel, examples: Sequence[Example], *, mask: Mask | None = None) -> EvalReport:
    """Accuracy of the model on `examples`, pruned by `mask` if one is given; the weights are left as they were."""
    plan = make_eval_plan(model, examples)
    with model.lease:
        weights = {} if mask is None else model.pruned_weights(mask.keep, mask.updated)
    arrays = EvalArrays(plan)
    for block in eval_steps(model, plan, weights):
        arrays.add(block)
    return arrays.report()


def compare(first: EvalReport, second: EvalReport, *, norm: bool = False) -> PairedComparison:
    """Paired comparison on the same items: difference of accuracy (first minus second), CI, exact McNemar p.

    Raises `UsageError` when the two reports are not about the same items.
    """
    check_same_items(first.items, second.items)
    if norm:
        return compare_paired(first.correct_norm, second.correct_norm)
    return compare_paired(first.correct, second.correct)
