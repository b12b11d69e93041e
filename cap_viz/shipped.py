"""The runs that come with the project: `python -m cap_viz.shipped` computes what is missing and publishes it.

Runs are computed in the local store (so an interrupted rebuild goes on where it was) and then copied to
cache/shipped, which the app itself never writes. Only numbers and example ids are stored, no texts.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cap_viz.errors import CapVizError
from cap_viz.files import replace_folder
from cap_viz.models import DEFAULT_MODEL, load, resolve
from cap_viz.runs import calibration_set, evaluation_set, mask_spec_for, run_steps
from cap_viz.settings import shipped_folder
from cap_viz.spec import EvalSpec, MaskSpec, ModelRef, ProfileSpec, RunSpec, ScoreSpec
from cap_viz.store import Store, StoredRun

TASKS = ("mini_science", "arc_easy")
N_CALIBRATION = 48
N_EVALUATION = 300
SEED = 0
CRITERIA = ("cap", "wanda", "global_magnitude")
SPARSITIES = (0.1, 0.2, 0.5)


def shipped_specs(model: ModelRef) -> Iterator[RunSpec]:
    """Every run the project ships, cheapest first within a task."""
    for task in TASKS:
        evaluation = evaluation_set(task, N_EVALUATION)
        yield EvalSpec(model=model, examples=evaluation)
        yield ScoreSpec(model=model, examples=calibration_set(task, N_CALIBRATION, SEED))
        for criterion in CRITERIA:
            for sparsity in SPARSITIES:
                yield EvalSpec(model=model, examples=evaluation, mask=mask(model, task, criterion, sparsity))
        for criterion in ("cap", "global_magnitude"):
            calibration = calibration_set(task, N_CALIBRATION, SEED)
            yield ProfileSpec(model=model, examples=calibration, mask=mask(model, task, criterion, 0.0))


def mask(model: ModelRef, task: str, criterion: str, sparsity: float) -> MaskSpec:
    return mask_spec_for(model, criterion, sparsity, task=task, n=N_CALIBRATION, seed=SEED)


def publish(run: StoredRun, folder: Path) -> None:
    """Copy a finished run into `folder`, complete or not at all."""
    building = folder / f".{run.folder.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    shutil.copytree(run.folder, building)
    replace_folder(building, folder / run.folder.name)


def main() -> None:
    """Compute and publish every missing run, with progress on stderr."""
    from cap_viz.cli import describe, shown

    source = resolve(DEFAULT_MODEL)
    model, store = load(source), Store()
    for spec in shipped_specs(source.ref):
        run = shown(run_steps(spec, model, store))
        if run.origin == "live":
            publish(run, shipped_folder())
        seconds = run.provenance["seconds"]
        print(f"{spec.examples.task}: {describe(spec)} ({run.origin}, {seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    try:
        main()
    except CapVizError as error:
        sys.exit(str(error))
