"""The shell: `python -m cap_viz …`.

Progress and tables go to stderr or to the terminal; with `--json` stdout holds one JSON object and nothing else.
Exit codes: 0 ok, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from typer.exceptions import TyperException

from cap_viz import __version__
from cap_viz.errors import CapVizError, UsageError
from cap_viz.metrics import METRICS, metric_named
from cap_viz.models import CATALOGUE, DEFAULT_MODEL, is_available
from cap_viz.progress import Progress
from cap_viz.settings import start_logging
from cap_viz.spec import EvalSpec, MaskSpec, RunSpec, ScoreSpec
from cap_viz.tasks import TASKS, check_has_options, check_metric, load_task

if TYPE_CHECKING:
    from cap_viz.models import ReasoningModel
    from cap_viz.results import EvalReport
    from cap_viz.spec import ModelRef
    from cap_viz.store import StoredRun

app = typer.Typer(
    help="Which attention heads carry a task, and what happens when a model is pruned by that knowledge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# A table that goes to a file or a pipe must not lose text to the width of a terminal that is not there.
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)
Result = TypeVar("Result")

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Catalogue name, local folder or hub id.")]
TaskOption = Annotated[str, typer.Option("--task", "-t", help="Task name; see `tasks`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the draw of calibration examples.")]


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the models that need no hub, and say which are installed."""
    rows = [
        {"id": entry.id, "title": entry.title, "installed": is_available(entry), "install": entry.install}
        for entry in CATALOGUE.values()
    ]
    if as_json:
        print_json({"models": rows})
        return
    table = Table("id", "title", "installed")
    for row in rows:
        table.add_row(row["id"], row["title"], "yes" if row["installed"] else f"no: {row['install']}")
    out.print(table)
    out.print("Any Hugging Face id or local folder with safetensors of a supported family works as well.")


@app.command()
def tasks(as_json: JsonOption = False) -> None:
    """List the tasks with their sizes, sources and licences."""
    rows = [task_row(name) for name in TASKS]
    if as_json:
        print_json({"tasks": rows})
        return
    table = Table("task", "calibration", "evaluation", "chance", "source", "licence")
    for row in rows:
        sizes = ("not on this machine", "", "")
        if row["available"]:
            chance = "no options" if row["chance"] is None else f"{row['chance']:.1%}"
            sizes = (str(row["calibration"]), str(row["evaluation"]), chance)
        table.add_row(row["task"], *sizes, row["source"], row["licence"])
    out.print(table)


