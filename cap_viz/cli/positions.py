"""Command `positions`: effects of heads by span of the prompt, or by step of a worked solution."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS, check_differentiable, metric_named
from cap_viz.attribution.position_effects import PositionEffects
from cap_viz.attribution.results import ABLATIONS
from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.masking import pruned_facts
from cap_viz.cli.options import (
    AblationOption,
    CriterionOrDenseOption,
    JsonOption,
    ModelOption,
    SeedOption,
    SparsityWithOption,
    TaskOption,
    head_list,
)
from cap_viz.cli.output import out, print_json, records, run_facts
from cap_viz.errors import UsageError, choose
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.run_labels import pruned_words
from cap_viz.runs.spec import PositionSpec
from cap_viz.tasks import check_metric, load_task
from cap_viz.tasks.spans import BYS

DEFAULT_TOP = 12


def positions(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    by: Annotated[str, typer.Option(help=f"Split effects by {' or '.join(BYS)}.")] = "span",
    n: Annotated[int, typer.Option("--n", help="Number of evaluation questions.")] = 16,
    heads: Annotated[str, typer.Option(help="Measure these heads exactly, for example L0H1,L2H3,L5H0.")] = "",
    calibration: Annotated[int, typer.Option(help="mean, resample: calibration examples to take values from.")] = 16,
    seed: SeedOption = 0,
    metric: Annotated[str, typer.Option(help=f"One of {', '.join(METRICS)}; steps have nll only.")] = "nll",
    ablation: AblationOption = "zero",
    criterion: CriterionOrDenseOption = "",
    sparsity: SparsityWithOption = 0.2,
    top: Annotated[int, typer.Option(help="Number of heads in the table, by their largest effect.")] = DEFAULT_TOP,
    as_json: JsonOption = False,
) -> None:
    """Split effects of heads by position: where their output is replaced, or which step is predicted.

    By span: the first token, the facts, the question, the answer cue and the options, one at a time; of all heads to
    first order, which adds up over the spans, or exactly for --heads. By step: the loss of each step of the worked
    solution with the head removed, exactly, for tasks such as toy_math and gsm8k.
    """
    from cap_viz.runs.kinds import KINDS
    from cap_viz.runs.kinds.positions import load_positions
    from cap_viz.tasks.example_sets import calibration_set, evaluation_set

    metric_named(metric)
    chosen, way = load_task(task), choose("way to split effects", by, BYS)
    check_metric(chosen, metric)
    choose("ablation", ablation, ABLATIONS)
    if top < 1:
        raise UsageError(f"--top {top}: the table needs at least one head.")
    named = tuple(sorted(head_list(heads))) or None
    first_order = way == "span" and named is None
    if first_order:
        check_differentiable(metric)
    if way == "step" and metric != "nll":
        raise UsageError(f"--metric {metric}: the loss of a step is nll, per token; leave the metric out.")
    runs = ModelRuns(model)
    spec = PositionSpec(
        model=runs.ref,
        examples=evaluation_set(chosen, n),
        by=way,
        heads=named,
        metric=metric if first_order else None,
        ablation=ablation,
        reference=None if ablation == "zero" else calibration_set(chosen, calibration, seed),
        mask=runs.mask_spec(criterion, sparsity, task, seed),
    )
    # Before the model is loaded.
    KINDS[spec.kind].check(spec)
    run = runs.get({"": spec})[""]
    effects = load_positions(runs.store, run)
    if as_json:
        print_json(
            {"task": task, "by": by, "metric": metric, "ablation": ablation, "estimator": effects.estimator}
            | pruned_facts(criterion, sparsity)
            | {"n": len(effects.questions), "run": run_facts(run), "heads": [list(head) for head in effects.heads]}
            | {"parts": list(effects.parts), "tokens": effects.tokens.tolist()}
            | {"effects": records(effects.to_pandas(metric).drop(columns=["metric"]))}
        )
        return
    print_effects(effects, metric, top, f"{task}, {len(effects.questions)} questions{pruned_words(spec.mask)}")


def print_effects(effects: PositionEffects, metric: str, top: int, sample: str) -> None:
    estimate, shown = effects.estimated(metric), effects.strongest(metric, top)
    estimator = "first-order" if effects.estimator == "gradient" else "exact"
    title = f"{sample}: {estimator} effects on {metric} by {effects.by} ({METRICS[metric].unit})"
    table = Table("head", *effects.parts, title=title)
    for place in shown:
        cells = zip(estimate.mean[place], estimate.survives[place], strict=True)
        table.add_row(effects.names[place], *(f"{mean:+.4f}{'*' if sure else ''}" for mean, sure in cells))
    table.add_section()
    table.add_row("tokens", *(f"{length:.1f}" for length in effects.mean_tokens))
    table.add_row("questions", *map(str, np.count_nonzero(effects.tokens, axis=0)))
    out.print(table)
    out.print(
        f"The {len(shown)} of {len(effects.heads)} heads with the largest effects. Positive: the head helps. "
        "*: beyond chance at a false discovery rate of 5 % over all heads and columns.",
        highlight=False,
        soft_wrap=True,
    )
