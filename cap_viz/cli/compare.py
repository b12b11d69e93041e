"""Command `compare`: criteria at several sparsities on the same items.

The fixed question (`runs/fixed_question.py`) has one p, here and on the pages; every other difference stands alone with
its interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.options import (
    AddressOption,
    BackendOption,
    CalibrationTaskOption,
    JsonOption,
    MetricOption,
    ModelOption,
    SeedOption,
    TaskOption,
    WorkersOption,
    number,
    split_list,
)
from cap_viz.cli.output import out, print_json
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.backends import requested_backend
from cap_viz.runs.run_labels import percent
from cap_viz.settings import MAIN_CRITERIA, N_CALIBRATION, SPARSITIES
from cap_viz.tasks import load_task

if TYPE_CHECKING:
    from cap_viz.evaluation.eval_metrics import Measure


def compare(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Evaluation examples (the first n in source order).")] = 600,
    criteria: Annotated[str, typer.Option(help="Criteria, separated by commas.")] = ",".join(MAIN_CRITERIA),
    sparsities: Annotated[str, typer.Option(help="Sparsities, separated by commas.")] = ",".join(map(str, SPARSITIES)),
    against: Annotated[str, typer.Option(help="Reference of every comparison: a criterion, or dense.")] = "wanda",
    n_calibration: Annotated[int, typer.Option(help="Calibration examples of the criteria.")] = N_CALIBRATION,
    seed: SeedOption = 0,
    metric: MetricOption = "nll",
    calibration_task: CalibrationTaskOption = None,
    measure: Annotated[str, typer.Option(help="Measure to compare: acc, acc_norm or choice_nll (a loss).")] = "acc",
    backend: BackendOption = "",
    address: AddressOption = "",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare criteria at several sparsities on the same items, each paired against one reference."""
    from cap_viz.evaluation.eval_metrics import measure_named
    from cap_viz.pruning import criterion_title
    from cap_viz.runs.comparison import DENSE, comparison_rows, comparison_specs
    from cap_viz.runs.fixed_question import OUTSIDE, answers_by_pair
    from cap_viz.runs.kinds.evaluation import load_report

    # Every comparison includes the dense model; as the reference it is not a criterion to prune by.
    reference, wanted = [] if against == DENSE[0] else [against], measure_named(measure)
    names = tuple(dict.fromkeys([*split_list("criterion", criteria), *reference]))
    shares = tuple(dict.fromkeys(number(text) for text in split_list("sparsity", sparsities)))
    runs = ModelRuns(model, requested_backend(backend, address, workers))
    specs = comparison_specs(
        runs.ref,
        task,
        names,
        shares,
        n=n,
        n_calibration=n_calibration,
        seed=seed,
        metric=metric,
        calibration_task=calibration_task,
    )
    computed = runs.get(specs)
    reports = {cell: load_report(runs.store, run) for cell, run in computed.items()}
    rows = comparison_rows(load_task(task), reports, against, wanted)
    asked = answers_by_pair(runs.store, runs.store.runs(), runs.ref, load_task(task), against, wanted)
    for row in rows:
        if row["against"] is not None:
            sparsity = row["sparsity"]
            first, second = computed[row["criterion"], sparsity], computed.get((against, sparsity), computed[DENSE])
            answer = asked.get((first.key, second.key))
            row["against"] |= {
                "p_holm": None if answer is None else answer.p,
                "verdict": OUTSIDE if answer is None else answer.outcome(criterion_title(against)),
            }
    if as_json:
        print_json({"task": task, "model": model, "n": n, "against": against, "measure": measure, "rows": rows})
        return
    out.print(comparison_table(rows, wanted, f"{task}, {n} items", against))
    out.print(
        "The fixed question is CAP minus the better Wanda, or minus a control, at 10, 20 and 50 % on the largest "
        "stored set of questions; p is adjusted over these three (Holm). Every other interval stands alone."
    )


def comparison_table(rows: list[dict[str, Any]], measure: Measure, title: str, against: str) -> Table:
    """Format comparison rows as a table; `measure.scale` turns shares into percent."""
    paired = f"minus {against}, {measure.steps}"
    table = Table("criterion", "sparsity", measure.name, "95 % interval", paired, "fixed question", title=title)
    scale, unit = measure.scale, measure.unit if measure.is_share else ""
    digits = 1 if measure.is_share else 3
    for row in rows:
        value, low, high = (f"{scale * number:.{digits}f}{unit}" for number in (row["value"], *row["value_ci"]))
        cells = [row["criterion"], percent(row["sparsity"]), value, f"{low} … {high}"]
        found = row["against"]
        if found is not None:
            step, low, high = (f"{scale * number:+.{digits}f}" for number in (found["difference"], *found["ci"]))
            p = found["p_holm"]
            cells += [f"{step} [{low}, {high}]", found["verdict"] if p is None else f"{found['verdict']}, p = {p:.2g}"]
        table.add_row(*cells)
    return table
