"""`python -m studies`: compute the study's runs in the order of its questions; finished runs are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

import cap_viz.cli
from cap_viz.cli.options import AddressOption, BackendOption, JsonOption, ModelOption, WorkersOption
from cap_viz.cli.output import out, print_json
from cap_viz.errors import UsageError
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.runs.backends import open_backend, requested_backend
from cap_viz.settings import start_logging

if TYPE_CHECKING:
    import pandas as pd

    from cap_viz.models.catalogue import ModelSource
    from cap_viz.runs.batched_runs import Backend
    from cap_viz.runs.store import Store
    from studies.study import Part


def study(
    model: ModelOption = DEFAULT_MODEL,
    part: Annotated[str, typer.Option(help="Only this part; all of them where it is left out.")] = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what there is and what is missing; compute nothing.")
    ] = False,
    table: Annotated[
        str, typer.Option(help='Print this table of the results ("all": every one); compute nothing.')
    ] = "",
    backend: BackendOption = "",
    address: AddressOption = "",
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute the runs behind the study's questions. This takes hours on two cores; stop and resume at any time."""
    from cap_viz.models.catalogue import resolve
    from cap_viz.runs.store import Store
    from studies.study import study_parts

    source, store = resolve(model), Store()
    if table:
        print_tables(source, store, table, as_json=as_json)
        return
    every = study_parts(source.ref)
    parts = [one for one in every if part in ("", one.name)]
    if not parts:
        raise UsageError(f"The study has no part {part!r}; choose one of {', '.join(one.name for one in every)}.")
    if not plan:
        with open_backend(requested_backend(backend, address, workers)) as computing:
            compute_missing(source, store, parts, computing, quiet=as_json)
    rows = [
        {
            "part": one.name,
            "question": one.question,
            "runs": len(one.specs),
            "missing": sum(store.get(spec) is None for spec in one.specs),
        }
        for one in parts
    ]
    if as_json:
        print_json({"model": model, "parts": rows})
        return
    listed = Table("part", "runs", "missing", "question")
    for row in rows:
        listed.add_row(row["part"], str(row["runs"]), str(row["missing"]), row["question"])
    out.print(listed)


def print_tables(source: ModelSource, store: Store, name: str, *, as_json: bool) -> None:
    """Print tables of stored runs as Markdown or JSON. Raises `UsageError` for an unknown table or a missing run."""
    from studies.study import setting_of
    from studies.tables import TABLES, Study

    if name not in (*TABLES, "all"):
        raise UsageError(f"The study has no table {name!r}; choose one of {', '.join(TABLES)}, or all.")
    study = Study(store, source.ref, setting_of(source.ref))
    found = {one: TABLES[one](study) for one in TABLES if name in (one, "all")}
    if as_json:
        print_json({"model": source.id, "tables": {one: rows.to_dict("records") for one, rows in found.items()}})
        return
    for one, rows in found.items():
        out.print(f"### {one}\n\n{markdown(rows)}\n", highlight=False, soft_wrap=True, markup=False)


def markdown(table: pd.DataFrame) -> str:
    """Format a pipe table with three decimals; smaller p-values as "< 0.001"."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
    for row in table.itertuples(index=False):
        cells = (written(str(name), cell) for name, cell in zip(table.columns, row, strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def written(column: str, cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return "< 0.001" if column in ("p", "p_holm", "p_above_chance") and cell < 0.001 else f"{cell:.3f}"


def compute_missing(source: ModelSource, store: Store, parts: Sequence[Part], backend: Backend, *, quiet: bool) -> None:
    """Compute the missing runs of all parts in order, each once; load the model only if there are any."""
    from cap_viz.models.loading import load
    from studies.run_many import computed_in_turn

    wanted = list(dict.fromkeys(spec for part in parts for spec in part.specs if store.sound(spec) is None))
    if not wanted:
        return
    for turn in computed_in_turn(wanted, load(source), store, backend):
        if not quiet:
            out.print(turn.line, highlight=False, soft_wrap=True)


def main() -> None:
    commands = typer.Typer(pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})
    commands.command()(study)
    start_logging()
    cap_viz.cli.main(commands)
