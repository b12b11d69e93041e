"""How far a piece of work is. Long work is a generator that yields one of these about once a second."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of work (equal units take about equal time); `note` says what is going on."""

    done: float
    total: float
    note: str = ""
    partial: Any = None

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0


def finish(steps: Generator[Any, None, Result]) -> Result:
    """Run a generator to its end and give back what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def duration(seconds: float) -> str:
    """A length of time in words, no finer than one reads it: 45 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
