"""How far a piece of work is. Long work is a generator that yields one of these about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")
LOOK_AGAIN_SECONDS = 0.2


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of work (equal units take about equal time); `note` says what is going on.

    `waiting`: nothing was done, since somebody else has to finish first; look again a little later.
    """

    done: float
    total: float
    note: str = ""
    partial: Any = None
    waiting: bool = False

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


def finish(steps: Generator[Any, None, Result], watch: Callable[[Any], None] = lambda progress: None) -> Result:
    """Run a generator to its end and return what it returns; `watch` sees every step."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as stop:
            return stop.value
        watch(progress)
        if isinstance(progress, Progress) and progress.waiting:
            time.sleep(LOOK_AGAIN_SECONDS)


def duration(seconds: float) -> str:
    """A length of time in words, no finer than one reads it: 45 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
