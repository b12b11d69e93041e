"""Command `solution-loss`: loss on a task's worked solutions, dense or pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cap_viz.cli.computing import stored_run
from cap_viz.cli.masking import MaskOptions, takes_mask
from cap_viz.cli.options import JsonOption, ModelOption
from cap_viz.cli.output import out, print_json, run_facts
from cap_viz.defaults import N_CALIBRATION
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.run_labels import percent

if TYPE_CHECKING:
    from cap_viz.models.catalogue import ModelRef
    from cap_viz.runs.spec import EvalSpec


@takes_mask
def solution_loss(
    task: Annotated[str, typer.Option(help="A task whose examples have one given continuation.")] = "gsm8k",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option(help="Evaluation examples, from the first; 0 for all.")] = 100,
    criterion: Annotated[str, typer.Option(help="Prune by this criterion first; dense if left out.")] = "",
    sparsity: Annotated[float, typer.Option(help="Share of weights set to zero.")] = 0.2,
    calibrated_on: Annotated[str, typer.Option(help="The task the criterion is calibrated on; else the same.")] = "",
    n_calibration: Annotated[int, typer.Option(help="Calibration examples behind the criterion.")] = N_CALIBRATION,
    as_json: JsonOption = False,
    *,
    mask: MaskOptions,
) -> None:
    """Measure the loss on worked solutions (GSM8K), dense or pruned."""
    from cap_viz.evaluation.solution_loss import check_has_solutions, solution_loss_of
    from cap_viz.runs.kinds.evaluation import load_report
    from cap_viz.runs.protocols import solution_spec
    from cap_viz.runs.store import Store
    from cap_viz.tasks.example_sets import evaluation_set

    check_has_solutions(task)

    def spec(ref: ModelRef) -> EvalSpec:
        made_for = calibrated_on or task
        pruned = mask.spec(ref, criterion, sparsity, task=made_for, n=n_calibration) if criterion else None
        return solution_spec(ref, evaluation_set(task, n or None), pruned)

    store = Store()
    run = stored_run(spec, model, store)
    found = solution_loss_of(load_report(store, run))
    interval = None if found.n == 1 else [found.ci.low, found.ci.high]
    if as_json:
        mask_facts = {"criterion": criterion or "dense", "sparsity": sparsity if criterion else 0.0}
        content = {"task": task, "n": found.n, "tokens_scored": found.n_tokens, **mask_facts}
        print_json({**run_facts(run), **content, "solution_loss": found.value, "solution_loss_ci": interval})
        return
    label = f"{criterion} at {percent(sparsity)}" if criterion else "dense"
    out.print(f"{task}, {found.n} solutions, {label}")
    limits = "" if interval is None else f"  [{found.ci.low:.3f}, {found.ci.high:.3f}] over examples"
    out.print(f"loss {found.value:.3f} nats per token{limits}")
