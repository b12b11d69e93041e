"""Commands beside lm-evaluation-harness: `lm-eval` runs it with our models, `compare-logs` pairs two of its logs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cap_viz.cli.options import JsonOption
from cap_viz.cli.output import out, print_json
from cap_viz.errors import UsageError


def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness with the model type `cap_viz`; all arguments are passed on to it."""
    if find_spec("lm_eval") is None:
        raise UsageError("lm-evaluation-harness is not installed: pip install 'cap-viz[lm-eval]'")
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    import cap_viz.integrations.lm_eval  # noqa: F401 - registers the model type

    sys.argv = ["lm_eval", *context.args]
    cli_evaluate()


def compare_logs(
    first: Annotated[Path, typer.Argument(help="A log written by lm-eval with --log_samples.")],
    second: Annotated[Path, typer.Argument(help="Another log of the same documents.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two logs of lm-eval document by document: difference, interval, exact test, adjusted p."""
    from cap_viz.integrations.sample_logs import compare_logs as compared
    from cap_viz.integrations.sample_logs import read_log

    found = compared(read_log(first), read_log(second))
    if as_json:
        rows = [
            {"metric": one.metric, "filter": one.filter, **asdict(one.result), "p_holm": one.p_holm} for one in found
        ]
        print_json({"first": str(first), "second": str(second), "rows": rows})
        return
    table = Table("metric", "filter", "n", "first", "second", "difference", "95 % interval", "p", "Holm p")
    for one in found:
        result = one.result
        table.add_row(
            one.metric,
            one.filter,
            str(result.n),
            f"{result.mean_a:.4f}",
            f"{result.mean_b:.4f}",
            f"{result.difference:+.4f}",
            f"{result.ci.low:+.4f} … {result.ci.high:+.4f}",
            f"{result.p_value:.2g}",
            f"{one.p_holm:.2g}",
        )
    out.print(table)
    out.print("First minus second. McNemar's exact test for right or wrong, else the paired t-test.")
