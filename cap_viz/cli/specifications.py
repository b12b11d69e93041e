"""Command `specifications`: whether other ways to score heads say the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.results import ABLATIONS
from cap_viz.attribution.specification_curve import OWN_PROMPT
from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.options import PROMPT_HELP, JsonOption, ModelOption, TaskOption, head_list, split_list
from cap_viz.cli.output import out, print_json, records
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.progress import duration
from cap_viz.stats.joint import Head
from cap_viz.tasks import check_metric, load_task
from cap_viz.tasks.wordings import with_line_breaks

# Heads in the printed table.
MOST_ROWS = 12


def specifications(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    head: Annotated[str, typer.Option(help="One head under every specification, for example L1H3.")] = "",
    top: Annotated[
        int | None, typer.Option(help="Number of heads that count as the top; a tenth of all if left out.")
    ] = None,
    metrics: Annotated[str, typer.Option(help=f"Metrics, of {', '.join(METRICS)}; all of the task if left out.")] = "",
    ablations: Annotated[
        str, typer.Option(help=f"Ablations, of {', '.join(ABLATIONS)}; those stored if left out.")
    ] = "",
    estimators: Annotated[str, typer.Option(help="Estimators, of exact, gradient; those stored if left out.")] = "",
    seeds: Annotated[str, typer.Option(help="Draws of calibration examples; those stored if left out.")] = "",
    n: Annotated[int, typer.Option("--n", help="Number of examples in the draws of --seeds.")] = 16,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", help=f"{PROMPT_HELP}, or own. May be repeated; those stored if left out."),
    ] = None,
    compute: Annotated[bool, typer.Option("--compute", help="Compute the specifications that are missing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare rankings of heads over metrics, ablations, draws, estimators and prompts.

    A specification is one combination of these choices. The table says in how many of them a head is among the top,
    and between which ranks it lies. Missing combinations are named with the time they take; --compute adds them.
    """
    from cap_viz.runs.specifications import (
        check_choices,
        curve_of,
        expected_seconds_of,
        missing_runs,
        stored_choices,
    )

    chosen, one = load_task(task), single_head(head)
    runs = ModelRuns(model)
    stored = stored_choices(runs.store.runs(), runs.ref, chosen)
    asked = {"metrics": metrics, "ablations": ablations, "estimators": estimators}
    choices = replace(stored, **{name: tuple(split_list(name, text)) for name, text in asked.items() if text})
    if seeds:
        choices = replace(choices, draws=tuple((whole_number(seed), n) for seed in split_list("seeds", seeds)))
    if prompts:
        asked = tuple(None if prompt == OWN_PROMPT else with_line_breaks(prompt) for prompt in prompts)
        choices = replace(choices, prompts=asked)
    check_choices(choices)
    for metric in choices.metrics:
        check_metric(chosen, metric)
    if not (choices.draws and choices.ablations and choices.estimators):
        raise UsageError(
            f"No scores of the heads of {runs.ref.id} on {task} are stored; name --ablations, --estimators and "
            "--seeds, and add --compute."
        )
    missing = missing_runs(runs.store, runs.ref, chosen, choices)
    if compute:
        runs.get({spec: spec for spec in missing})
        missing = []
    curve = curve_of(runs.store, runs.ref, chosen, choices)
    table = curve.to_pandas(top)
    of_head = None if one is None else curve.of_head(*one)
    if as_json:
        print_json(
            {"task": task, "specifications": [vars(one) for one in curve.specifications]}
            | {"missing": [vars(one) for one in curve.missing], "heads": table.to_dict("records")}
            | ({} if of_head is None else {"head": records(of_head)})
        )
        return
    out.print(heads_table(table, task) if of_head is None else head_table(of_head, task, head))
    if missing:
        seconds = expected_seconds_of(runs.store.runs(), missing)
        cost = "" if seconds is None else f", about {duration(seconds)}"
        out.print(
            f"{len(curve.missing)} specifications are missing ({len(missing)} runs{cost}); --compute adds them.",
            highlight=False,
            soft_wrap=True,
        )


def single_head(text: str) -> Head | None:
    """Read the one head that is asked for. Raises `UsageError` for several."""
    heads = head_list(text)
    if len(heads) > 1:
        raise UsageError(f"--head {text}: name a single head, such as L1H3.")
    return heads[0] if heads else None


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{text!r} is no seed; give whole numbers such as 0,1,2.")
    return int(text)


def heads_table(table: pd.DataFrame, task: str) -> Table:
    n = int(table["n_specifications"].iloc[0])
    shown = Table("head", "in the top", "helps", "hurts", "median rank", "ranks", title=f"{task}, {n} specifications")
    for row in table.nsmallest(MOST_ROWS, "rank_median").to_dict("records"):
        shares = (f"{row[name]:.0%}" for name in ("share_top", "share_helps", "share_hurts"))
        ranks = f"{row['rank_low']} to {row['rank_high']}"
        shown.add_row(f"L{row['layer']} H{row['head']}", *shares, f"{row['rank_median']:g}", ranks)
    return shown


def head_table(table: pd.DataFrame, task: str, head: str) -> Table:
    columns = ("metric", "ablation", "estimator", "draw", "prompt", "effect, 95 % interval", "rank")
    shown = Table(*columns, title=f"{head} on {task}")
    for row in table.to_dict("records"):
        found = "missing", ""
        if not pd.isna(row["rank"]):
            found = f"{row['mean_effect']:+.4f}  {row['ci_low']:+.4f} … {row['ci_high']:+.4f}", f"{row['rank']:g}"
        choices = row["metric"], row["ablation"], row["estimator"], f"{row['seed']} of {row['n']}", row["prompt"]
        shown.add_row(*choices, *found)
    return shown
