"""Command `pairs`: which heads back each other up, and which do the same work."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS, metric_named
from cap_viz.attribution.results import ABLATIONS
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
)
from cap_viz.cli.output import out, print_json, records, run_facts
from cap_viz.errors import choose
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.run_labels import pruned_words
from cap_viz.runs.spec import PairSpec, ScoreSpec
from cap_viz.tasks import check_metric, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, evaluation_set

# Pairs in the printed table.
MOST_ROWS = 12


def pairs(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Number of evaluation questions on which the pairs are removed.")] = 32,
    top: Annotated[int, typer.Option(help="Number of heads, those with the largest effects.")] = 8,
    heads: Annotated[str, typer.Option(help="These heads instead, for example L0H1,L2H3,L5H0.")] = "",
    calibration: Annotated[int, typer.Option(help="Number of calibration examples whose effects rank the heads.")] = 16,
    seed: SeedOption = 0,
    metric: EffectMetricOption = "nll",
    ablation: AblationOption = "zero",
    criterion: CriterionOrDenseOption = "",
    sparsity: SparsityWithOption = 0.2,
    as_json: JsonOption = False,
) -> None:
    """Remove heads two at a time and compare with removing each alone.

    The pair effect is the effect of both minus the sum of the two. Above zero the heads back each other up: each alone
    is missed less. Below zero they overlap: they stand in series or do the same damage. The heads are ranked on
    calibration examples and removed on evaluation questions, so that the ranking does not flatter them.
    """
    from cap_viz.runs.kinds.joint import load_pairs

    metric_named(metric)
    chosen = load_task(task)
    check_metric(chosen, metric)
    choose("ablation", ablation, ABLATIONS)
    runs = ModelRuns(model)

    def reference() -> ExampleSet:
        """Calibration examples, which rank the heads and give the values of mean and resample ablation."""
        return calibration_set(chosen, calibration, seed)

    if heads:
        removed = head_list(heads)
    else:
        removed = strongest(
            runs, ScoreSpec(model=runs.ref, examples=reference(), ablation=ablation), metric, top, least=2
        )
    values_from = None if ablation == "zero" else reference()
    # Sorted, so that the same heads are the same run.
    mask = runs.mask_spec(criterion, sparsity, task, seed)
    spec = PairSpec(runs.ref, evaluation_set(chosen, n), tuple(sorted(removed)), ablation, values_from, mask)
    run = runs.get({"": spec})[""]
    scores = load_pairs(runs.store, run)
    rows = scores.to_pandas(metric)
    if as_json:
        singles = scores.singles(metric)
        print_json(
            {"task": task, "metric": metric, "ablation": ablation, "n": singles.n, "run": run_facts(run)}
            | pruned_facts(criterion, sparsity)
            | {"heads": [list(head) for head in scores.heads], "effects": singles.mean.tolist()}
            | {"pairs": records(rows)}
        )
        return
    unit = METRICS[metric].unit
    title = f"{task}, {len(spec.examples.ids)} questions{pruned_words(mask)}: heads removed together, {metric} ({unit})"
    table = Table("heads", "first", "second", "both", "pair effect, 95 % interval", "kind", title=title)
    order = np.argsort(-np.abs(rows["pair_effect"].to_numpy()), kind="stable")
    for row in rows.iloc[order[:MOST_ROWS]].to_dict("records"):
        table.add_row(
            f"{row['first']} {row['second']}",
            *(f"{row[f'effect_{name}']:+.3f}" for name in ("first", "second", "both")),
            f"{row['pair_effect']:+.3f}  {row['ci_low']:+.3f} … {row['ci_high']:+.3f}",
            row["kind"],
        )
    out.print(table)
    out.print(
        f"The {min(MOST_ROWS, len(rows))} largest of {len(rows)} pairs. Kinds at a false discovery rate of 5 %; "
        "ceiling: one of the two alone already makes the model guess.",
        highlight=False,
        soft_wrap=True,
    )
