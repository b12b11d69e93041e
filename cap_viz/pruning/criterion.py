"""Pruning criteria: rank weights, and turn a sparsity into a mask in short steps.

1. A criterion takes a `MaskRequest` and advances as a generator: each `next` does at most about a second
   of work on the model, holding its lease; between steps the lease is free and the weights are dense.
2. A criterion with a score that does not depend on the sparsity ranks once (`rank`); every sparsity is then a
   threshold on that `Ranking`. The others (sequential Wanda) start again for each sparsity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int

from cap_viz.errors import UsageError
from cap_viz.models.tensors import Tensor
from cap_viz.progress import Steps, portion
from cap_viz.pruning.mask import Mask, ZeroCounts, check_sparsity
from cap_viz.pruning.options import USUAL, MaskOptions, pattern_sparsity

if TYPE_CHECKING:
    from cap_viz.models.loading import Matrix, ModelShape, ReasoningModel
    from cap_viz.tasks.base import Example

Threshold = Literal["global", "per matrix", "per row", "per column block", "per head"]

SCATTERED = (
    "Zeros are scattered over the matrices (unstructured): file size and speed stay the same; only formats and kernels "
    "made for sparse weights would gain."
)
PATTERNED = (
    "Zeros follow the pattern {} (semi-structured): file size and speed stay the same; only formats and kernels made "
    "for this pattern would gain."
)
STRUCTURED = (
    "Whole rows and columns are zero (structured): a model rebuilt without them is smaller and faster; an exported one "
    "keeps them as zeros."
)


@dataclass(frozen=True)
class Allocation:
    """Spread of a sparsity over layers: `offsets[layer]` is added to it; without offsets it is the same everywhere.

    The mean of the offsets is 0. All are scaled down where a layer would leave the range 0..1.
    """

    offsets: Mapping[int, float] = field(default_factory=dict)

    def sparsity(self, layer: int, asked: float) -> float:
        """Return the sparsity of the layer when `asked` is the overall sparsity."""
        if not self.offsets:
            return asked
        lowest, highest = min(self.offsets.values()), max(self.offsets.values())
        room = min(1.0, asked / -lowest, (1 - asked) / highest)
        return min(max(asked + room * self.offsets[layer], 0.0), 1.0)


UNIFORM = Allocation()


@dataclass(frozen=True)
class MaskRequest(MaskOptions):
    """Inputs of a criterion, which ignores the fields it does not need.

    `effect`: head scores, positive where the head helps. `calibration`: examples on which activations or gradients are
    measured; `text`: passages of running text to measure on, too.
    """

    sparsity: float
    effect: Float[np.ndarray, "layer head"] | None = field(default=None, compare=False)
    calibration: tuple[Example, ...] | None = None
    text: tuple[Example, ...] | None = None


class Ranking(Protocol):
    """Weights ranked once, to be thresholded at any sparsity."""

    def profile(self, sparsities: Sequence[float]) -> ZeroCounts:
        """Count zeros per matrix at each sparsity, without touching the model."""
        ...

    def mask_steps(self, model: ReasoningModel, sparsity: float) -> Steps[Mask]:
        """Build the mask at one sparsity."""
        ...

    def rank_and_cutoffs(
        self, matrix: Matrix, sparsities: Sequence[float]
    ) -> tuple[Int[Tensor, "output input"], list[int]]:
        """Rank of each weight, and the cutoff rank per sparsity: weights ranked below it are pruned.

        Hold the lease.
        """
        ...


@dataclass(frozen=True)
class Criterion:
    """A way to rank weights.

    `threshold`: the group of weights among which the lowest scores are pruned. `rank` is set where the score does not
    depend on the sparsity. `steps` and `rank` call `check_request`. `needs_text`: running text is measured beside the
    calibration examples. `needs_seed`: the criterion draws at random. `allocations`, `patterns`: whether its zeros can
    be spread over layers (OWL) or neighbouring weights (n:m) on request. `structured`: its zeros fill whole rows and
    columns. `counting`: a note for users where the share of pruned weights is not the sparsity asked.
    `scales_importance`: built on CAP's importance I. `origin`: package and version, if another package adds it.
    """

    name: str
    title: str
    summary: str
    source: str
    needs_scores: bool
    needs_calibration: bool
    threshold: Threshold
    steps: Callable[[ReasoningModel, MaskRequest], Steps[Mask]] = field(repr=False, compare=False)
    rank: Callable[[ReasoningModel, MaskRequest], Steps[Ranking]] | None = field(
        default=None, repr=False, compare=False
    )
    needs_text: bool = False
    needs_seed: bool = False
    allocations: bool = False
    patterns: bool = False
    structured: bool = False
    counting: str = ""
    scales_importance: bool = False
    origin: str = ""

    def notes(self, pattern: str | None = None) -> tuple[str, ...]:
        """Return notes on reading numbers under its masks, for an n:m pattern or the criterion's own way."""
        if pattern is not None:
            return (PATTERNED.format(pattern),)
        return (STRUCTURED if self.structured else SCATTERED, *([self.counting] if self.counting else []))

    def check(self, options: MaskOptions) -> None:
        """Raise `UsageError` for an unknown name, or for an option that makes no sense with the criterion."""
        options.check()
        if options.allocation is not None and not self.allocations:
            raise UsageError(
                f"The allocation {options.allocation!r} sets a sparsity for every layer, and the criterion "
                f"{self.name!r} decides itself how much each layer loses; use it with wanda, magnitude or another "
                "criterion that takes the same share everywhere."
            )
        if options.pattern is not None and not self.patterns:
            raise UsageError(
                f"The criterion {self.name!r} defines no n:m patterns; use {options.pattern} with wanda, magnitude, "
                "ria or sparsegpt."
            )

    def measures(self, options: MaskOptions) -> bool:
        """Whether the mask needs calibration examples to measure activations or gradients on."""
        return self.needs_calibration or options.allocation is not None

    def used(self, options: MaskOptions) -> MaskOptions:
        """Fill in the options the criterion uses and clear the others, so that equal masks have equal options."""

        def filled(name: str, used: bool) -> Any:
            value = getattr(options, name)
            return (USUAL[name] if value is None else value) if used else None

        return replace(
            options,
            metric=filled("metric", self.needs_scores),
            kv_combine=filled("kv_combine", self.needs_scores),
            control_seed=filled("control_seed", self.needs_seed),
        )

    def supported(self, options: MaskOptions, sparsity: float) -> MaskOptions:
        """Drop an allocation or pattern that the criterion does not support, and a pattern of another sparsity."""
        pattern = options.pattern
        patterned = pattern is not None and self.patterns and pattern_sparsity(pattern) == sparsity
        return replace(
            options,
            allocation=options.allocation if self.allocations else None,
            pattern=pattern if patterned else None,
        )

    @property
    def counts_weights(self) -> bool:
        """Whether the sparsity asked is a share of weights (up to rounding) and not one of heads."""
        return self.threshold != "per head"

    @property
    def fixed_score(self) -> bool:
        """Whether the score is independent of the sparsity, so that every sparsity is a threshold."""
        return self.rank is not None


