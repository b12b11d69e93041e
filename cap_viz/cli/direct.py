"""Command `direct`: how much of each head's effect is written into the answer itself."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS, metric_named
from cap_viz.attribution.results import ABLATIONS
from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.options import AblationOption, EffectMetricOption, JsonOption, ModelOption, SeedOption, TaskOption
from cap_viz.cli.output import none_for_nan, out, print_json, run_facts
from cap_viz.errors import UsageError, choose
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.run_queries import direct_spec
from cap_viz.runs.spec import ScoreSpec
from cap_viz.tasks import check_metric, load_task

DEFAULT_TOP = 10


def direct(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Number of calibration examples.")] = 16,
    seed: SeedOption = 0,
    metric: EffectMetricOption = "nll",
    frozen_norm: Annotated[
        bool, typer.Option("--frozen-norm", help="Keep the dense scale of the final norm in direct effects.")
    ] = False,
    ablation: AblationOption = "zero",
    top: Annotated[int, typer.Option(help="Number of heads in the table, by the size of their direct effect.")] = (
        DEFAULT_TOP
    ),
    as_json: JsonOption = False,
) -> None:
    """Split the effect of every head into a direct and an indirect part.

    The direct effect changes only what the head writes into the last residual stream; the indirect effect is the rest
    of the total one, paired per example. Where later layers make up for the head, the indirect effect is negative.
    With --frozen-norm the final norm keeps its dense scale in the direct effect.
    """
    from cap_viz.attribution.effect_split import split_effects
    from cap_viz.runs.kinds.scores import load_direct, load_scores
    from cap_viz.tasks.example_sets import calibration_set

    metric_named(metric)
    chosen = load_task(task)
    check_metric(chosen, metric)
    choose("ablation", ablation, ABLATIONS)
    if top < 1:
        raise UsageError(f"--top {top}: the table needs at least one head.")
    runs = ModelRuns(model)
    spec = ScoreSpec(model=runs.ref, examples=calibration_set(chosen, n, seed), ablation=ablation)
    found = runs.get({"total": spec, "direct": direct_spec(spec, frozen_norm=frozen_norm)})
    split = split_effects(load_scores(runs.store, found["total"]), load_direct(runs.store, found["direct"]))
    total, own, indirect = split.total.estimated(metric), split.direct.estimated(metric), split.indirect(metric)
    if as_json:
        print_json(
            {"task": task, "metric": metric, "ablation": ablation, "frozen_norm": frozen_norm, "n": total.n}
            | {"runs": {name: run_facts(run) for name, run in found.items()}}
            | {"total": total.mean.tolist(), "direct": own.mean.tolist(), "indirect": indirect.mean.tolist()}
            | {"indirect_low": none_for_nan(indirect.low), "indirect_high": none_for_nan(indirect.high)}
            | {"indirect_q": none_for_nan(indirect.q_value), "repaired": split.repaired(metric).tolist()}
        )
        return
    unit = METRICS[metric].unit
    title = f"{task}, {total.n} examples: effects on {metric} ({unit})"
    table = Table("head", "total", "direct", "indirect, 95 % interval", "made up for", title=title)
    rows = split.to_pandas(metric)
    largest = np.argsort(-np.abs(rows["direct"].to_numpy()), kind="stable")[:top]
    for row in rows.iloc[largest].to_dict("records"):
        table.add_row(
            f"L{row['layer']} H{row['head']}",
            *(f"{row[name]:+.4f}" for name in ("total", "direct")),
            f"{row['indirect']:+.4f}  {row['ci_low']:+.4f} … {row['ci_high']:+.4f}",
            f"{row['repaired']:.4f}" if row["repaired"] else "",
        )
    out.print(table)
    out.print(
        "Made up for: how much of a direct effect later layers surely take back (false discovery rate 5 %).",
        highlight=False,
        soft_wrap=True,
    )
