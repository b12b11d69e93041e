"""Multiple-choice accuracy by log-likelihood, per example, for the dense model or under a mask.

`acc` chooses the option with the highest summed log-likelihood, `acc_norm` the highest per character, both as in
lm-evaluation-harness.
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
from cap_viz.progress import Progress, Steps, finish_with_bar
from cap_viz.pruning.mask import Mask
from cap_viz.tasks.base import Example

# Token positions per forward: about half a second on two laptop cores, so that results stream in.
TOKENS_PER_FORWARD = 384
# Examples are sorted by length only within windows of this many, so that they arrive roughly in source order.
SORT_WINDOW = 64


@dataclass(frozen=True)
class EvalBlock:
    """Log-likelihoods of one batch: `logliks[i, k]` for option k of the batch's i-th example."""

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
        """Number of tokens cut from the beginning of each prompt to make it fit."""
        return tuple(example.dropped for example in self.encoded)


def make_eval_plan(model: ReasoningModel, examples: Sequence[Example], batches: BatchPlan | None = None) -> EvalPlan:
    """Encode the examples and plan the batches, or follow `batches` on resume."""
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
    """Yield log-likelihoods batch by batch, of all batches or `only` some, with `weights` swapped in.

    The model is dense again at every yield.
    """
    for number in plan.batches.numbers(only):
        with model.swapped(weights or {}):
            examples = [plan.encoded[i] for i in plan.batches.batches[number]]
            logliks = dense_logliks(model, examples, packed=plan.batches.packed, direct=plan.batches.direct)
        yield EvalBlock(batch=number, logliks=logliks)


class EvalArrays:
    """Collector of blocks; `report()` covers the examples collected so far."""

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
        """Return the arrays of one batch."""
        return {"logliks": self.logliks[list(self.plan.batches.batches[number])]}

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """Add a batch from its arrays: the inverse of `batch`."""
        self.add(EvalBlock(number, content["logliks"]))

    def report(self) -> EvalReport:
        rows = sorted(self.arrived)
        return EvalReport(questions=self.questions.take(rows), logliks=self.logliks[rows])


def evaluation_steps(model: ReasoningModel, examples: Sequence[Example], mask: Mask | None = None) -> Steps[EvalReport]:
    """Evaluate the model on `examples`, pruned by `mask` if one is given, batch by batch."""
    plan = make_eval_plan(model, examples)
    with model.lease:
        weights = {} if mask is None else model.pruned_weights(mask.keep, mask.updated)
    arrays = EvalArrays(plan)
    for block in eval_steps(model, plan, weights):
        arrays.add(block)
        yield Progress(len(arrays.arrived), len(examples), "answering questions")
    return arrays.report()


def evaluate(
    model: ReasoningModel, examples: Sequence[Example], *, mask: Mask | None = None, progress: bool = True
) -> EvalReport:
    """Evaluate the model on `examples`, pruned by `mask` if one is given; the model's own weights do not change.

    `progress` shows a bar.
    """
    return finish_with_bar(evaluation_steps(model, examples, mask), progress)
