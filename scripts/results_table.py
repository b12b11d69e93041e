"""Print the README's results table from the shipped runs:  python -m scripts.results_table"""

from __future__ import annotations

from pathlib import Path

from cap_viz.finding import eval_runs, model_ref
from cap_viz.models import DEFAULT_MODEL
from cap_viz.results import EvalReport
from cap_viz.runs import read_report
from cap_viz.shipped import CRITERIA, N_EVALUATION, SPARSITIES, TASKS
from cap_viz.spec import EvalSpec
from cap_viz.stats import compare_paired, wilson
from cap_viz.store import Store

Cell = tuple[str, float]


def shipped_reports(store: Store, task: str) -> dict[Cell, EvalReport]:
    """(criterion, sparsity) -> report; the dense model is ("dense", 0.0)."""
    found: dict[Cell, EvalReport] = {}
    for run in eval_runs(store.runs(), model_ref(store, DEFAULT_MODEL), task, N_EVALUATION):
        if run.origin == "precomputed" and isinstance(run.spec, EvalSpec):
            mask = run.spec.mask
            cell = ("dense", 0.0) if mask is None else (mask.criterion, mask.sparsity)
            found[cell] = read_report(store, run)
    return found


def accuracy_text(report: EvalReport) -> str:
    interval = wilson(int(report.correct.sum()), len(report))
    return f"{report.acc:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def difference_text(first: EvalReport, second: EvalReport) -> str:
    paired = compare_paired(first.correct, second.correct)
    low, high = 100 * paired.ci.low, 100 * paired.ci.high
    return f"{100 * paired.difference:+.1f} [{low:+.1f}, {high:+.1f}], p = {paired.p_value:.2g}"


def results_table(store: Store) -> str:
    lines = [
        "| task | sparsity | " + " | ".join(CRITERIA) + " | cap − wanda, points |",
        "|---|---|" + "---|" * (len(CRITERIA) + 1),
    ]
    for task in TASKS:
        reports = shipped_reports(store, task)
        dense = accuracy_text(reports["dense", 0.0])
        lines.append(f"| {task} | dense | {dense} |" + " |" * len(CRITERIA))
        for sparsity in SPARSITIES:
            cells = [accuracy_text(reports[criterion, sparsity]) for criterion in CRITERIA]
            cells.append(difference_text(reports["cap", sparsity], reports["wanda", sparsity]))
            lines.append(f"| {task} | {sparsity:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(results_table(Store(local=Path("none"))))
