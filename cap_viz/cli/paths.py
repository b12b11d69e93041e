"""Command `paths`: what heads do through single receivers of their output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS, metric_named
from cap_viz.attribution.path_scores import DEFAULT_K, PATH_PARTS, check_circuit
from cap_viz.attribution.results import ABLATIONS, largest_first
from cap_viz.cli.computing import ModelRuns, strongest
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
    head_list,
    split_list,
)
from cap_viz.cli.output import out, print_json, records, run_facts
from cap_viz.errors import choose
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.spec import PathSpec, ScoreSpec
from cap_viz.tasks import check_metric, load_task

if TYPE_CHECKING:
    import pandas as pd

# Paths in the printed table.
MOST_ROWS = 15


def paths(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Number of evaluation questions on which paths are measured.")] = 16,
    top: Annotated[int, typer.Option(help="Number of heads, those with the largest effects.")] = DEFAULT_K,
    heads: Annotated[str, typer.Option(help="These sending heads instead, for example L0H1,L2H3,L5H0.")] = "",
    receivers: Annotated[str, typer.Option(help="Receiving heads; the sending ones if left out.")] = "",
    parts: Annotated[
        str, typer.Option(help=f"Parts of a receiving head that see the change: {', '.join(PATH_PARTS)}, or several.")
    ] = "all",
    calibration: Annotated[int, typer.Option(help="Number of calibration examples whose effects rank the heads.")] = 16,
    seed: SeedOption = 0,
    metric: EffectMetricOption = "nll",
    ablation: AblationOption = "zero",
    criterion: CriterionOrDenseOption = "",
    sparsity: SparsityWithOption = 0.2,
    as_json: JsonOption = False,
) -> None:
    """Measure paths from heads to later heads, to MLPs and to the answer.

    The effect of a path is the change of the metric when only its receiver sees the sender's output replaced. Heads are
    ranked on calibration examples, and paths measured on the first evaluation questions. The paths of a sender do not
    add up to its total effect: the remainder is shown.
    """
    from cap_viz.runs.kinds.paths import load_paths
    from cap_viz.tasks.example_sets import calibration_set, evaluation_set

    metric_named(metric)
    chosen = load_task(task)
    check_metric(chosen, metric)
    choose("ablation", ablation, ABLATIONS)
    named, into, wanted = head_list(heads), head_list(receivers), tuple(split_list("part", parts))
    for part in wanted:
        choose("part of the receiver", part, PATH_PARTS)
    if named:
        check_circuit(named, into or None, wanted)
    runs = ModelRuns(model)
    mask = runs.mask_spec(criterion, sparsity, task, seed)
    questions, values_from = evaluation_set(chosen, n), None
    # Calibration examples rank the heads, and give the values of mean and resample ablation.
    if not named or ablation != "zero":
        examples = calibration_set(chosen, calibration, seed)
        values_from = None if ablation == "zero" else examples
        named = named or strongest(runs, ScoreSpec(runs.ref, examples, ablation=ablation), metric, top)
    receiving = tuple(sorted(into)) or None
    spec = PathSpec(runs.ref, questions, tuple(sorted(named)), receiving, wanted, ablation, values_from, mask)
    run = runs.get({"": spec})[""]
    scores = load_paths(runs.store, run)
    table, sums = scores.to_pandas(metric), scores.balance(metric) if scores.has_sums else None
    if as_json:
        print_json(
            {"task": task, "metric": metric, "ablation": ablation, "n": len(scores.questions), "run": run_facts(run)}
            | {"heads": [list(head) for head in scores.senders]}
            | pruned_facts(criterion, sparsity)
            | {"paths": records(table.drop(columns=["metric", "n"]))}
            | {"balance": None if sums is None else records(sums)}
        )
        return
    unit, pruned = METRICS[metric].unit, f", {criterion} at {sparsity:g}" if criterion else ""
    title = f"{task}, {len(scores.questions)} questions{pruned}: paths, effect on {metric} ({unit})"
    listed = Table("sender", "receiver", "part", "effect, 95 % interval", "q", title=title)
    for row in largest_first(table).head(MOST_ROWS).to_dict("records"):
        interval = f"{row['mean_effect']:+.4f}  {row['ci_low']:+.4f} … {row['ci_high']:+.4f}"
        listed.add_row(row["sender"], row["receiver"], row["part"], interval, f"{row['q_value']:.3f}")
    out.print(listed)
    if sums is not None:
        print_sums(sums, f"Sum over the receivers of each head ({unit})")
    out.print(
        f"The {min(MOST_ROWS, len(table))} largest of {len(table)} paths. Positive: the path helps. q: false discovery "
        "rate over all paths.",
        highlight=False,
        soft_wrap=True,
    )


def print_sums(sums: pd.DataFrame, title: str) -> None:
    names = ("total", "answer", "heads", "mlps")
    table = Table("sender", *names, "remainder, 95 % interval", title=title)
    for row in sums.to_dict("records"):
        rest = f"{row['remainder']:+.4f}  {row['ci_low']:+.4f} … {row['ci_high']:+.4f}"
        table.add_row(row["sender"], *(f"{row[name]:+.4f}" for name in names), rest)
    out.print(table)
    out.print(
        "Remainder: total minus answer, heads and MLPs. It holds the heads that are not listed, and what paths do "
        "together.",
        highlight=False,
        soft_wrap=True,
    )
