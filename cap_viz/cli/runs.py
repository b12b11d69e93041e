"""Command `runs`: list, inspect and check stored runs, and move them between machines as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cap_viz.cli.options import JsonOption
from cap_viz.cli.output import err, out, print_json, run_facts, write_new
from cap_viz.errors import UsageError
from cap_viz.runs.kinds import describe, runs_table
from cap_viz.runs.spreadsheet import csv_text

if TYPE_CHECKING:
    import pandas as pd

runs_app = typer.Typer(
    help="List, show, audit, verify, repair, export, pack and import stored runs.", invoke_without_command=True
)
KeyArgument = Annotated[str, typer.Argument(help="Key of the run, or the beginning of the key.")]


@runs_app.callback()
def runs(context: typer.Context, as_json: JsonOption = False) -> None:
    """List stored runs, shipped and local, or run a subcommand: show, verify, repair, audit, export, pack, import."""
    if context.invoked_subcommand is None:
        list_runs(as_json)
    elif as_json:
        raise UsageError(f"--json comes after the command: runs {context.invoked_subcommand} --json.")


@runs_app.command("list")
def list_runs(as_json: JsonOption = False) -> None:
    """List stored runs, shipped and local, and name damaged ones."""
    from cap_viz.runs.store import Store

    store = Store()
    found, damaged = store.runs(), store.damaged()
    if as_json:
        print_json({"runs": [run_facts(run) | {"n": len(run.spec.examples.ids)} for run in found], "damaged": damaged})
        return
    rows = runs_table(found)
    table = Table(*rows.columns)
    for row in rows.assign(created=rows["created"].str[:10]).astype(str).to_numpy().tolist():
        table.add_row(*row)
    out.print(table)
    for sentence in damaged:
        err.print(f"damaged: {sentence}")


@runs_app.command("show")
def show_run(key: KeyArgument) -> None:
    """Print a run's spec and provenance as JSON."""
    from cap_viz.runs.store import Store

    run = Store().by_key(key)
    print_json(run_facts(run) | run.manifest)


@runs_app.command("verify")
def verify_runs(as_json: JsonOption = False) -> None:
    """Check every stored run against its checksums; exit code 1 if one is damaged."""
    from cap_viz.runs.store import Store

    store = Store()
    sound, damaged = sum(map(store.is_sound, store.runs())), store.damaged()
    if as_json:
        print_json({"sound": sound, "damaged": damaged})
    else:
        out.print(f"{sound} runs are sound, {len(damaged)} damaged.")
        for sentence in damaged:
            err.print(f"damaged: {sentence}")
    if damaged:
        raise typer.Exit(1)


@runs_app.command("repair")
def repair_runs(as_json: JsonOption = False) -> None:
    """Set damaged runs aside and remove leftovers of dead processes; unfinished runs stay and can be resumed."""
    from cap_viz.runs.repair import repair
    from cap_viz.runs.store import Store

    store = Store()
    done = repair(store)
    unfinished = [f"{spec.kind} {spec.examples.task}: {describe(spec)}" for spec in store.unfinished()]
    if as_json:
        print_json({"set_aside": done.set_aside, "removed": done.removed, "unfinished": unfinished})
        return
    out.print(f"{len(done.set_aside)} runs set aside, {len(done.removed)} leftovers removed.")
    for sentence in done.set_aside:
        err.print(f"set aside: {sentence}")
    for sentence in unfinished:
        out.print(f"unfinished, to be resumed by the same command: {sentence}")


@runs_app.command("audit")
def audit(
    key: KeyArgument,
    to: Annotated[Path | None, typer.Option(help="A .csv or .jsonl file; JSON lines on stdout if left out.")] = None,
) -> None:
    """Write every item of an evaluation: prompt, model output, parsed answer and gold answer."""
    from cap_viz.runs.audit import audit_of
    from cap_viz.runs.store import Store

    if to is not None and to.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"{to} should end in .csv or .jsonl.")
    store = Store()
    table = audit_of(store, store.by_key(key))
    if to is None:
        typer.echo(json_lines(table), nl=False)
        return
    write_new(to, csv_text(table) if to.suffix == ".csv" else json_lines(table))
    out.print(f"Wrote {len(table)} items to {to}")


def json_lines(table: pd.DataFrame) -> str:
    # For pandas-stubs: the result is None only if a file was given.
    return str(table.to_json(orient="records", lines=True, force_ascii=False))


@runs_app.command("export")
def export(
    key: KeyArgument,
    to: Annotated[Path, typer.Option(help="A file, or a folder that gets RUN.zip.")] = Path(),
) -> None:
    """Write a run as one zip file."""
    from cap_viz.runs.archive import export_run
    from cap_viz.runs.store import Store

    out.print(f"Wrote {export_run(Store().by_key(key), to)}")


@runs_app.command("pack")
def pack(
    to: Annotated[Path, typer.Argument(help="A new folder, or a pack to add the runs to.")],
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of the runs; all local ones if left out.")] = None,
) -> None:
    """Pack runs into a few files, to copy or commit; the runs themselves stay."""
    from cap_viz.runs.pack import INDEX, open_pack
    from cap_viz.runs.pack_writer import write_pack
    from cap_viz.runs.store import Store

    store, there = Store(), open_pack(to, "live", "")
    if there is None and to.exists() and any(to.iterdir()):
        raise UsageError(f"{to} is there and holds no pack (no {INDEX}); choose a new folder.")
    runs = [store.by_key(key) for key in keys] if keys else [run for run in store.runs() if run.origin == "live"]
    n = write_pack(to, [*([] if there is None else there.runs.values()), *runs])
    out.print(f"Packed {n} runs into {to}")


@runs_app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="A zip file written by `runs export`, or a folder by `runs pack`.")],
) -> None:
    """Check an exported run, or a pack of runs, and import it into the local store."""
    from cap_viz.runs.archive import import_pack, import_run
    from cap_viz.runs.store import Store

    if file.is_dir():
        n, new = import_pack(Store(), file)
        out.print(f"Imported {n} runs" + ("" if new == n else f"; {n - new} of them were there before and stay"))
        return
    run = import_run(Store(), file)
    out.print(f"Imported {run.key} ({describe(run.spec)}, {len(run.spec.examples.ids)} examples)")
