"""Which items a result is about, and whether two results may be paired item by item. Needs no torch.

Ids alone do not tell: they repeat from task to task ("evaluation-0", "window-0"), and the texts behind them need not be
on this machine. Items are the same where task and version agree, and for each id the right answer and the lengths of
the options. Results of examples that were made by hand, without a task, pair with each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cap_viz.errors import UsageError
from cap_viz.tasks.base import TaskVersion

Facts = tuple[int | str, ...]


@dataclass(frozen=True)
class Items:
    """The items of a result, in its order. `facts[i]` are the right answer of item i and the lengths of its options.

    `tasks` are those the items come from: one, none for items made by hand, several for a mixture.
    """

    tasks: tuple[TaskVersion, ...]
    ids: tuple[str, ...]
    facts: tuple[Facts, ...]

    @property
    def digest(self) -> str:
        """8 hex digits of ids, right answers and lengths."""
        return hashlib.sha256(json.dumps([self.ids, self.facts]).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        return f"{len(self.ids)} items of {' and '.join(map(str, self.tasks)) or 'no task'} (hash {self.digest})"

    def take(self, rows: Sequence[int]) -> Items:
        return replace(self, ids=tuple(self.ids[i] for i in rows), facts=tuple(self.facts[i] for i in rows))


def check_same_items(first: Items, second: Items) -> None:
    """Raise `UsageError`, naming both, unless the two are about the same items in the same order."""
    if first != second:
        raise UsageError(
            f"The two results are about different items: {first} and {second}. Evaluate both on the same examples."
        )


def common_rows(first: Items, second: Items) -> tuple[list[int], list[int]]:
    """Where the ids that are in both stand in the one and in the other, in the first one's order.

    Raises `UsageError` where the same ids stand for different items.
    """
    place = {identity: row for row, identity in enumerate(second.ids)}
    rows = [row for row, identity in enumerate(first.ids) if identity in place]
    others = [place[first.ids[row]] for row in rows]
    check_same_items(first.take(rows), second.take(others))
    return rows, others
