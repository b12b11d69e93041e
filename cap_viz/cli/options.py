"""Options shared by several commands, and parsers of their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.results import ABLATIONS
from cap_viz.errors import UsageError
from cap_viz.pruning import CRITERIA
from cap_viz.tasks import TASKS
from cap_viz.tasks.own import SUFFIXES, add_task

ModelOption = Annotated[str, typer.Option("--model", "-m", help="Catalogue name, local folder or hub id.")]


def task_named(value: str) -> str:
    """Return a task's name unchanged; add the task of a file first and return its name."""
    return add_task(Path(value), tuple(TASKS)).name if Path(value).suffix in SUFFIXES else value


def task_or_none(value: str | None) -> str | None:
    return None if value is None else task_named(value)


TaskOption = Annotated[
    str, typer.Option("--task", "-t", callback=task_named, help="Task name (see `tasks`), or a file of your own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
SeedOption = Annotated[int, typer.Option(help="Seed for drawing calibration examples.")]
CriterionOption = Annotated[str, typer.Option(help=f"Criterion: {', '.join(CRITERIA)}.")]
SparsityOption = Annotated[float, typer.Option(help="Share of weights set to zero, 0 ≤ s < 1.")]
# Of commands that measure the model as it is, or pruned first with the usual options.
CriterionOrDenseOption = Annotated[
    str, typer.Option("--criterion", help="Measure the model pruned by this criterion; dense if left out.")
]
SparsityWithOption = Annotated[
    float, typer.Option("--sparsity", help="Share of weights set to zero, with --criterion.")
]
PROMPT_HELP = r"Another wording of the prompt, such as 'Q: {question}\nA:'"
PromptOption = Annotated[str | None, typer.Option("--prompt", help=f"{PROMPT_HELP}; the task's own if left out.")]
EffectMetricOption = Annotated[str, typer.Option(help=f"One of {', '.join(METRICS)}.")]
AblationOption = Annotated[str, typer.Option(help=f"What replaces a head's output: {', '.join(ABLATIONS)}.")]
MetricOption = Annotated[str, typer.Option(help="Metric of CAP's head scores.")]
CalibrationTaskOption = Annotated[
    str | None, typer.Option(help="Measure activations and gradients on another task, e.g. generic_text.")
]
ScoresTaskOption = Annotated[
    str | None,
    typer.Option(help="Build CAP from head scores of another task, e.g. own solutions.", callback=task_or_none),
]
# --engine is the former name, accepted until version 0.2.
BackendOption = Annotated[
    str, typer.Option("--backend", "--engine", help="Backend: local, or ray (workers of a cluster).")
]
AddressOption = Annotated[
    str, typer.Option(help="ray: address of a running cluster, or auto; this machine if left out.")
]
WorkersOption = Annotated[int | None, typer.Option(help="ray: number of workers; one per device if left out.")]


def split_list(what: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{text!r} names no {what}; give at least one, separated by commas.")
    return parts


def head_list(text: str) -> tuple[tuple[int, int], ...]:
    """Read heads written as L0H1,L2H3; none for an empty text. Raises `UsageError` for anything else."""
    found = []
    for part in split_list("head", text) if text else ():
        name = re.fullmatch(r"L(\d+) ?H(\d+)", part, re.IGNORECASE | re.ASCII)
        if name is None:
            raise UsageError(f"{part!r} is no head; write layer and head, both counted from 0, as in L0H1,L2H3.")
        found.append((int(name[1]), int(name[2])))
    return tuple(found)


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a number; give sparsities such as 0.1,0.2,0.5.") from error


def read_ids(path: Path) -> tuple[str, ...]:
    """Read one id per line; only line feeds end a line, since U+2028 and the like may be part of an id."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start + 1}).") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); give a file with one example id a line."
        ) from error
    ids = tuple(line.strip(" \t\r") for line in text.split("\n") if line.strip())
    if not ids:
        raise UsageError(f"{path} names no example id; put one on each line.")
    return ids
