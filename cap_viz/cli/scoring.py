"""Command `score`: the causal effect of every attention head."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS, check_differentiable, metric_named
from cap_viz.attribution.results import ABLATIONS
from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.masking import pruned_facts
from cap_viz.cli.options import (
    AddressOption,
    BackendOption,
    CriterionOrDenseOption,
    JsonOption,
    ModelOption,
    PromptOption,
    SeedOption,
    SparsityWithOption,
    TaskOption,
    WorkersOption,
    read_ids,
)
from cap_viz.cli.output import check_new, err, none_for_nan, out, print_json, run_facts, write_new
from cap_viz.errors import UsageError, choose
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.rounding_noise import noise_floor
from cap_viz.runs.backends import requested_backend
from cap_viz.runs.run_labels import ablation_words, prompt_words, pruned_words
from cap_viz.runs.run_queries import as_run_of
from cap_viz.runs.spec import ScoreSpec
from cap_viz.tasks import check_metric, load_task
from cap_viz.tasks.wordings import with_line_breaks

if TYPE_CHECKING:
    from cap_viz.runs.store import Store, StoredRun
    from cap_viz.stats import HeadEstimate


def score(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Number of calibration examples.")] = 16,
    seed: SeedOption = 0,
    estimator: Annotated[str, typer.Option(help="Estimator of the effects: exact, gradient or hybrid.")] = "exact",
    big_n: Annotated[int, typer.Option("--big-n", help="hybrid: examples measured by their gradient.")] = 128,
    slope: Annotated[
        str, typer.Option(help="hybrid: slope of the gradient: fitted, to each head, or one, fixed and unbiased.")
    ] = "fitted",
    minutes: Annotated[
        float | None, typer.Option(help="hybrid: choose n and big-n for this time, from a pilot of 16 examples.")
    ] = None,
    half_width: Annotated[
        float | None, typer.Option(help="hybrid: choose n and big-n for this median half-width of the intervals.")
    ] = None,
    metric: Annotated[str, typer.Option(help=f"Metric of the effects: {', '.join(METRICS)}.")] = "nll",
    ablation: Annotated[str, typer.Option(help=f"Replacement of a head's output: {', '.join(ABLATIONS)}.")] = "zero",
    reference_n: Annotated[
        int | None,
        typer.Option(help="mean, resample: calibration examples to take values from; as many as --n if left out."),
    ] = None,
    reference_seed: Annotated[int, typer.Option(help="Seed for drawing reference examples and partners.")] = 0,
    parts: Annotated[
        str, typer.Option(help="Parts to ablate: heads, or blocks (attention layers and MLPs).")
    ] = "heads",
    criterion: CriterionOrDenseOption = "",
    sparsity: SparsityWithOption = 0.2,
    mib: Annotated[
        Path | None, typer.Option(help="Write the effects as importances to this file, for MIB's circuit leaderboard.")
    ] = None,
    prompt: PromptOption = None,
    ids: Annotated[Path | None, typer.Option(help="Score these example ids (one per line, any split).")] = None,
    full: Annotated[bool, typer.Option("--full", help="With --json: add effects per example and raw values.")] = False,
    backend: BackendOption = "",
    address: AddressOption = "",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the causal effect of every attention head on a task.

    The exact estimator ablates each head in turn. The gradient estimates all heads at once, to first order. The hybrid
    estimator measures n examples exactly and big-n by their gradient; it stores both runs and combines them anew each
    time. With --minutes or --half-width a pilot of 16 examples chooses n and big-n, which then stay fixed. With
    --criterion the heads of the pruned model are measured.
    """
    from cap_viz.attribution.estimators import ESTIMATORS
    from cap_viz.attribution.mib import graph_of
    from cap_viz.progress import duration
    from cap_viz.runs.sample_plan import hybrid_specs, pilot_specs, plan_from
    from cap_viz.stats.hybrid import FEWEST_EXACT, check_combinable, check_sizes, slope_named
    from cap_viz.tasks.example_sets import calibration_set, named_set

    metric_named(metric)
    choose("estimator", estimator, ESTIMATORS)
    choose("ablation", ablation, ABLATIONS)
    choose("part of the model", parts, ("heads", "blocks"))
    if parts == "blocks" and estimator != "exact":
        raise UsageError("Whole attention layers and MLPs are measured by the exact estimator only.")
    if parts == "blocks" and mib is not None:
        raise UsageError("--mib writes importances of heads; leave out --parts blocks.")
    if mib is not None:
        check_new(mib)
    if ablation == "zero" and reference_n is not None:
        raise UsageError("Zero ablation takes no values from other examples; leave out --reference-n.")
    chosen = load_task(task)
    check_metric(chosen, metric)
    hybrid = estimator == "hybrid"
    if estimator == "gradient":
        check_differentiable(metric)
    if not hybrid and (minutes is not None or half_width is not None):
        raise UsageError("--minutes and --half-width plan a hybrid run; add --estimator hybrid or leave them out.")
    if hybrid:
        check_combinable(metric)
        slope_named(slope)
        if ids is not None:
            raise UsageError("The hybrid estimator draws its examples at random; leave out --ids.")
    runs, planned = ModelRuns(model, requested_backend(backend, address, workers)), None
    mask = runs.mask_spec(criterion, sparsity, task, seed)
    asked = None if prompt is None else with_line_breaks(prompt)
    drawn = partial(calibration_set, chosen, seed=seed, prompt=asked)
    if minutes is not None or half_width is not None:
        few = ScoreSpec(runs.ref, drawn(FEWEST_EXACT), ablation=ablation, mask=mask)
        pilot = runs.get(pilot_specs(few, metric))
        planned = plan_from(
            runs.store,
            pilot,
            available=len(chosen.splits.calibration),
            seconds=None if minutes is None else 60 * minutes,
            half_width=half_width,
        )
        err.print(
            f"Planned: {planned.n} examples exactly and {planned.n_gradient} by gradient, about "
            f"{duration(planned.seconds)} for a median interval of ± {planned.half_width:.3g}.",
            highlight=False,
            soft_wrap=True,
        )
        n, big_n = planned.n, planned.n_gradient
    if hybrid:
        check_sizes(n, big_n)
    examples = drawn(n) if ids is None else named_set(chosen, read_ids(ids), asked)
    reference = None if reference_n is None else drawn(reference_n, seed=reference_seed)
    exact = ScoreSpec(
        model=runs.ref,
        examples=examples,
        ablation=ablation,
        reference=None if reference == examples else reference,
        parts=None if parts == "heads" else parts,
        mask=mask,
    )
    if hybrid:
        found = runs.get(hybrid_specs(exact, metric, drawn(big_n)))
    elif estimator == "gradient":
        found = runs.get({estimator: replace(exact, estimator=estimator, metric=metric)})
    else:
        found = runs.get({estimator: exact})
    if parts == "blocks":
        block_report(runs.store, found["exact"], metric, as_json=as_json)
        return
    if hybrid:
        estimate, content = hybrid_content(runs.store, found, slope)
    else:
        estimate, content = single_content(runs.store, found[estimator], metric, full)
    rounding = noise_floor(runs.ref.dtype, metric, estimate.mean, estimate.n) if estimator == "exact" else None
    if mib is not None:
        write_new(mib, json.dumps(graph_of(runs.model, estimate.mean)))
        err.print(f"Wrote importances of {estimate.mean.size} heads to {mib}", highlight=False, soft_wrap=True)
    if as_json:
        about = {"task": task, "metric": metric, "estimator": estimator, "ablation": ablation}
        about |= pruned_facts(criterion, sparsity)
        about |= {} if rounding is None else {"noise_floor": asdict(rounding)}
        limits = {"ci_low": none_for_nan(estimate.low), "ci_high": none_for_nan(estimate.high)}
        content |= {} if planned is None else {"planned": asdict(planned)}
        print_json(content | about | {"mean_effect": estimate.mean.tolist()} | limits)
        return
    counted = f"{estimate.n} examples" + (f" exactly and {big_n} by gradient" if hybrid else "")
    print_top_heads(estimate, metric, f"{task}, {counted}{pruned_words(mask)}{prompt_words(exact.examples)}", exact)
    if rounding is not None and rounding.below:
        out.print(str(rounding), highlight=False)


