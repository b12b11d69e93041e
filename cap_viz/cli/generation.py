"""Command `generate`: accuracy of answers the model writes out, dense or pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cap_viz.cli.computing import stored_run
from cap_viz.cli.masking import MaskOptions, takes_mask
from cap_viz.cli.options import JsonOption, ModelOption, TaskOption
from cap_viz.cli.output import out, print_json, run_facts
from cap_viz.defaults import N_CALIBRATION
from cap_viz.errors import UsageError, choose
from cap_viz.evaluation.generation import FORMATS
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.run_labels import percent

if TYPE_CHECKING:
    import numpy as np

    from cap_viz.models.catalogue import ModelRef
    from cap_viz.runs.spec import EvalSpec

SPLITS = ("evaluation", "calibration")


@takes_mask
def generate(
    task: TaskOption = "mini_math",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Evaluation examples (the first n in source order).")] = 64,
    format: Annotated[str, typer.Option(help=f"How to ask: {', '.join(FORMATS)}.")] = "fewshot",
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of an answer; the task says if left out.")] = None,
    split: Annotated[str, typer.Option(help="evaluation, or calibration (to keep own solutions).")] = "evaluation",
    keep: Annotated[
        str | None, typer.Option(help="Keep the right texts as a task of this name, to calibrate on own solutions.")
    ] = None,
    criterion: Annotated[str, typer.Option(help="Prune by this criterion first; dense if left out.")] = "",
    sparsity: Annotated[float, typer.Option(help="Share of weights set to zero.")] = 0.2,
    n_calibration: Annotated[int, typer.Option(help="Calibration examples behind the criterion.")] = N_CALIBRATION,
    as_json: JsonOption = False,
    *,
    mask: MaskOptions,
) -> None:
    """Generate the model's answers and score them: exact match and parse rate."""
    from cap_viz.runs.kinds.evaluation import load_answers
    from cap_viz.runs.protocols import generation_spec
    from cap_viz.runs.self_generated_calibration import own_solutions_task
    from cap_viz.runs.store import Store
    from cap_viz.tasks.example_sets import calibration_set, evaluation_set

    choose("split", split, SPLITS)
    if keep is not None and split != "calibration":
        raise UsageError("Evaluation questions must not calibrate; add --split calibration to keep solutions.")
    examples, store = (evaluation_set if split == "evaluation" else calibration_set)(task, n), Store()

    def spec(ref: ModelRef) -> EvalSpec:
        pruned = mask.spec(ref, criterion, sparsity, task=task, n=n_calibration) if criterion else None
        return generation_spec(ref, examples, format=format, max_tokens=max_tokens, mask=pruned)

    run = stored_run(spec, model, store)
    report = load_answers(store, run)
    content = {
        **run_facts(run),
        "task": task,
        "n": len(report),
        "format": format,
        "criterion": criterion or "dense",
        "sparsity": sparsity if criterion else 0.0,
        **share("exact_match", report.correct),
        **share("exact_match_flexible", report.correct_flexible),
        "parse_rate": report.parse_rate,
        "parse_rate_flexible": report.parse_rate_flexible,
        "tokens_written": int(report.tokens.sum()),
        "cut_at_most_tokens": float((report.ended == 0).mean()),
        "truncated": run.provenance.get("truncated"),
        "split": split,
    }
    if keep is not None:
        kept = own_solutions_task(store, run, keep)
        content["kept"] = {"task": kept.name, "solutions": len(kept.splits.calibration) + len(kept.splits.evaluation)}
    if as_json:
        print_json(content)
        return
    label = f"{criterion} at {percent(sparsity)}" if criterion else "dense"
    out.print(f"{task}, {len(report)} examples, {format}, {label}")
    for title, name in (("strict", "exact_match"), ("flexible", "exact_match_flexible")):
        low, high = content[f"{name}_ci"]
        parsed = content["parse_rate" if title == "strict" else "parse_rate_flexible"]
        out.print(f"{title:9}{content[name]:6.1%}  [{low:.1%}, {high:.1%}]  an answer was found in {parsed:.1%}")
    out.print(
        f"{content['tokens_written']} tokens written, {content['cut_at_most_tokens']:.1%} of the texts were cut off"
    )
    if content["truncated"]:
        out.print(f"{content['truncated']['examples']} prompts lost their beginning to fit the model")
    if keep is not None:
        out.print(f"Kept {content['kept']['solutions']} right texts as task {keep}")
    out.print(f"Every prompt, text and reading: python -m cap_viz runs audit {run.key}")


def share(name: str, right: np.ndarray) -> dict[str, Any]:
    from cap_viz.stats import wilson

    ci = wilson(int(right.sum()), len(right))
    return {name: float(right.mean()), f"{name}_ci": [ci.low, ci.high]}
