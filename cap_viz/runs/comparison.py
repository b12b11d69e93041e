"""Specs of a comparison: the dense model and several criteria at several sparsities on the same items.

What is made of their reports is in `evaluation/contrasts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from cap_viz.evaluation.contrasts import (
    CONTROL,
    CONTROLS,
    DENSE,
    PLACEBO,
    SUBJECT,
    Cell,
    comparison_rows,
    control_pairs,
    counts_weights,
    reference_pairs,
    result_facts,
    same_unit,
)
from cap_viz.models.catalogue import ModelRef
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.spec import EvalSpec
from cap_viz.tasks import check_has_options, load_task
from cap_viz.tasks.example_sets import evaluation_set

# The names of the table can be taken from here, too.
__all__ = [
    "CONTROL",
    "CONTROLS",
    "DENSE",
    "PLACEBO",
    "SUBJECT",
    "Cell",
    "comparison_rows",
    "comparison_specs",
    "control_pairs",
    "counts_weights",
    "reference_pairs",
    "result_facts",
    "same_unit",
]


def comparison_specs(
    model: ModelRef,
    task: str,
    criteria: Sequence[str],
    sparsities: Sequence[float],
    *,
    n: int,
    n_calibration: int,
    seed: int = 0,
    metric: str = "nll",
    calibration_task: str | None = None,
) -> dict[Cell, EvalSpec]:
    """Make the evaluation spec of every cell, the dense model first. Raises `UsageError` for unknown names."""
    check_has_options(load_task(task))
    examples = evaluation_set(task, n)
    specs = {DENSE: EvalSpec(model=model, examples=examples)}
    for criterion in criteria:
        for sparsity in sparsities:
            mask = mask_spec_for(
                model,
                criterion,
                sparsity,
                task=task,
                n=n_calibration,
                seed=seed,
                metric=metric,
                calibration_task=calibration_task,
            )
            specs[criterion, sparsity] = EvalSpec(model=model, examples=examples, mask=mask)
    return specs