def single_content(store: Store, run: StoredRun, metric: str, full: bool) -> tuple[HeadEstimate, dict[str, Any]]:
    """Return one run's mean effects with intervals, and its other facts for `score --json`."""
    from cap_viz.attribution.results import GradientEffects
    from cap_viz.runs.kinds.scores import load_effects
    from cap_viz.stats import mean_with_ci

    scores = load_effects(store, run)
    effects = scores.effects(metric)
    content = run_facts(run) | {"n": len(scores.questions), "example_ids": list(scores.questions.ids)}
    if full:
        content["effects"] = effects.tolist()
        content["gold"] = scores.questions.gold.tolist()
        if isinstance(scores, GradientEffects):
            content["known_loglik"] = none_for_nan(scores.known_logliks)
            content["unit_effect"] = None if scores.units is None else scores.units.tolist()
        else:
            content["dense_loglik"] = none_for_nan(scores.dense)
            content["ablated_loglik"] = none_for_nan(scores.ablated)
    return mean_with_ci(effects), content


def hybrid_content(store: Store, found: dict[str, StoredRun], slope: str) -> tuple[HeadEstimate, dict[str, Any]]:
    """Combine an exact and a gradient run; return the estimate and the other facts for `score --json`."""
    from cap_viz.attribution.hybrid import hybrid_scores
    from cap_viz.runs.kinds.scores import load_gradient, load_scores
    from cap_viz.stats.hybrid import slope_named

    gradient = load_gradient(store, found["gradient"])
    estimate = hybrid_scores(load_scores(store, found["exact"]), gradient, slope=slope_named(slope)).estimate
    content = {
        "model": found["exact"].spec.model.id,
        "runs": {name: run_facts(run) for name, run in found.items()},
        "n": estimate.n,
        "n_gradient": estimate.n_gradient,
        "example_ids": list(gradient.questions.ids),
        "slope": estimate.slope.tolist(),
    }
    return estimate, content


