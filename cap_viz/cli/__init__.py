"""Command line of CAP Viz: `cap-viz …`, or `python -m cap_viz …`.

Progress goes to stderr, tables to stdout; with `--json` stdout holds one JSON object and nothing else.
Exit codes: 0 ok, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import errno
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cap_viz import __version__
from cap_viz.cli import (
    catalogue,
    changes,
    compare,
    direct,
    evaluations,
    harness,
    pairs,
    paths,
    plan,
    plugins,
    positions,
    pruning,
    removal,
    scoring,
    serve,
    specifications,
    stability,
)
from cap_viz.cli.output import err
from cap_viz.cli.runs import runs_app
from cap_viz.errors import CapVizError, UsageError
from cap_viz.integrations.plugins import load_plugins
from cap_viz.settings import ask_for, local_folder, requested_device, requested_dtype, start_logging

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# For a command that has moved: accept any arguments, so that its own message is shown.
ANY_OPTIONS = {"ignore_unknown_options": True, "allow_extra_args": True}


def study() -> None:
    """Moved: the runs behind docs/results.md are computed by `python -m studies`."""
    raise UsageError("The study is run from the project's folder by `python -m studies`, with the same options.")


app = typer.Typer(
    help="Score attention heads by ablation, prune a model by the scores, and compare accuracies before and after.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Registered in the order of the help page.
app.command()(serve.serve)
app.add_typer(catalogue.models_app, name="models")
app.add_typer(catalogue.tasks_app, name="tasks")
app.command()(scoring.score)
app.command()(direct.direct)
app.command()(pairs.pairs)
app.command()(paths.paths)
app.command()(positions.positions)
app.command()(changes.changes)
app.command()(removal.removal)
app.command()(stability.stability)
app.command()(specifications.specifications)
app.command()(pruning.prune)
app.command()(pruning.export)
app.command(name="eval")(evaluations.evaluate)
app.command()(compare.compare)
app.command()(evaluations.generate)
app.command()(evaluations.perplexity)
app.command()(evaluations.solution_loss)
app.command(context_settings={**ANY_OPTIONS, "help_option_names": []})(harness.lm_eval)
app.command()(harness.compare_logs)
app.command(hidden=True, context_settings=ANY_OPTIONS)(study)
app.command()(plan.plan)
app.add_typer(runs_app, name="runs")
app.command()(plugins.plugins)
app.command()(catalogue.doctor)


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")] = "",
    dtype: Annotated[str, typer.Option(help="Precision: float32, bfloat16, float16.")] = "",
) -> None:
    ask_for(device=device, dtype=dtype)
    requested_device()
    requested_dtype()
    start_logging()
    load_plugins()
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main(commands: typer.Typer = app) -> None:
    """Entry point: report CAP Viz errors as one sentence on stderr and an exit code."""
    try:
        raise SystemExit(commands(standalone_mode=False))
    except TyperException as error:
        # Typer's message may leave out the offending value.
        reason = error.format_message().strip().rstrip(".")
        if not reason:
            raise SystemExit(0) from error
        typed = shlex.join(sys.argv[1:])
        err.print(f"{reason}. You typed: {typed}. See --help.", style="red", highlight=False, soft_wrap=True)
        raise SystemExit(2) from error
    except UsageError as error:
        err.print(str(error), style="red", highlight=False, soft_wrap=True, markup=False)
        raise SystemExit(2) from error
    except CapVizError as error:
        err.print(str(error), style="red", highlight=False, soft_wrap=True, markup=False)
        raise SystemExit(1) from error
    except OSError as error:
        if error.errno in DISK_FULL:
            sentence = (
                "The disk is full; finished parts are kept. Free some space, or set CAP_VIZ_CACHE to a folder with "
            )
            err.print(f"{sentence}room, and give the command again.", style="red", highlight=False, soft_wrap=True)
            raise SystemExit(1) from error
        if error.filename is None or not Path(error.filename).is_relative_to(local_folder()):
            raise
        reason = f"{error.filename} cannot be used ({error.strerror}); set CAP_VIZ_CACHE to a folder you may write to."
        err.print(reason, style="red", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
    except KeyboardInterrupt as error:
        err.print("Stopped; give the same command again to continue.")
        raise SystemExit(1) from error
