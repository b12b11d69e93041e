"""Command `removal`: how good an order of the heads is, by removing heads in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS, check_differentiable, metric_named
from cap_viz.attribution.estimators import ESTIMATORS
from cap_viz.attribution.removal_curve import DRAWS, LEAST_FIRST, MOST_FIRST, RANDOM, SHARES, RemovalCurve, Removals
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
    number,
    split_list,
)
from cap_viz.cli.output import err, out, print_json, records, run_facts
from cap_viz.errors import UsageError, choose
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.run_labels import pruned_words
from cap_viz.runs.spec import ScoreSpec
from cap_viz.settings import N_CALIBRATION
from cap_viz.stats.circuits import rescored_order
from cap_viz.stats.joint import HeadSet
from cap_viz.tasks import check_metric, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, evaluation_set


def removal(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Number of evaluation questions on which heads are removed.")] = 16,
    estimator: Annotated[str, typer.Option(help=f"Estimator that ranks the heads: {', '.join(ESTIMATORS)}.")] = "exact",
    calibration: Annotated[int, typer.Option(help="Number of calibration examples that rank the heads.")] = (
        N_CALIBRATION
    ),
    big_n: Annotated[int, typer.Option("--big-n", help="hybrid: examples measured by their gradient.")] = 128,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score the heads that are left again after every removed share.")
    ] = False,
    shares: Annotated[str, typer.Option(help="Shares of heads that are removed, or kept.")] = ",".join(
        map(str, SHARES)
    ),
    draws: Annotated[int, typer.Option(help="Number of random orders.")] = DRAWS,
    seed: SeedOption = 0,
    metric: EffectMetricOption = "nll",
    ablation: AblationOption = "zero",
    criterion: CriterionOrDenseOption = "",
    sparsity: SparsityWithOption = 0.2,
    as_json: JsonOption = False,
) -> None:
    """Remove heads in the order of their effects, from either end, and in random orders.

    Heads are ranked on calibration examples and removed on evaluation questions. A good order loses much from its top
    and little from its end. CPR (circuit performance ratio) and CMD (circuit-model distance) are those of the MIB
    benchmark (arXiv 2504.13151). With --rescore the order is built from its end: the least important heads are removed
    first, and the others are scored again without them. That takes one scoring more than there are shares.
    """
    from cap_viz.runs.kinds.removal import load_removal, removal_spec

    metric_named(metric)
    chosen = load_task(task)
    check_metric(chosen, metric)
    choose("ablation", ablation, ABLATIONS)
    choose("estimator", estimator, ESTIMATORS)
    if estimator != "exact":
        check_differentiable(metric)
    if rescore and (estimator == "hybrid" or ablation != "zero"):
        raise UsageError("--rescore scores by the exact or the gradient estimator under zero ablation; choose these.")
    wanted = [number(share) for share in split_list("share", shares)]
    runs = ModelRuns(model)
    mask = runs.mask_spec(criterion, sparsity, task, seed)
    ranked_on = calibration_set(chosen, calibration, seed)
    base = ScoreSpec(runs.ref, ranked_on, ablation=ablation, mask=mask)
    if estimator == "gradient":
        base = replace(base, estimator=estimator, metric=metric)
    if estimator == "hybrid":
        ranked_on = calibration_set(chosen, big_n, seed)
        removals = Removals.of_effects(hybrid_effects(runs, base, metric, ranked_on), wanted, draws, seed)
    else:
        removals = Removals.of_effects(effects_without(runs, base, metric), wanted, draws, seed)
    if rescore:
        order = rescored_order(lambda removed: effects_without(runs, base, metric, removed), removals.counts)
        removals = replace(removals, heads=order, by_size=order)
    spec = removal_spec(base, removals, evaluation_set(chosen, n), ranked_on)
    run = runs.get({"": spec})[""]
    found = load_removal(runs.store, run)
    if found.shared:
        err.print(f"{found.shared} of the questions ranked the heads, too, which flatters the order.", highlight=False)
    if as_json:
        print_json(
            {"task": task, "metric": metric, "ablation": ablation, "estimator": estimator, "rescored": rescore}
            | pruned_facts(criterion, sparsity)
            | {"n": len(spec.examples.ids), "draws": draws, "shared": found.shared, "run": run_facts(run)}
            | {"heads": [list(head) for head in found.heads]}
            | {"curves": records(found.rows(metric).drop(columns=["metric", "n"]))}
            | {"areas": records(found.areas(metric))}
        )
        return
    title = f"{task}, {n} questions{pruned_words(mask)}: {metric} above the whole model's ({METRICS[metric].unit})"
    print_curves(found, metric, title)


def print_curves(found: RemovalCurve, metric: str, title: str) -> None:
    table = found.rows(metric)
    listed = Table("removed", MOST_FIRST, LEAST_FIRST, f"{RANDOM}, least and most", title=title)
    rows = {name: table.loc[table["curve"] == name].to_dict("records") for name in (MOST_FIRST, LEAST_FIRST, RANDOM)}
    for place, count in enumerate(found.counts):
        cells = [rows[name][place] for name in rows]
        shown = (f"{one['effect']:+.3f}  {one['ci_low']:+.3f} … {one['ci_high']:+.3f}" for one in cells)
        listed.add_row(f"{count} ({cells[0]['share']:.0%})", *shown)
    out.print(listed)
    summary = Table("area", "value", "95 % interval", "random: median, least … most", "p", "good")
    for row in found.areas(metric).to_dict("records"):
        random = f"{row['random_median']:.3f}, {row['random_low']:.3f} … {row['random_high']:.3f}"
        interval = f"{row['ci_low']:.3f} … {row['ci_high']:.3f}"
        summary.add_row(row["area"], f"{row['value']:.3f}", interval, random, f"{row['p_value']:.3f}", row["better"])
    out.print(summary)
    out.print(
        "most, least: loss above the whole model's, averaged over the share removed from either end. p: share of "
        "orders, this one included, that do at least as well.",
        highlight=False,
        soft_wrap=True,
    )


def effects_without(runs: ModelRuns, spec: ScoreSpec, metric: str, removed: HeadSet = ()) -> np.ndarray:
    """Read or compute the mean effects of all heads with some removed."""
    from cap_viz.runs.kinds.scores import load_effects

    run = runs.get({"": replace(spec, removed=removed or None)})[""]
    return load_effects(runs.store, run).mean_effect(metric)


def hybrid_effects(runs: ModelRuns, exact: ScoreSpec, metric: str, many: ExampleSet) -> np.ndarray:
    from cap_viz.attribution.hybrid import hybrid_scores
    from cap_viz.runs.kinds.scores import load_gradient, load_scores
    from cap_viz.runs.sample_plan import hybrid_specs
    from cap_viz.stats.hybrid import check_sizes

    check_sizes(len(exact.examples.ids), len(many.ids))
    found = runs.get(hybrid_specs(exact, metric, many))
    exact_scores = load_scores(runs.store, found["exact"])
    return hybrid_scores(exact_scores, load_gradient(runs.store, found["gradient"])).mean_effect(metric)
