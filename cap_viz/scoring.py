"""Head scores: ablate every attention head on every example and keep the options' log-likelihoods.

The exact estimator, in order:
1. Encode the examples and fix the batch plan.
2. For each batch, one dense pass; for each layer, suffix replay with all heads at once (`engine/replay.py`).
3. Yield a block after every layer; a batch is complete when all its layers are.

Nothing here is averaged and nothing is stored: `runs.py` stores, `stats/` judges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cap_viz.engine.capture import dense_pass, read_logliks
from cap_viz.engine.packing import EncodedExample, PackedBatch, encode, lay_out, packed_rows, separate_rows
from cap_viz.engine.replay import ablate_layer, replay_dense
from cap_viz.errors import CapVizError, UsageError
from cap_viz.models import ReasoningModel
from cap_viz.plan import BatchPlan, plan_batches
from cap_viz.results import HeadScores, questions_of
from cap_viz.tasks.base import Example

ESTIMATORS = ("exact",)
ABLATIONS = ("zero", "mean")
# Rows x positions of one replayed forward. Large enough to keep the matrix products busy, small enough that a
# step stays near one second on two laptop cores.
TOKENS_PER_FORWARD = 768
# Packed and separate rows agree within 5e-5 where packing is valid; anything near this bound means it is not.
PACKING_TOLERANCE = 1e-3
# Relative to the largest activation; float32 leaves about 1e-6.
REPLAY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ScoreBlock:
    """One layer of one batch: `ablated[h, i, k]` belongs to head h and the i-th example of the batch.

    `work` is the share of the whole job in units of block x token forwards.
    """

    batch: int
    layer: int
    dense: Float[np.ndarray, "example option"]
    ablated: Float[np.ndarray, "head example option"]
    work: int


@dataclass(frozen=True)
class ScorePlan:
    """Everything fixed before the first forward."""

    examples: tuple[Example, ...]
    encoded: tuple[EncodedExample, ...]
    batches: BatchPlan
    ablation: str

    def work(self, batch: int, layer: int, n_layers: int) -> int:
        members = self.batches.batches[batch]
        return len(members) * max(self.encoded[i].row_length for i in members) * (n_layers - layer)

    def batch_work(self, batch: int, n_layers: int) -> int:
        return sum(self.work(batch, layer, n_layers) for layer in range(n_layers))

    def total_work(self, n_layers: int) -> int:
        return sum(self.batch_work(batch, n_layers) for batch in range(len(self.batches.batches)))


def make_score_plan(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    ablation: str = "zero",
    batches: BatchPlan | None = None,
) -> ScorePlan:
    """Encode the examples and fix the batches (or follow `batches`, when a run is resumed).

    Raises `UsageError` for no examples, an unknown ablation, or an example that does not fit the context.
    """
    if ablation not in ABLATIONS:
        raise UsageError(f"Unknown ablation {ablation!r}; choose one of {', '.join(ABLATIONS)}.")
    encoded = encode_all(model, examples)
    if batches is None:
        budget = max(1, TOKENS_PER_FORWARD // model.shape.n_heads)
        lengths = [example.row_length for example in encoded]
        batches = BatchPlan(plan_batches(lengths, budget), packed=packing_is_valid(model, encoded))
        check_replay(model, encoded, packed=batches.packed)
    return ScorePlan(examples=tuple(examples), encoded=encoded, batches=batches, ablation=ablation)


def encode_all(model: ReasoningModel, examples: Sequence[Example]) -> tuple[EncodedExample, ...]:
    if not examples:
        raise UsageError("n = 0: there is no example to run; ask for at least one.")
    with model.lease:
        return tuple(encode(model.tokenizer, example, model.shape.n_ctx) for example in examples)


def batch_of(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> PackedBatch:
    rows = packed_rows(encoded) if packed else separate_rows(encoded)
    return lay_out(rows, model.device, model.dtype)


def dense_logliks(
    model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool
) -> Float[np.ndarray, "example option"]:
    """Log-likelihood of every option under the weights as they are."""
    batch = batch_of(model, encoded, packed=packed)
    with model.lease, torch.inference_mode():
        final = dense_pass(model, batch, keep_calls=False).final
        return checked(model, read_logliks(model, batch, final[:, None])[0])


def packing_is_valid(model: ReasoningModel, encoded: Sequence[EncodedExample]) -> bool:
    """Whether packed rows give the same log-likelihoods as separate rows, tried on the longest example."""
    probe = [max(encoded, key=lambda example: example.row_length)]
    difference = dense_logliks(model, probe, packed=True) - dense_logliks(model, probe, packed=False)
    return bool(np.abs(difference).max() < PACKING_TOLERANCE)


def check_replay(model: ReasoningModel, encoded: Sequence[EncodedExample], *, packed: bool) -> None:
    """Raise when running the blocks one after the other is not what the model itself computes.

    Some families do more between their blocks than pass the residual stream on; their scores would be wrong.
    """
    batch = batch_of(model, [min(encoded, key=lambda example: example.row_length)], packed=packed)
    with model.lease, torch.inference_mode():
        dense = dense_pass(model, batch)
        difference = float((replay_dense(model, dense) - dense.final).abs().max())
        scale = float(dense.final.abs().max())
    if not difference <= REPLAY_TOLERANCE * scale:
        raise CapVizError(
            f"The blocks of {model.ref.id} cannot be run one by one (difference {difference:.1e}); this family is "
            "not supported for head scores."
        )


def score_steps(
    model: ReasoningModel, plan: ScorePlan, *, skip: Collection[int] = ()
) -> Generator[ScoreBlock, None, None]:
    """Blocks of ablated log-likelihoods, batch by batch, layers in order; batches in `skip` are left out.

    The lease is held within a step only, never across a yield.
    """
    value = ablation_value(model, plan)
    for number, members in enumerate(plan.batches.batches):
        if number in skip:
            continue
        batch = batch_of(model, [plan.encoded[i] for i in members], packed=plan.batches.packed)
        with model.lease, torch.inference_mode():
            dense = dense_pass(model, batch)
            dense_values = checked(model, read_logliks(model, batch, dense.final[:, None])[0])
        for layer in range(model.shape.n_layers):
            with model.lease, torch.inference_mode():
                ablated = checked(model, ablate_layer(model, batch, dense, layer, value[layer]))
            yield ScoreBlock(
                batch=number,
                layer=layer,
                dense=dense_values,
                ablated=ablated,
                work=plan.work(number, layer, model.shape.n_layers),
            )


def ablation_value(model: ReasoningModel, plan: ScorePlan) -> Float[Tensor, "layer head d_head"]:
    """What replaces z: zeros, or the mean of z over all tokens of the plan's examples (each token counted once)."""
    shape = model.shape
    total = torch.zeros(shape.n_layers, shape.n_heads, shape.d_head, dtype=torch.float64, device=model.device)
    if plan.ablation == "zero":
        return total.to(model.dtype)
    n_tokens = 0
    for members in plan.batches.batches:
        batch = batch_of(model, [plan.encoded[i] for i in members], packed=plan.batches.packed)
        with model.lease, torch.inference_mode(), capturing_z(model) as captured:
            dense_pass(model, batch, keep_calls=False)
            for layer, z in captured.items():
                heads = z.reshape(*batch.tokens.shape, shape.n_heads, shape.d_head)
                total[layer] += heads[batch.is_real].double().sum(dim=0)
        n_tokens += int(batch.is_real.sum())
    return (total / n_tokens).to(model.dtype)


