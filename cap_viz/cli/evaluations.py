"""Commands `eval`, `generate`, `perplexity` and `solution-loss`: measure the dense model, or one pruned first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cap_viz.cli.computing import ModelRuns
from cap_viz.cli.masking import PruneFirst, takes_mask
from cap_viz.cli.options import JsonOption, ModelOption, TaskOption
from cap_viz.cli.output import out, print_json, run_facts
from cap_viz.errors import UsageError, choose
from cap_viz.evaluation.generation import FORMATS
from cap_viz.evaluation.perplexity import USUAL_LENGTH, USUAL_WINDOWS
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.spec import EvalSpec
from cap_viz.runs.store import Store, StoredRun
from cap_viz.tasks import check_has_options, load_task

if TYPE_CHECKING:
    import numpy as np

    from cap_viz.stats import Interval

SPLITS = ("evaluation", "calibration")


@dataclass(frozen=True)
class MeasuredRun:
    """A run that was read or computed, and the mask it was measured under."""

    store: Store
    run: StoredRun
    mask: PruneFirst

    def show(self, as_json: bool, facts: dict[str, Any], about: str, lines: list[str]) -> None:
        """Print one JSON object, or a heading with `about` and the lines."""
        if as_json:
            print_json({**run_facts(self.run), **self.mask.facts, **facts})
            return
        out.print(f"{about}, {self.mask.label}")
        for line in lines:
            out.print(line)


def measure(runs: ModelRuns, spec: EvalSpec, mask: PruneFirst) -> MeasuredRun:
    """Read or compute an evaluation."""
    return MeasuredRun(runs.store, runs.get({"run": spec})["run"], mask)


@takes_mask
def evaluate(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Evaluation examples (the first n in source order).")] = 200,
    as_json: JsonOption = False,
    *,
    mask: PruneFirst,
) -> None:
    """Measure accuracy, dense or pruned."""
    from cap_viz.evaluation.eval_metrics import against_guessing
    from cap_viz.runs.kinds.evaluation import load_report
    from cap_viz.tasks.example_sets import evaluation_set

    check_has_options(load_task(task))
    examples, runs = evaluation_set(task, n), ModelRuns(model)
    found = measure(runs, EvalSpec(runs.ref, examples, mask.mask(runs.ref, task)), mask)
    report = load_report(found.store, found.run)
    test, norm = against_guessing(load_task(task), report), share("acc_norm", report.correct_norm)
    verdict = "clearly above" if test.clearly_above else "not clearly above"
    facts = {
        "task": task,
        "n": len(report),
        "acc": report.acc,
        "acc_ci": [test.ci.low, test.ci.high],
        **norm,
        "chance": test.chance,
        "p_above_chance": test.p_value,
        "truncated": found.run.provenance.get("truncated"),
    }
    lines = [
        f"acc      {report.acc:.1%}  [{test.ci.low:.1%}, {test.ci.high:.1%}]",
        f"acc_norm {report.acc_norm:.1%}  [{norm['acc_norm_ci'][0]:.1%}, {norm['acc_norm_ci'][1]:.1%}]",
        *truncation(found.run),
        f"chance   {test.chance:.1%}  (accuracy is {verdict} it, p = {test.p_value:.2g})",
    ]
    found.show(as_json, facts, f"{task}, {len(report)} examples", lines)


@takes_mask
def generate(
    task: TaskOption = "mini_math",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Evaluation examples (the first n in source order).")] = 64,
    format: Annotated[str, typer.Option(help=f"Prompt format: {', '.join(FORMATS)}.")] = "fewshot",
    max_tokens: Annotated[
        int | None, typer.Option(help="Maximum tokens of an answer; the task's own limit if left out.")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split to answer: evaluation, or calibration (see --keep).")
    ] = "evaluation",
    keep: Annotated[
        str | None, typer.Option(help="Store the correct answers as a task of this name, to calibrate on them.")
    ] = None,
    as_json: JsonOption = False,
    *,
    mask: PruneFirst,
) -> None:
    """Generate the model's answers and score them: exact match and parse rate."""
    from cap_viz.runs.kinds.evaluation import load_answers
    from cap_viz.runs.protocols import generation_spec
    from cap_viz.runs.self_generated_calibration import own_solutions_task
    from cap_viz.tasks.example_sets import calibration_set, evaluation_set

    choose("split", split, SPLITS)
    if keep is not None and split != "calibration":
        raise UsageError("Evaluation questions must not calibrate; add --split calibration to keep solutions.")
    examples, runs = (evaluation_set if split == "evaluation" else calibration_set)(task, n), ModelRuns(model)
    pruned = mask.mask(runs.ref, task)
    spec = generation_spec(runs.ref, examples, format=format, max_tokens=max_tokens, mask=pruned)
    found = measure(runs, spec, mask)
    report = load_answers(found.store, found.run)
    strict, flexible = share("exact_match", report.correct), share("exact_match_flexible", report.correct_flexible)
    facts = {
        "task": task,
        "n": len(report),
        "format": format,
        **strict,
        **flexible,
        "parse_rate": report.parse_rate,
        "parse_rate_flexible": report.parse_rate_flexible,
        "tokens_written": int(report.tokens.sum()),
        "cut_at_most_tokens": float((report.ended == 0).mean()),
        "truncated": found.run.provenance.get("truncated"),
        "split": split,
    }
    lines = [
        f"{title:9}{right:6.1%}  [{low:.1%}, {high:.1%}]  an answer was found in {parsed:.1%}"
        for title, (right, (low, high)), parsed in (
            ("strict", strict.values(), report.parse_rate),
            ("flexible", flexible.values(), report.parse_rate_flexible),
        )
    ]
    lines.append(
        f"{facts['tokens_written']} tokens written, {facts['cut_at_most_tokens']:.1%} of the texts were cut off"
    )
    lines += truncation(found.run)
    if keep is not None:
        kept = own_solutions_task(found.store, found.run, keep)
        solutions = len(kept.splits.calibration) + len(kept.splits.evaluation)
        facts["kept"] = {"task": kept.name, "solutions": solutions}
        lines.append(f"Kept {solutions} right texts as task {keep}")
    lines.append(f"Every prompt, text and parsed answer: python -m cap_viz runs audit {found.run.key}")
    found.show(as_json, facts, f"{task}, {len(report)} examples, {format}", lines)


