"""Several criteria at several sparsities on the same items: what to evaluate, and the table that follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cap_viz.accuracy import against_guessing
from cap_viz.results import EvalReport
from cap_viz.runs import evaluation_set, mask_spec_for
from cap_viz.spec import EvalSpec, ModelRef
from cap_viz.stats import compare_paired
from cap_viz.tasks import Task, check_has_options, load_task

Cell = tuple[str, float]
DENSE: Cell = ("dense", 0.0)


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
) -> dict[Cell, EvalSpec]:
    """(criterion, sparsity) -> evaluation, the dense model first. Raises `UsageError` for unknown names."""
    check_has_options(load_task(task))
    examples = evaluation_set(task, n)
    specs = {DENSE: EvalSpec(model=model, examples=examples)}
    for criterion in criteria:
        for sparsity in sparsities:
            mask = mask_spec_for(model, criterion, sparsity, task=task, n=n_calibration, seed=seed, metric=metric)
            specs[criterion, sparsity] = EvalSpec(model=model, examples=examples, mask=mask)
    return specs


def comparison_rows(task: Task, reports: Mapping[Cell, EvalReport], against: str) -> list[dict[str, Any]]:
    """One row per report: accuracy with interval, and the paired difference to `against` at the same sparsity."""
    return [comparison_row(task, cell, reports, against) for cell in reports]


def comparison_row(task: Task, cell: Cell, reports: Mapping[Cell, EvalReport], against: str) -> dict[str, Any]:
    (criterion, sparsity), report = cell, reports[cell]
    test = against_guessing(task, report)
    other = None if criterion == against else reports.get((against, sparsity))
    return {
        "criterion": criterion,
        "sparsity": sparsity,
        "acc": report.acc,
        "acc_ci": [test.ci.low, test.ci.high],
        "acc_norm": report.acc_norm,
        "chance": test.chance,
        "p_above_chance": test.p_value,
        "against": None if other is None else paired_facts(report, other),
    }


def paired_facts(first: EvalReport, second: EvalReport) -> dict[str, Any]:
    paired = compare_paired(first.correct, second.correct)
    return {
        "difference": paired.difference,
        "ci": [paired.ci.low, paired.ci.high],
        "p": paired.p_value,
        "only_first": paired.only_a,
        "only_second": paired.only_b,
    }
