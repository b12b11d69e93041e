"""Describing a mask: what its criterion needs, and nothing that it does not, so that equal masks have equal keys."""

from __future__ import annotations

from cap_viz.attribution.effect_metrics import metric_named
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning import criterion_named
from cap_viz.pruning.criterion import check_pattern_sparsity, check_spread
from cap_viz.pruning.mask import check_scope, check_sparsity
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
    """The mask a criterion makes from `n` calibration examples of a task; fields it does not need stay None.

    `scores` names other head scores to build on. `calibration_task` names another source of the text whose
    activations and gradients are measured (generic_text, say), `scores_task` one of the head scores (solutions the
    model wrote itself, say); both are `task` where left out. Raises `UsageError` for an unknown name, a sparsity out
    of range, options that do not go together, or scores of another model.
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
    """The mask described by what its criterion needs: every other field stays None, and so out of its key.

    Raises `UsageError` for an unknown name, a sparsity out of range or options that do not go together.
    """
    check_sparsity(sparsity)
    check_scope(scope)
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
