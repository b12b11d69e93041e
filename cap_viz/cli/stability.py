"""Command `stability`: how much the ranking of heads depends on the ablation."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS, metric_named
from cap_viz.attribution.results import ABLATIONS
from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.options import JsonOption, ModelOption, SeedOption, TaskOption, split_list
from cap_viz.cli.output import none_for_nan, out, print_json, run_facts
from cap_viz.errors import UsageError, choose
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.spec import ScoreSpec
from cap_viz.tasks import check_metric, load_task


def stability(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Number of calibration examples.")] = 16,
    seed: SeedOption = 0,
    ablations: Annotated[str, typer.Option(help="Ablations, at least two, separated by commas.")] = ",".join(ABLATIONS),
    metric: Annotated[str, typer.Option(help=f"Metric of the effects: {', '.join(METRICS)}.")] = "nll",
    as_json: JsonOption = False,
) -> None:
    """Compare the rankings of heads by zero, mean and resample ablation on the same examples.

    The diagonal shows the reliability of each ranking, which limits its agreement with the others.
    """
    from cap_viz.runs.kinds.scores import load_scores
    from cap_viz.stats import rank_stability, split_half
    from cap_viz.tasks.example_sets import calibration_set

    metric_named(metric)
    check_metric(load_task(task), metric)
    names = tuple(dict.fromkeys(split_list("ablation", ablations)))
    for name in names:
        choose("ablation", name, ABLATIONS)
    if len(names) < 2:
        raise UsageError(f"{ablations!r} is a single ablation; name at least two to compare.")
    examples, runs = calibration_set(task, n, seed), ModelRuns(model)
    found = runs.get({name: ScoreSpec(model=runs.ref, examples=examples, ablation=name) for name in names})
    scores = {name: load_scores(runs.store, run) for name, run in found.items()}
    agreement = rank_stability({name: read.mean_effect(metric) for name, read in scores.items()})
    reliability = {name: split_half(read.effects(metric)).full for name, read in scores.items()}
    if as_json:
        print_json(
            {"task": task, "metric": metric, "n": n, "ablations": list(names)}
            | {"runs": {name: run_facts(run) for name, run in found.items()}}
            | {"spearman": none_for_nan(agreement.spearman), "overlap": agreement.overlap.tolist()}
            | {"top": agreement.top, "overlap_by_chance": agreement.overlap_by_chance, "reliability": reliability}
        )
        return
    table = Table("", *names, title=f"{task}, {n} examples, {metric}: rank correlation (overlap of the top)")
    for i, name in enumerate(names):
        cells = [
            f"reliability {reliability[name]:.2f}"
            if i == j
            else f"{agreement.spearman[i, j]:.2f} ({agreement.overlap[i, j]:.0%})"
            for j in range(len(names))
        ]
        table.add_row(name, *cells)
    out.print(table)
    out.print(f"Top {agreement.top} heads; unrelated rankings share {agreement.overlap_by_chance:.0%} of them.")