def fixed_score_steps(
    rank: Callable[[ReasoningModel, MaskRequest], Steps[Ranking]],
) -> Callable[[ReasoningModel, MaskRequest], Steps[Mask]]:
    """Return the `steps` of a criterion with a fixed score: rank, then threshold."""

    def steps(model: ReasoningModel, request: MaskRequest) -> Steps[Mask]:
        ranking = yield from portion(rank(model, request), 0, 2)
        return (yield from portion(ranking.mask_steps(model, request.sparsity), 1, 2))

    return steps


def check_request(criterion: Criterion, request: MaskRequest, shape: ModelShape) -> None:
    """Raise `UsageError` for a value out of range or a missing input that the criterion needs."""
    check_sparsity(request.sparsity)
    criterion.check(request)
    if criterion.needs_scores:
        check_effect(criterion.name, request, shape)
    if criterion.needs_calibration and not request.calibration:
        raise UsageError(
            f"The criterion {criterion.name!r} measures activations: give calibration examples, "
            "such as task.calibration(64)."
        )
    if criterion.needs_text and not request.text:
        raise UsageError(
            f"The criterion {criterion.name!r} measures running text beside the calibration examples: give text=, "
            "such as load_task('generic_text').calibration(160)."
        )
    if request.allocation is not None and not request.calibration:
        raise UsageError(
            f"The allocation {request.allocation!r} measures activations: give calibration examples, "
            "such as task.calibration(64)."
        )


def check_effect(name: str, request: MaskRequest, shape: ModelShape) -> None:
    """Raise `UsageError` unless there is one finite effect per head of the model."""
    if request.effect is None:
        raise UsageError(f"The criterion {name!r} is built on head scores: give scores=, from score_heads.")
    expected = (shape.n_layers, shape.n_heads)
    if request.effect.shape != expected:
        raise UsageError(
            f"The effects have shape {request.effect.shape}, but the model has {expected[0]} layers of "
            f"{expected[1]} heads; give the scores of this model."
        )
    bad = np.argwhere(~np.isfinite(request.effect))
    if len(bad):
        layer, head = bad[0]
        raise UsageError(
            f"The effect of layer {layer}, head {head} is {request.effect[layer, head]} "
            f"({len(bad)} of {request.effect.size} are not finite); score the model again."
        )
