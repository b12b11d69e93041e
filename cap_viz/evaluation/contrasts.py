"""Contrasts of several criteria at several sparsities on the same items, and the table made of them.

A cell is a criterion at a sparsity. A contrast is one cell minus another on the same items. Contrasts computed together
are one family: their p-values are adjusted together (Holm), so that a table does not show differences merely because
it has many rows. The rows of `comparison_rows` are comparisons by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cap_viz.attribution.results import EvalReport
from cap_viz.evaluation.eval_metrics import ACC, Measure, against_guessing, level_of, paired
from cap_viz.evaluation.verdict import grade_of
from cap_viz.pruning import CRITERIA
from cap_viz.stats import PairedComparison, family_p
from cap_viz.tasks import Task

Cell = tuple[str, float]
DENSE: Cell = ("dense", 0.0)
# The controls are CAP with every head equally important, and CAP with the importances shuffled across heads: the margin
# over them is what causal scores add.
SUBJECT, CONTROL, PLACEBO = "cap", "global_magnitude", "shuffled_cap"
CONTROLS = (CONTROL, PLACEBO)


@dataclass(frozen=True)
class Contrast:
    """Paired difference `first` minus `second`; `p_holm` is adjusted over the contrasts computed together."""

    first: Cell
    second: Cell
    result: PairedComparison
    p_holm: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0 and the test rejects after adjustment."""
        return grade_of(self.result, self.p_holm) == "clear"


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


def contrasts(
    pairs: Sequence[tuple[Cell, Cell]], compare: Callable[[Cell, Cell], PairedComparison]
) -> tuple[Contrast, ...]:
    """Compute the contrasts of one table, in the order of `pairs`; all pairs are one family for the adjustment."""
    results = [compare(first, second) for first, second in pairs]
    return tuple(
        Contrast(first, second, result, p)
        for (first, second), result, p in zip(pairs, results, family_p(results), strict=True)
    )


def comparison_rows(
    task: Task, reports: Mapping[Cell, EvalReport], against: str, measure: Measure = ACC
) -> list[dict[str, Any]]:
    """Make one row per report: accuracy, the measure with its interval, and the paired difference to `against`."""
    found = {
        first: paired(reports[first], reports[second], measure) for first, second in reference_pairs(reports, against)
    }
    return [comparison_row(task, cell, report, found.get(cell), measure) for cell, report in reports.items()]


def comparison_row(
    task: Task, cell: Cell, report: EvalReport, result: PairedComparison | None, measure: Measure
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
        "against": None if result is None else result_facts(result),
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