@app.command()
def score(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Number of calibration examples.")] = 16,
    seed: SeedOption = 0,
    estimator: Annotated[str, typer.Option(help="How effects are computed: exact.")] = "exact",
    metric: Annotated[str, typer.Option(help=f"One of {', '.join(METRICS)}.")] = "nll",
    ablation: Annotated[str, typer.Option(help="What replaces a head's output: zero or mean.")] = "zero",
    ids: Annotated[Path | None, typer.Option(help="Score exactly these example ids (one a line, any split).")] = None,
    full: Annotated[bool, typer.Option("--full", help="With --json: add effects per example and raw values.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the causal effect of every attention head on a task."""
    from cap_viz.runs import calibration_set, named_set, read_scores
    from cap_viz.stats import mean_with_ci, rank_heads
    from cap_viz.store import Store

    metric_named(metric)
    examples = calibration_set(task, n, seed) if ids is None else named_set(task, read_ids(ids))
    check_metric(load_task(task), metric)
    check_choice("estimator", estimator, ("exact",))
    check_choice("ablation", ablation, ("zero", "mean"))
    store = Store()
    run = stored_run(
        lambda ref: ScoreSpec(model=ref, examples=examples, estimator=estimator, ablation=ablation),
        model,
        store,
    )
    scores = read_scores(store, run)
    effects = scores.effects(metric)
    estimate = mean_with_ci(effects)
    if as_json:
        content: dict[str, Any] = {
            **run_facts(run),
            "task": task,
            "metric": metric,
            "estimator": estimator,
            "ablation": ablation,
            "n": len(scores.questions),
            "example_ids": list(scores.questions.ids),
            "mean_effect": estimate.mean.tolist(),
            "ci_low": none_for_nan(estimate.low),
            "ci_high": none_for_nan(estimate.high),
        }
        if full:
            content["effects"] = effects.tolist()
            content["gold"] = scores.questions.gold.tolist()
            content["dense_loglik"] = none_for_nan(scores.dense)
            content["ablated_loglik"] = none_for_nan(scores.ablated)
        print_json(content)
        return
    rank = rank_heads(estimate.mean)
    table = Table(
        "rank",
        "head",
        f"effect on {metric}",
        "95 % interval",
        title=f"{task}, {len(scores.questions)} examples",
    )
    for place in range(1, min(10, rank.size) + 1):
        layer, head = divmod(int((rank == place).argmax()), rank.shape[1])
        interval = f"{estimate.low[layer, head]:+.4f} … {estimate.high[layer, head]:+.4f}"
        table.add_row(str(place), f"L{layer} H{head}", f"{estimate.mean[layer, head]:+.4f}", interval)
    out.print(table)
    out.print("Positive: removing the head hurts. The full grid: the dashboard's Heads page, or --json.")


@app.command()
def prune(
    criterion: Annotated[str, typer.Option(help="cap, wanda, wanda_oneshot, magnitude or global_magnitude.")] = "cap",
    sparsity: Annotated[float, typer.Option(help="Share of weights set to zero, 0 ≤ s < 1.")] = 0.2,
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Calibration examples behind scores or activations.")] = 48,
    seed: SeedOption = 0,
    metric: Annotated[str, typer.Option(help="Metric behind CAP's head scores.")] = "nll",
    scope: Annotated[str, typer.Option(help="attention, mlp or both.")] = "both",
    as_json: JsonOption = False,
) -> None:
    """Build a mask and say where its zeros are."""
    from cap_viz.models import load, resolve
    from cap_viz.runs import mask_spec_for, mask_steps
    from cap_viz.store import Store

    source = resolve(model)
    spec = mask_spec_for(source.ref, criterion, sparsity, task=task, n=n, seed=seed, metric=metric, scope=scope)
    mask = shown(mask_steps(spec, load(source), Store()))
    counts = mask.counts
    if as_json:
        print_json(
            {
                "criterion": criterion,
                "sparsity": sparsity,
                "reached": mask.reached,
                "digest": mask.digest,
                "matrices": [
                    {"layer": m.layer, "kind": m.kind, "part": m.part, "zeros": zeros, "size": m.size}
                    for m, zeros in zip(counts.matrices, counts.zeros[0].tolist(), strict=True)
                ],
            }
        )
        return
    table = Table("layer", "attention", "MLP", "both", title=f"{criterion} at {sparsity:.0%}: share of zeros")
    parts = [counts.by_layer(part)[0] for part in ("attention", "mlp", None)]
    for layer, shares in enumerate(zip(*parts, strict=True)):
        table.add_row(str(layer), *(f"{share:.1%}" for share in shares))
    out.print(table)
    out.print(f"Reached {mask.reached:.3%} of {counts.sizes.sum():,} weights.")
    out.print("Zeros alone change neither file size nor latency.")


@app.command(name="eval")
def evaluate(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Evaluation examples (the first n in source order).")] = 200,
    criterion: Annotated[str, typer.Option(help="Prune by this criterion first; dense if left out.")] = "",
    sparsity: Annotated[float, typer.Option(help="Share of weights set to zero.")] = 0.2,
    n_calibration: Annotated[int, typer.Option(help="Calibration examples behind the criterion.")] = 48,
    seed: SeedOption = 0,
    metric: Annotated[str, typer.Option(help="Metric behind CAP's head scores.")] = "nll",
    scope: Annotated[str, typer.Option(help="attention, mlp or both.")] = "both",
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy, dense or pruned."""
    from cap_viz.accuracy import against_guessing
    from cap_viz.runs import evaluation_set, mask_spec_for, read_report
    from cap_viz.stats import wilson
    from cap_viz.store import Store

    check_has_options(load_task(task))
    examples, store = evaluation_set(task, n), Store()

    def spec(ref: ModelRef) -> EvalSpec:
        mask: MaskSpec | None = None
        if criterion:
            mask = mask_spec_for(
                ref, criterion, sparsity, task=task, n=n_calibration, seed=seed, metric=metric, scope=scope
            )
        return EvalSpec(model=ref, examples=examples, mask=mask)

    run = stored_run(spec, model, store)
    report = read_report(store, run)
    test = against_guessing(load_task(task), report)
    ci_norm = wilson(int(report.correct_norm.sum()), len(report))
    content = {
        **run_facts(run),
        "task": task,
        "n": len(report),
        "criterion": criterion or "dense",
        "sparsity": sparsity if criterion else 0.0,
        "acc": report.acc,
        "acc_ci": [test.ci.low, test.ci.high],
        "acc_norm": report.acc_norm,
        "acc_norm_ci": [ci_norm.low, ci_norm.high],
        "chance": test.chance,
        "p_above_chance": test.p_value,
    }
    if as_json:
        print_json(content)
        return
    label = f"{criterion} at {sparsity:.0%}" if criterion else "dense"
    out.print(f"{task}, {len(report)} examples, {label}")
    out.print(f"acc      {report.acc:.1%}  [{test.ci.low:.1%}, {test.ci.high:.1%}]")
    out.print(f"acc_norm {report.acc_norm:.1%}  [{ci_norm.low:.1%}, {ci_norm.high:.1%}]")
    verdict = "clearly above" if test.clearly_above else "not clearly above"
    out.print(f"chance   {test.chance:.1%}  (accuracy is {verdict} it, p = {test.p_value:.2g})")


@app.command()
def compare(
    task: TaskOption = "mini_science",
    model: ModelOption = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("--n", help="Evaluation examples (the first n in source order).")] = 300,
    criteria: Annotated[str, typer.Option(help="Criteria, separated by commas.")] = "cap,wanda,global_magnitude",
    sparsities: Annotated[str, typer.Option(help="Sparsities, separated by commas.")] = "0.1,0.2,0.5",
    against: Annotated[str, typer.Option(help="The criterion the others are compared with.")] = "wanda",
    n_calibration: Annotated[int, typer.Option(help="Calibration examples behind the criteria.")] = 48,
    seed: SeedOption = 0,
    metric: Annotated[str, typer.Option(help="Metric behind CAP's head scores.")] = "nll",
    as_json: JsonOption = False,
) -> None:
    """Accuracy of several criteria at several sparsities on the same items, paired with one of them."""
    from cap_viz.comparison import comparison_rows, comparison_specs
    from cap_viz.store import Store

    names = tuple(dict.fromkeys([*split_list(criteria), against]))
    shares = tuple(number(text) for text in split_list(sparsities))
    store = Store()

    def specs(ref: ModelRef) -> dict[tuple[str, float], EvalSpec]:
        return comparison_specs(ref, task, names, shares, n=n, n_calibration=n_calibration, seed=seed, metric=metric)

    reports = stored_reports(specs, model, store)
    rows = comparison_rows(load_task(task), reports, against)
    if as_json:
        print_json({"task": task, "model": model, "n": n, "against": against, "rows": rows})
        return
    table = Table("criterion", "sparsity", "acc", "95 % interval", f"minus {against}, points", "McNemar p", title=task)
    for row in rows:
        low, high = row["acc_ci"]
        cells = [row["criterion"], f"{row['sparsity']:.0%}", f"{row['acc']:.1%}", f"{low:.1%} … {high:.1%}"]
        paired = row["against"]
        if paired is not None:
            low, high = paired["ci"]
            cells += [f"{100 * paired['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", f"{paired['p']:.2g}"]
        table.add_row(*cells)
    out.print(table)


runs_app = typer.Typer(help="Stored runs: list, show, verify, export, import.", invoke_without_command=True)
app.add_typer(runs_app, name="runs")
KeyArgument = Annotated[str, typer.Argument(help="The run's key, or the beginning of it.")]


@runs_app.callback()
def runs(context: typer.Context, as_json: JsonOption = False) -> None:
    """List stored runs, shipped and local; with a command: show, verify, export, import."""
    if context.invoked_subcommand is None:
        list_runs(as_json)


@runs_app.command("list")
def list_runs(as_json: JsonOption = False) -> None:
    """List stored runs, shipped and local, and name damaged ones."""
    from cap_viz.store import Store

    store = Store()
    found, damaged = store.runs(), store.damaged()
    if as_json:
        print_json({"runs": [run_facts(run) | {"n": len(run.spec.examples.ids)} for run in found], "damaged": damaged})
        return
    table = Table("key", "kind", "model", "task", "n", "what", "created", "origin")
    for run in found:
        what, created = describe(run.spec), run.provenance["created"][:10]
        examples = run.spec.examples
        table.add_row(
            run.key, run.kind, run.spec.model.id, examples.task, str(len(examples.ids)), what, created, run.origin
        )
    out.print(table)
    for sentence in damaged:
        err.print(f"damaged: {sentence}")


@runs_app.command("show")
def show_run(key: KeyArgument) -> None:
    """Print a run's spec and provenance as JSON."""
    from cap_viz.spec import spec_dict
    from cap_viz.store import Store

    run = Store().by_key(key)
    print_json(run_facts(run) | {"spec": spec_dict(run.spec), "provenance": run.provenance, "files": run.checksums})


@runs_app.command("verify")
def verify_runs(as_json: JsonOption = False) -> None:
    """Check every stored run against its checksums; exit code 1 if one is damaged."""
    from cap_viz.store import DamagedRun, Store

    store = Store()
    sound, damaged = 0, []
    for run in store.runs():
        try:
            store.verify(run)
            sound += 1
        except DamagedRun as error:
            damaged.append(str(error))
    damaged += store.damaged()
    if as_json:
        print_json({"sound": sound, "damaged": damaged})
    else:
        out.print(f"{sound} runs are sound, {len(damaged)} damaged.")
        for sentence in damaged:
            err.print(f"damaged: {sentence}")
    if damaged:
        raise typer.Exit(1)


@runs_app.command("export")
def export(
    key: KeyArgument,
    to: Annotated[Path, typer.Option(help="A file, or a folder that gets RUN.zip.")] = Path(),
) -> None:
    """Write a run as one zip file."""
    from cap_viz.archive import export_run
    from cap_viz.store import Store

    out.print(f"Wrote {export_run(Store().by_key(key), to)}")


@runs_app.command("import")
def import_file(file: Annotated[Path, typer.Argument(help="A zip file written by `runs export`.")]) -> None:
    """Bring an exported run into the local store, after checking it."""
    from cap_viz.archive import import_run
    from cap_viz.store import Store

    run = import_run(Store(), file)
    out.print(f"Imported {run.key} ({describe(run.spec)}, {len(run.spec.examples.ids)} examples)")


@app.command()
def doctor(model: ModelOption = DEFAULT_MODEL, as_json: JsonOption = False) -> None:
    """Check that ablation, replay, masks and restore are right on this machine, line by line."""
    from cap_viz.doctor import checks
    from cap_viz.models import load_model

    results = []
    for check in checks(load_model(model)):
        results.append({"check": check.name, "passed": check.passed, "detail": check.detail})
        if not as_json:
            out.print(
                f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}", highlight=False, soft_wrap=True
            )
    if as_json:
        print_json({"model": model, "checks": results, "passed": all(r["passed"] for r in results)})
    if not all(result["passed"] for result in results):
        raise typer.Exit(1)


def stored_run(spec_for: Any, model_id: str, store: Any) -> StoredRun:
    """The run of a spec: from the store if it is there, else computed with progress on stderr."""
    from cap_viz.models import load, resolve
    from cap_viz.runs import run_steps

    source = resolve(model_id)
    spec: RunSpec = spec_for(source.ref)
    stored = store.get(spec)
    if stored is not None:
        return stored
    loaded: ReasoningModel = load(source)
    return shown(run_steps(spec, loaded, store))


def stored_reports(specs_for: Any, model_id: str, store: Any) -> dict[Any, EvalReport]:
    """Reports of many specs on one loaded model; the model is loaded only if one of them is missing."""
    from cap_viz.models import load, resolve
    from cap_viz.runs import read_report, run_steps

    source, loaded = resolve(model_id), None
    found = {}
    for name, spec in specs_for(source.ref).items():
        run = store.get(spec)
        if run is None:
            loaded = loaded or load(source)
            run = shown(run_steps(spec, loaded, store))
        found[name] = read_report(store, run)
    return found


def split_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a number; give sparsities such as 0.1,0.2,0.5.") from error


def shown(steps: Generator[Progress, None, Result]) -> Result:
    """Run steps to their end with a bar on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=err, transient=True) as bar:
        line = bar.add_task("starting", total=1.0)
        while True:
            try:
                progress = next(steps)
            except StopIteration as stop:
                return stop.value
            bar.update(line, completed=progress.share, description=progress.note or "working")


def read_ids(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); give a file with one example id a line."
        ) from error
    ids = tuple(line.strip() for line in text.split("\n") if line.strip())
    if not ids:
        raise UsageError(f"{path} names no example id; put one on each line.")
    return ids


def task_row(name: str) -> dict[str, Any]:
    from cap_viz.tasks import chance_level

    task = load_task(name)
    row: dict[str, Any] = {
        "task": name,
        "title": task.title,
        "version": task.version,
        "source": task.source,
        "licence": task.licence,
        "prompt": task.prompt_format,
        "available": task.is_local(),
    }
    if row["available"]:
        row |= {
            "calibration": len(task.splits.calibration),
            "evaluation": len(task.splits.evaluation),
            "chance": None if task.kind == "text" else chance_level(task, task.splits.evaluation),
        }
    return row


def run_facts(run: StoredRun) -> dict[str, Any]:
    return {
        "key": run.key,
        "kind": run.kind,
        "model": run.spec.model.id,
        "fingerprint": run.spec.model.fingerprint,
        "origin": run.origin,
        "created": run.provenance["created"],
        "seconds": run.provenance["seconds"],
    }


def describe(spec: RunSpec) -> str:
    if isinstance(spec, ScoreSpec):
        return f"{spec.estimator}, {spec.ablation} ablation"
    if spec.mask is None:
        return "dense"
    if isinstance(spec, EvalSpec):
        return f"{spec.mask.criterion} at {spec.mask.sparsity:.0%}"
    return f"{spec.mask.criterion}, all sparsities"


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"Unknown {name} {value!r}; choose one of {', '.join(choices)}.")


def none_for_nan(values: Any) -> Any:
    """Nested lists with None where an array holds NaN (JSON has no NaN)."""
    import numpy as np

    listed = np.asarray(values).astype(object)
    listed[np.isnan(values)] = None
    return listed.tolist()


def print_json(content: Any) -> None:
    typer.echo(json.dumps(content, allow_nan=False))


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    start_logging()
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: our errors become one sentence on stderr and an exit code."""
    try:
        raise SystemExit(app(standalone_mode=False))
    except TyperException as error:
        # Its own sentence may leave out the value it is about.
        reason = error.format_message().strip().rstrip(".")
        if not reason:
            raise SystemExit(0) from error
        typed = shlex.join(sys.argv[1:])
        err.print(f"{reason}. You typed: {typed}. See --help.", style="red", highlight=False, soft_wrap=True)
        raise SystemExit(2) from error
    except UsageError as error:
        err.print(str(error), style="red", highlight=False, soft_wrap=True)
        raise SystemExit(2) from error
    except CapVizError as error:
        err.print(str(error), style="red", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        err.print("Stopped; the same command goes on where it was.")
        raise SystemExit(1) from error
