"""Kill computing processes and resume them: python -m tests.kills --work FOLDER [--kills 5] [--seed 0] [--every-write]

The parent loads a tiny model once and never computes. An attempt is a forked child that computes one run in the store
under FOLDER/killed and dies by SIGKILL, either after a random time (`--kills` in all, spread over the runs) or at
its n-th file operation, for every n until it survives (`--every-write`). After each death the store is read as another
process would read it. At last every run is resumed and compared with its undisturbed twin in FOLDER/undisturbed.

Prints one JSON object: how many kills, how many of them hit a run in the middle, and everything that went wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from cap_viz.models.catalogue import resolve
from cap_viz.models.loading import ReasoningModel, load
from cap_viz.progress import finish
from cap_viz.runs.execute import run_steps
from cap_viz.runs.masks import mask_spec_for
from cap_viz.runs.spec import EvalSpec, RunSpec, ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.tasks.example_sets import calibration_set, evaluation_set
from tests.tiny import write_tiny_model

TASK = "mini_science"
# What happens to files while a run is computed and saved; a death just before and just after each is tried.
OPERATIONS = ((os, "fsync"), (Path, "replace"), (Path, "rename"))


def specs(model: ReasoningModel) -> dict[str, RunSpec]:
    """Scoring by both estimators, an evaluation, and the pruned evaluations a comparison consists of."""
    scores = ScoreSpec(model=model.ref, examples=calibration_set(TASK, 24))
    dense = EvalSpec(model=model.ref, examples=evaluation_set(TASK, 200))
    masks = {name: mask_spec_for(model.ref, name, 0.5, task=TASK, n=4) for name in ("cap", "wanda", "global_magnitude")}
    return {
        "scores": scores,
        "gradient": replace(scores, estimator="gradient", metric="nll"),
        "dense": dense,
        **{f"compare {name}": replace(dense, mask=mask) for name, mask in masks.items()},
    }


def store_in(folder: Path) -> Store:
    return Store(shipped=folder / "shipped", local=folder / "local")


def child(work: Callable[[], object]) -> int:
    """Run `work` in a forked process that exits without any clean-up of ours; returns its number."""
    process = os.fork()
    if process:
        return process
    try:
        work()
        os._exit(0)
    except BaseException as error:  # Nothing of the parent's may run in the child.
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def compute(spec: RunSpec, model: ReasoningModel, store: Store) -> None:
    finish(run_steps(spec, model, store))


def dying_at(number: int, work: Callable[[], None]) -> Callable[[], None]:
    """`work`, killed at its `number`-th file operation: even numbers before it happens, odd ones after."""

    def doomed() -> None:
        seen = iter(range(10**9))
        for owner, name in OPERATIONS:
            setattr(owner, name, counted(getattr(owner, name), seen, number))
        work()

    return doomed


def counted(operation: Callable[..., object], seen: Iterator[int], number: int) -> Callable[..., object]:
    def instead(*arguments: object) -> object:
        if next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = operation(*arguments)
        if next(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return instead


def killed_after(process: int, seconds: float) -> bool:
    """Kill the process unless it ends before; whether it was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


class Trial:
    """Undisturbed twins, attempts on the other store, and what went wrong so far."""

    def __init__(self, work: Path, model: ReasoningModel) -> None:
        self.model = model
        self.twins, self.store = store_in(work / "undisturbed"), store_in(work / "killed")
        self.kills = self.in_the_middle = 0
        self.wrong: list[str] = []

    def undisturbed(self, spec: RunSpec) -> float:
        """Compute the twin in a child; its seconds."""
        started = time.monotonic()
        status = os.waitpid(child(lambda: compute(spec, self.model, self.twins)), 0)[1]
        if status != 0:
            self.wrong.append(f"the undisturbed run of {spec.kind} ended with status {status}")
        return time.monotonic() - started

    def check(self, name: str, spec: RunSpec) -> None:
        """After a death: nothing damaged is found, and a run that is there is whole."""
        self.wrong += [f"{name}: {sentence}" for sentence in self.store.damaged()]
        for run in self.store.runs():
            self.store.verify(run)
        unfinished = self.store.partial_run_dir(spec)
        self.in_the_middle += unfinished.is_dir() and any(unfinished.glob("batch-*"))

    def forget(self, spec: RunSpec) -> None:
        """Finished is finished: only a run that is not there can be killed."""
        found = self.store.get(spec)
        if found is not None:
            self.store.delete(found)

    def kill_randomly(self, name: str, spec: RunSpec, seconds: float, chance: random.Random) -> None:
        self.forget(spec)
        process = child(lambda: compute(spec, self.model, self.store))
        if killed_after(process, chance.uniform(0, seconds)):
            self.kills += 1
            self.check(name, spec)

    def kill_at_every_write(self, name: str, spec: RunSpec) -> None:
        for number in range(10**6):
            self.forget(spec)
            status = os.waitpid(child(dying_at(number, lambda: compute(spec, self.model, self.store))), 0)[1]
            if not os.WIFSIGNALED(status):
                return
            self.kills += 1
            self.check(name, spec)

    def compare(self, name: str, spec: RunSpec) -> None:
        """Resume to the end and compare every table bit by bit with the twin's."""
        status = os.waitpid(child(lambda: compute(spec, self.model, self.store)), 0)[1]
        if status != 0:
            self.wrong.append(f"{name}: the resumed run ended with status {status}")
        mine, twin = self.store.get(spec), self.twins.get(spec)
        if mine is None or twin is None or mine.digests != twin.digests:
            self.wrong.append(f"{name}: the resumed result differs from the undisturbed one")
        if self.store.partial_run_dir(spec).exists():
            self.wrong.append(f"{name}: unfinished files are left behind")

    def left_behind(self) -> None:
        """Asked once all runs are resumed: a mask's score run, killed as it was saved, is resumed by the last ones."""
        left = [path.name for path in self.store.local.iterdir() if path.name.startswith(".")]
        if left:
            self.wrong.append(f"{left} are left behind")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-write", action="store_true")
    parser.add_argument("--runs", default="", help="names of the runs to kill, separated by commas; all by default")
    options = parser.parse_args()
    model = load(resolve(str(write_tiny_model(options.work / "model"))))
    trial, chance = Trial(options.work, model), random.Random(options.seed)
    runs = {name: spec for name, spec in specs(model).items() if name in (options.runs or name).split(",")}
    seconds = {name: trial.undisturbed(spec) for name, spec in runs.items()}
    names = list(runs)
    if options.every_write:
        for name in ("scores", "dense"):
            trial.kill_at_every_write(name, runs[name])
    attempts = 0
    while trial.kills < options.kills and attempts < 20 * options.kills:
        name = names[attempts % len(names)]
        trial.kill_randomly(name, runs[name], seconds[name], chance)
        attempts += 1
    for name, spec in runs.items():
        trial.compare(name, spec)
    trial.left_behind()
    print(json.dumps({"kills": trial.kills, "in_the_middle": trial.in_the_middle, "wrong": trial.wrong}))
    return 1 if trial.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
