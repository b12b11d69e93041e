"""Building the mask of a spec: the inputs it names, then the criterion's steps."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from cap_viz.progress import Progress
from cap_viz.pruning import MaskRequest, criterion_named
from cap_viz.pruning.mask import Mask
from cap_viz.runs.spec import MaskSpec, ScoreSpec
from cap_viz.tasks.example_sets import examples_of

if TYPE_CHECKING:
    from cap_viz.models.loading import ReasoningModel

# From a spec of head scores and a metric to the mean effects, read or computed.
GetEffect = Callable[[ScoreSpec, str], Generator[Progress, None, Float[np.ndarray, "layer head"]]]


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
