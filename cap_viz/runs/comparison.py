"""Comparison of several criteria at several sparsities on the same items: specs to evaluate, and the paired table.

A cell is a criterion at a sparsity. The comparisons of the table `comparison_rows` makes are one family: their p-values
are adjusted together (Holm), so that it does not show differences merely because it has many rows. Whether CAP is
better than Wanda is a question with a family of its own (`fixed_question.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from cap_viz.attribution.results import EvalReport
from cap_viz.evaluation.eval_metrics import ACC, Measure, against_guessing, level_of, paired
from cap_viz.models.catalogue import ModelRef
from cap_viz.pruning import CRITERIA
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.spec import EvalSpec
from cap_viz.stats import PairedComparison, family_p
from cap_viz.tasks import Task, check_has_options, load_task
from cap_viz.tasks.example_sets import evaluation_set

Cell = tuple[str, float]
DENSE: Cell = ("dense", 0.0)
# The controls are CAP with every head equally important, and CAP with the importances shuffled across heads: the margin
# over them is what causal scores add.
SUBJECT, CONTROL, PLACEBO = "cap", "global_magnitude", "shuffled_cap"
CONTROLS = (CONTROL, PLACEBO)


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


def counts_weights(criterion: str) -> bool:
    """Whether a criterion's sparsity is a share of weights, which is assumed of criteria not known here."""
    return criterion not in CRITERIA or CRITERIA[criterion].counts_weights


def same_unit(first: str, second: str) -> bool:
    """Whether two criteria remove like shares of weights at one sparsity; dense compares with every criterion."""
    return DENSE[0] in (first, second) or counts_weights(first) == counts_weights(second)


def reference_pairs(cells: Collection[Cell], against: str) -> list[tuple[Cell, Cell]]:
    """Pair every pruned cell with the criterion `against` at its sparsity (or with dense), where both are present.

    A criterion that counts heads is not paired with one that counts weights (see `same_unit`).
    """
    pairs = [(cell, DENSE if against == DENSE[0] else (against, cell[1])) for cell in cells if cell != DENSE]
    return [
        (first, second)
        for first, second in pairs
        if first != second and second in cells and same_unit(first[0], second[0])
    ]


def control_pairs(cells: Collection[Cell], against: str) -> list[tuple[Cell, Cell]]:
    """Pair CAP with its controls, except where `reference_pairs` already does."""
    if against == SUBJECT:
        return []
    return [
        ((SUBJECT, sparsity), (control, sparsity))
        for criterion, sparsity in cells
        for control in CONTROLS
        if criterion == SUBJECT and control != against and (control, sparsity) in cells
    ]


def comparison_rows(
    task: Task, reports: Mapping[Cell, EvalReport], against: str, measure: Measure = ACC
) -> list[dict[str, Any]]:
    """Make one row per report: accuracy, the measure with its interval, and the paired difference to `against`."""
    pairs = reference_pairs(reports, against)
    results = [paired(reports[first], reports[second], measure) for first, second in pairs]
    found = {
        first: {**result_facts(result), "p_holm": p}
        for (first, _), result, p in zip(pairs, results, family_p(results), strict=True)
    }
    return [comparison_row(task, cell, report, found.get(cell), measure) for cell, report in reports.items()]


def comparison_row(
    task: Task, cell: Cell, report: EvalReport, against: dict[str, Any] | None, measure: Measure
) -> dict[str, Any]:
    criterion, sparsity = cell
    test, level = against_guessing(task, report), level_of(report, measure)
    return {
        "criterion": criterion,
        "sparsity": sparsity,
        "acc": report.acc,
        "acc_ci": [test.ci.low, test.ci.high],
        "acc_norm": report.acc_norm,
        "value": level.value,
        "value_ci": [level.ci.low, level.ci.high],
        "chance": test.chance,
        "p_above_chance": test.p_value,
        "against": against,
    }


def result_facts(result: PairedComparison) -> dict[str, Any]:
    """Convert a comparison to plain JSON types, in shares or nats; flips only for right-or-wrong answers."""
    facts = {
        "difference": result.difference,
        "ci": [result.ci.low, result.ci.high],
        "p": result.p_value,
        "minimum_detectable": result.minimum_detectable,
    }
    if result.only_a is not None:
        facts |= {"only_first": result.only_a, "only_second": result.only_b}
    return facts
