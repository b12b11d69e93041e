"""Specs of masks, and the masks built from them.

A spec holds only what its criterion uses, so that equal masks have equal keys.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Unpack

import numpy as np
from jaxtyping import Float

from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.progress import Progress
from cap_viz.pruning import MaskRequest, criterion_named
from cap_viz.pruning.mask import Mask, check_sparsity
from cap_viz.pruning.options import MaskFields, MaskOptions, check_pattern_sparsity
from cap_viz.runs.spec import MaskSpec, ScoreSpec
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, companion_text, examples_of

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

# From a spec of head scores and a metric to the mean effects, read or computed.
GetEffect = Callable[[ScoreSpec, str], Generator[Progress, None, Float[np.ndarray, "layer head"]]]


def mask_spec_for(
    model: ModelRef,
    criterion: str,
    sparsity: float,
    *,
    task: str,
    n: int,
    seed: int = 0,
    scores: ScoreSpec | None = None,
    calibration_task: str | None = None,
    scores_task: str | None = None,
    **options: Unpack[MaskFields],
) -> MaskSpec:
    """Make the spec of a mask calibrated on `n` examples of a task.

    `scores` replaces the head scores on these examples. `calibration_task` is the source of activations and gradients
    (generic_text, for example), `scores_task` that of head scores (self-generated solutions, for example); both default
    to `task`. Raises `UsageError` for an unknown name, a sparsity out of range, options that cannot be combined, or
    scores of another model.
    """
    needs, chosen = criterion_named(criterion), MaskOptions(**options)
    needs.check(chosen)
    if needs.needs_scores and scores is None:
        scores = ScoreSpec(model=model, examples=calibration_set(scores_task or task, n, seed))
    calibration = calibration_set(calibration_task or task, n, seed) if needs.measures(chosen) else None
    return mask_spec_from(model, criterion, sparsity, chosen, scores=scores, calibration=calibration)


def mask_spec_from(
    model: ModelRef,
    criterion: str,
    sparsity: float,
    options: MaskOptions,
    *,
    scores: ScoreSpec | None,
    calibration: ExampleSet | None,
) -> MaskSpec:
    """Make a mask spec with only the fields its criterion needs; all others stay None, and so out of its key.

    Raises `UsageError` for an unknown name, a sparsity out of range, options that cannot be combined, or scores of
    another model.
    """
    check_sparsity(sparsity)
    needs = criterion_named(criterion)
    needs.check(options)
    if options.pattern is not None:
        check_pattern_sparsity(options.pattern, sparsity)
    if needs.needs_scores and scores is not None and scores.model != model:
        raise UsageError(
            f"The head scores are of {scores.model.id} with fingerprint {scores.model.fingerprint}, the mask is for "
            f"{model.id} with {model.fingerprint}; score the heads of this model."
        )
    return MaskSpec(
        criterion=criterion,
        sparsity=sparsity,
        scores=scores if needs.needs_scores else None,
        calibration=calibration if needs.measures(options) else None,
        text=companion_text(model) if needs.needs_text else None,
        **needs.used(options).as_fields,
    )


def mask_steps(spec: MaskSpec, model: ReasoningModel, get_effect: GetEffect) -> Generator[Progress, None, Mask]:
    """Build the mask of a spec; head scores it needs come from `get_effect`."""
    request = yield from mask_request(spec, get_effect)
    return (yield from criterion_named(spec.criterion).steps(model, request))


def mask_request(spec: MaskSpec, get_effect: GetEffect) -> Generator[Progress, None, MaskRequest]:
    effect = None
    if spec.scores is not None:
        effect = yield from get_effect(spec.scores, spec.metric or "nll")
    return MaskRequest(
        spec.sparsity,
        effect=effect,
        calibration=None if spec.calibration is None else examples_of(spec.calibration),
        text=None if spec.text is None else examples_of(spec.text),
        **spec.as_fields,
    )