class capturing_z:
    """Collects hook_z of every layer during one forward."""

    def __init__(self, model: ReasoningModel) -> None:
        self.captured: dict[int, Tensor] = {}
        self.hooks = model.bridge.hooks(
            fwd_hooks=[(f"blocks.{layer}.attn.hook_z", self.keep(layer)) for layer in range(model.shape.n_layers)]
        )

    def keep(self, layer: int) -> Callable[[Tensor, object], None]:
        def hook(z: Tensor, hook: object) -> None:
            self.captured[layer] = z

        return hook

    def __enter__(self) -> dict[int, Tensor]:
        self.hooks.__enter__()
        return self.captured

    def __exit__(self, *exc: object) -> None:
        self.hooks.__exit__(*exc)


def checked(model: ReasoningModel, logliks: Float[Tensor, ...]) -> np.ndarray:
    """As numpy; raises when a log-likelihood is infinite. NaN marks absent options and broken numbers alike."""
    values = logliks.cpu().numpy()
    if not np.isfinite(values[..., 0]).all() or np.isinf(values).any():
        raise CapVizError(
            f"{model.ref.id} gave log-likelihoods that are not finite; its weights or dtype are broken, run doctor."
        )
    return values


class ScoreArrays:
    """Collects blocks into whole arrays; NaN where nothing has arrived yet."""

    def __init__(self, plan: ScorePlan, n_layers: int, n_heads: int) -> None:
        self.plan = plan
        self.questions = questions_of(plan.examples, [example.answer_lengths for example in plan.encoded])
        n, k = self.questions.tokens.shape
        self.dense = np.full((n, k), np.nan, dtype=np.float32)
        self.ablated = np.full((n_layers, n_heads, n, k), np.nan, dtype=np.float32)

    def add(self, block: ScoreBlock) -> None:
        members = list(self.plan.batches.batches[block.batch])
        width = block.dense.shape[1]
        self.dense[members, :width] = block.dense
        self.ablated[block.layer, :, members, :width] = block.ablated.swapaxes(0, 1)

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """The part of the arrays that belongs to one batch."""
        members = list(self.plan.batches.batches[number])
        return {"dense": self.dense[members], "ablated": self.ablated[:, :, members]}

    def restore(self, number: int, content: dict[str, np.ndarray]) -> None:
        """The inverse of `batch`."""
        members = list(self.plan.batches.batches[number])
        self.dense[members], self.ablated[:, :, members] = content["dense"], content["ablated"]

    def scores(self) -> HeadScores:
        return HeadScores(questions=self.questions, dense=self.dense.copy(), ablated=self.ablated.copy())


def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: str = "exact",
    metric: str = "nll",
    ablation: str = "zero",
) -> HeadScores:
    """Log-likelihoods of all options with each head ablated in turn.

    Every metric follows from the result (`HeadScores.effects(metric)`); `metric` is only checked here, so that a
    misspelt one fails before the work. Raises `UsageError` for unknown names or no examples.
    """
    from cap_viz.metrics import metric_named

    check_estimator(estimator)
    metric_named(metric)
    plan = make_score_plan(model, examples, ablation=ablation)
    arrays = ScoreArrays(plan, model.shape.n_layers, model.shape.n_heads)
    for block in score_steps(model, plan):
        arrays.add(block)
    return arrays.scores()


def check_estimator(estimator: str) -> None:
    if estimator not in ESTIMATORS:
        raise UsageError(f"Unknown estimator {estimator!r}; choose one of {', '.join(ESTIMATORS)}.")
