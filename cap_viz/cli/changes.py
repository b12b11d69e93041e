"""Command `changes`: which heads gained or lost a role when the weights changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS, check_differentiable, metric_named
from cap_viz.attribution.results import ABLATIONS
from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.masking import pruned_facts
from cap_viz.cli.options import (
    AblationOption,
    CriterionOrDenseOption,
    EffectMetricOption,
    JsonOption,
    ModelOption,
    SeedOption,
    SparsityWithOption,
    TaskOption,
)
from cap_viz.cli.output import out, print_json, records, run_facts
from cap_viz.errors import UsageError, choose
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.kinds.scores import STORED_ESTIMATORS, load_changes
from cap_viz.runs.run_labels import percent
from cap_viz.runs.spec import ScoreSpec
from cap_viz.tasks import check_metric, load_task

# Heads in the printed table.
MOST_ROWS = 12


def changes(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Number of evaluation questions on which heads are scored.")] = 32,
    criterion: CriterionOrDenseOption = "",
    sparsity: SparsityWithOption = 0.2,
    against: Annotated[
        str,
        typer.Option(
            help="Compare with this model of the same shape instead, for example the instruct model of a base model."
        ),
    ] = "",
    estimator: Annotated[str, typer.Option(help=f"One of {', '.join(STORED_ESTIMATORS)}.")] = "exact",
    calibration: Annotated[int, typer.Option(help="mean, resample: calibration examples to take values from.")] = 16,
    seed: SeedOption = 0,
    metric: EffectMetricOption = "nll",
    ablation: AblationOption = "zero",
    as_json: JsonOption = False,
) -> None:
    """Compare the effects of all heads before and after pruning, or between two models of one shape.

    The heads of both are scored on the same evaluation questions, which no mask has seen, and paired question by
    question. A head gained a role where its effect grew and it surely helped only afterwards; it lost one where its
    effect fell and it surely helped only before. Where it helps on both sides it is stronger or weaker.
    """
    from cap_viz.tasks.example_sets import calibration_set, evaluation_set

    metric_named(metric)
    chosen = load_task(task)
    check_metric(chosen, metric)
    choose("ablation", ablation, ABLATIONS)
    choose("estimator", estimator, STORED_ESTIMATORS)
    if estimator == "gradient":
        check_differentiable(metric)
    if bool(criterion) == bool(against):
        raise UsageError("Compare with a pruned model (--criterion) or with another model (--against): give one.")
    runs = ModelRuns(model)
    spec = ScoreSpec(
        model=runs.ref,
        examples=evaluation_set(chosen, n),
        estimator=estimator,
        ablation=ablation,
        metric=metric if estimator == "gradient" else None,
        reference=None if ablation == "zero" else calibration_set(chosen, calibration, seed),
    )
    if criterion:
        found = runs.get({"before": spec, "after": replace(spec, mask=runs.mask_spec(criterion, sparsity, task, seed))})
    else:
        other = ModelRuns(against)
        found = runs.get({"before": spec}) | other.get({"after": replace(spec, model=other.ref)})
    result = load_changes(runs.store, found["before"], found["after"])
    table, estimate = result.to_pandas(metric), result.estimated(metric)
    if as_json:
        print_json(
            {"task": task, "metric": metric, "ablation": ablation, "estimator": estimator, "n": estimate.n}
            | {**pruned_facts(criterion, sparsity), "against": against or None}
            | {"runs": {side: run_facts(run) for side, run in found.items()}}
            | {"changes": records(table.drop(columns=["metric", "n"]))}
        )
        return
    unit, to = METRICS[metric].unit, f"{criterion} at {percent(sparsity)}" if criterion else against
    title = f"{task}, {estimate.n} questions, {model} to {to}: effects on {metric} ({unit})"
    listed = Table("head", "before", "after", "change, 95 % interval", "q", "kind", title=title)
    largest = table.sort_values("change", key=lambda change: change.abs(), ascending=False, kind="stable")
    for row in largest.head(MOST_ROWS).to_dict("records"):
        interval = f"{row['change']:+.4f}  {row['ci_low']:+.4f} … {row['ci_high']:+.4f}"
        name, sides = f"L{row['layer']}H{row['head']}", (f"{row[side]:+.4f}" for side in ("before", "after"))
        listed.add_row(name, *sides, interval, f"{row['q_value']:.3f}", row["kind"])
    out.print(listed)
    out.print(
        f"The {min(MOST_ROWS, len(table))} largest of {len(table)} changes. Of all heads {result.counted(metric)}, "
        "at a false discovery rate of 5 %.",
        highlight=False,
        soft_wrap=True,
    )
