"""Progress of long work: a generator that yields a `Progress` about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")
LOOK_AGAIN_SECONDS = 0.2
# Steps of a progress bar, which shows shares of the whole.
BAR_STEPS = 1000


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of work (equal units take about equal time); `note` describes the current step.

    `waiting`: nothing was done, since other work has to finish first; try again a little later.
    """

    done: float
    total: float
    note: str = ""
    partial: Any = None
    waiting: bool = False

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


Steps = Generator[Progress, None, Result]


def finish(steps: Generator[Any, None, Result], watch: Callable[[Any], None] = lambda progress: None) -> Result:
    """Run a generator to its end and return its result; `watch` is called with every step."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as stop:
            return stop.value
        watch(progress)
        if isinstance(progress, Progress) and progress.waiting:
            time.sleep(LOOK_AGAIN_SECONDS)


def portion(steps: Steps[Result], index: int, count: int) -> Steps[Result]:
    """Run the same steps, with their progress shown as portion `index` of `count` equal ones."""
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as stop:
                return stop.value
            yield Progress(index + progress.share, count, progress.note, waiting=progress.waiting)
    finally:
        steps.close()


def finish_with_bar(steps: Steps[Result], show: bool) -> Result:
    """Run a generator to its end; with `show`, below a progress bar fit for a terminal or a notebook."""
    if not show:
        return finish(steps)
    from tqdm.auto import tqdm

    with tqdm(total=BAR_STEPS, leave=False, bar_format="{desc}{percentage:3.0f}% |{bar}| {elapsed}<{remaining}") as bar:

        def update(progress: Progress) -> None:
            bar.set_description(progress.note, refresh=False)
            bar.update(max(0, int(progress.share * BAR_STEPS) - bar.n))

        return finish(steps, update)


def duration(seconds: float) -> str:
    """Format a duration, rounded for reading: 45 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