@takes_mask
def perplexity(
    text: Annotated[str, typer.Option(help="Text: generic_text (WikiText-2) or mini_text (offline).")] = "generic_text",
    model: ModelOption = DEFAULT_MODEL,
    windows: Annotated[
        int, typer.Option(help="Number of windows, from the beginning of the text; 0 for all.")
    ] = USUAL_WINDOWS,
    length: Annotated[int, typer.Option(help="Tokens per window.")] = USUAL_LENGTH,
    task: Annotated[str, typer.Option(help="Task to calibrate the criterion on.")] = "mini_science",
    as_json: JsonOption = False,
    *,
    mask: PruneFirst,
) -> None:
    """Measure perplexity on running text, dense or pruned."""
    from cap_viz.evaluation.perplexity import perplexity_of, text_task, token_windows
    from cap_viz.runs.kinds.evaluation import load_report
    from cap_viz.runs.protocols import perplexity_spec

    runs = ModelRuns(model)
    # All windows are counted with the model's tokenizer.
    n_windows = windows or len(token_windows(runs.model, text_task(text), length))
    pruned = mask.mask(runs.ref, task)
    found = measure(runs, perplexity_spec(runs.ref, text, n_windows=n_windows, length=length, mask=pruned), mask)
    result = perplexity_of(load_report(found.store, found.run))
    facts = {
        "text": text,
        "windows": result.n_windows,
        "length": length,
        "tokens_scored": result.n_tokens,
        "perplexity": result.value,
        "perplexity_ci": limits(result.ci, result.n_windows),
    }
    interval = "" if result.n_windows == 1 else f"  [{result.ci.low:.2f}, {result.ci.high:.2f}] over windows"
    about = f"{text}, {result.n_windows} windows of {length} tokens"
    found.show(as_json, facts, about, [f"perplexity {result.value:.2f}{interval}"])


@takes_mask
def solution_loss(
    task: Annotated[str, typer.Option(help="Task whose examples have a worked solution.")] = "gsm8k",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option(help="Evaluation examples (the first n in source order); 0 for all.")] = 100,
    calibrated_on: Annotated[str, typer.Option(help="Task to calibrate the criterion on; the same if left out.")] = "",
    as_json: JsonOption = False,
    *,
    mask: PruneFirst,
) -> None:
    """Measure the loss on worked solutions (GSM8K), dense or pruned."""
    from cap_viz.evaluation.solution_loss import check_has_solutions, solution_loss_of
    from cap_viz.runs.kinds.evaluation import load_report
    from cap_viz.runs.protocols import solution_spec
    from cap_viz.tasks.example_sets import evaluation_set

    check_has_solutions(task)
    examples, runs = evaluation_set(task, n or None), ModelRuns(model)
    found = measure(runs, solution_spec(runs.ref, examples, mask.mask(runs.ref, calibrated_on or task)), mask)
    result = solution_loss_of(load_report(found.store, found.run))
    facts = {
        "task": task,
        "n": result.n,
        "tokens_scored": result.n_tokens,
        "solution_loss": result.value,
        "solution_loss_ci": limits(result.ci, result.n),
    }
    interval = "" if result.n == 1 else f"  [{result.ci.low:.3f}, {result.ci.high:.3f}] over examples"
    lines = [f"loss {result.value:.3f} nats per token{interval}"]
    found.show(as_json, facts, f"{task}, {result.n} solutions", lines)


def limits(ci: Interval, n: int) -> list[float] | None:
    """Return an interval for JSON; None for a single example, which has none."""
    return None if n == 1 else [ci.low, ci.high]


def share(name: str, right: np.ndarray) -> dict[str, Any]:
    """Return a share of right answers and its Wilson interval for JSON."""
    from cap_viz.stats import wilson

    ci = wilson(int(right.sum()), len(right))
    return {name: float(right.mean()), f"{name}_ci": [ci.low, ci.high]}


def truncation(run: StoredRun) -> list[str]:
    cut = run.provenance.get("truncated")
    return [f"{cut['examples']} prompts lost their beginning to fit the model"] if cut else []