def block_report(store: Store, run: StoredRun, metric: str, *, as_json: bool) -> None:
    """Print the effects of whole attention layers and MLPs."""
    from cap_viz.attribution.results import BLOCK_PARTS
    from cap_viz.runs.kinds.scores import load_blocks
    from cap_viz.stats import mean_with_ci

    scores = load_blocks(store, run)
    spec, estimate = as_run_of(run, ScoreSpec).spec, mean_with_ci(scores.effects(metric))
    task, mask = spec.examples.task, spec.mask
    if as_json:
        print_json(
            run_facts(run)
            | {"n": estimate.n, "task": task, "metric": metric, "estimator": "exact"}
            | {"ablation": spec.ablation}
            | {"criterion": "dense" if mask is None else mask.criterion}
            | {"sparsity": 0.0 if mask is None else mask.sparsity}
            | {"parts": list(BLOCK_PARTS), "example_ids": list(scores.questions.ids)}
            | {"mean_effect": estimate.mean.tolist()}
            | {"ci_low": none_for_nan(estimate.low), "ci_high": none_for_nan(estimate.high)}
        )
        return
    title = f"{task}, {estimate.n} examples{pruned_words(mask)}: effect on {metric} with 95 % interval"
    table = Table("layer", "whole attention", "MLP", title=title)
    for layer in range(scores.n_layers):
        cells = [
            f"{estimate.mean[layer, part]:+.4f}  {interval(estimate.low[layer, part], estimate.high[layer, part])}"
            for part in range(len(BLOCK_PARTS))
        ]
        table.add_row(str(layer), *cells)
    out.print(table)
    words = ablation_words(spec)
    out.print(f"Positive: {words.doing} the part{words.by} hurts.", highlight=False, soft_wrap=True)


def interval(low: float, high: float) -> str:
    return "needs more examples" if isnan(low) else f"{low:+.4f} … {high:+.4f}"


def print_top_heads(estimate: HeadEstimate, metric: str, title: str, spec: ScoreSpec) -> None:
    from cap_viz.stats import rank_heads

    rank = rank_heads(estimate.mean)
    table = Table("rank", "head", f"effect on {metric}", "95 % interval", title=title)
    for place in range(1, min(10, rank.size) + 1):
        layer, head = divmod(int((rank == place).argmax()), rank.shape[1])
        low, high = estimate.low[layer, head], estimate.high[layer, head]
        table.add_row(str(place), f"L{layer} H{head}", f"{estimate.mean[layer, head]:+.4f}", interval(low, high))
    out.print(table)
    words = ablation_words(spec)
    out.print(
        f"Positive: {words.doing} the head{words.by} hurts. The full grid: the dashboard's Heads page, or --json.",
        highlight=False,
        soft_wrap=True,
    )
