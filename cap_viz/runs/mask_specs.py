"""Construction of mask specs with only the fields the criterion needs, so that equal masks have equal keys."""

from __future__ import annotations

from cap_viz.attribution.effect_metrics import metric_named
from cap_viz.errors import UsageError, choose
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning import criterion_named
from cap_viz.pruning.criterion import check_pattern_sparsity, check_spread
from cap_viz.pruning.mask import SCOPES, check_sparsity
from cap_viz.runs.spec import MaskSpec, ScoreSpec
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, companion_text


def mask_spec_for(
    model: ModelRef,
    criterion: str,
    sparsity: float,
    *,
    task: str,
    n: int,
    seed: int = 0,
    metric: str = "nll",
    kv_combine: str = "mean",
    scope: str = "both",
    scores: ScoreSpec | None = None,
    calibration_task: str | None = None,
    scores_task: str | None = None,
    control_seed: int = 0,
    allocation: str | None = None,
    pattern: str | None = None,
) -> MaskSpec:
    """Make the spec of a mask calibrated on `n` examples of a task; fields the criterion does not need stay None.

    `scores` replaces the head scores on these examples. `calibration_task` is the source of activations and gradients
    (generic_text, for example), `scores_task` that of head scores (self-generated solutions, for example); both default
    to `task`. Raises `UsageError` for an unknown name, a sparsity out of range, options that cannot be combined, or
    scores of another model.
    """
    metric_named(metric)
    needs = criterion_named(criterion)
    if needs.needs_scores and scores is None:
        scores = ScoreSpec(model=model, examples=calibration_set(scores_task or task, n, seed))
    calibration = None
    if needs.needs_calibration or allocation is not None:
        calibration = calibration_set(calibration_task or task, n, seed)
    text = companion_text(model) if needs.needs_text else None
    spec = mask_spec_from(
        criterion,
        sparsity,
        scope=scope,
        scores=scores,
        metric=metric,
        kv_combine=kv_combine,
        calibration=calibration,
        text=text,
        control_seed=control_seed,
        allocation=allocation,
        pattern=pattern,
    )
    if spec.scores is not None and spec.scores.model != model:
        raise UsageError(
            f"The head scores are of {spec.scores.model.id} with fingerprint {spec.scores.model.fingerprint}, the mask "
            f"is for {model.id} with {model.fingerprint}; score the heads of this model."
        )
    return spec


def mask_spec_from(
    criterion: str,
    sparsity: float,
    *,
    scope: str,
    scores: ScoreSpec | None,
    metric: str,
    kv_combine: str,
    calibration: ExampleSet | None,
    text: ExampleSet | None,
    control_seed: int = 0,
    allocation: str | None = None,
    pattern: str | None = None,
) -> MaskSpec:
    """Make a mask spec with only the fields its criterion needs; all others stay None, and so out of its key.

    Raises `UsageError` for an unknown name, a sparsity out of range or options that cannot be combined.
    """
    check_sparsity(sparsity)
    choose("scope", scope, SCOPES)
    needs = criterion_named(criterion)
    check_spread(needs, allocation=allocation, pattern=pattern)
    if pattern is not None:
        check_pattern_sparsity(pattern, sparsity)
    return MaskSpec(
        criterion=criterion,
        sparsity=sparsity,
        scope=scope,
        scores=scores if needs.needs_scores else None,
        metric=metric if needs.needs_scores else None,
        kv_combine=kv_combine if needs.needs_scores else None,
        calibration=calibration if needs.needs_calibration or allocation is not None else None,
        text=text if needs.needs_text else None,
        control_seed=control_seed if needs.needs_seed else None,
        allocation=allocation,
        pattern=pattern,
    )
