"""Identity of a result's items, to check that two results may be paired item by item. Needs no torch.

Ids alone do not suffice: they repeat from task to task ("evaluation-0", "window-0"), and the texts behind them need not
be on this machine. Items are the same where task and version agree, and for each id the right answer and the lengths of
the options. Results on examples made by hand, without a task, pair with each other.
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
    """Items of a result, in its order. `facts[i]` holds the right answer of item i and the lengths of its options.

    `tasks` lists the items' tasks: usually one, none for items made by hand, several for a mixture.
    """

    tasks: tuple[TaskVersion, ...]
    ids: tuple[str, ...]
    facts: tuple[Facts, ...]

    @property
    def digest(self) -> str:
        """Return 8 hex digits over ids, right answers and lengths."""
        return hashlib.sha256(json.dumps([self.ids, self.facts]).encode()).hexdigest()[:8]

    def __str__(self) -> str:
        return f"{len(self.ids)} items of {' and '.join(map(str, self.tasks)) or 'no task'} (hash {self.digest})"

    def take(self, rows: Sequence[int]) -> Items:
        return replace(self, ids=tuple(self.ids[i] for i in rows), facts=tuple(self.facts[i] for i in rows))


def check_same_items(first: Items, second: Items) -> None:
    """Raise `UsageError`, naming both, unless the two hold the same items in the same order."""
    if first != second:
        raise UsageError(
            f"The two results are about different items: {first} and {second}. Evaluate both on the same examples."
        )


def common_rows(first: Items, second: Items) -> tuple[list[int], list[int]]:
    """Return the row numbers of the shared ids in the first and in the second, in the first one's order.

    Raises `UsageError` where the same ids denote different items.
    """
    place = {identity: row for row, identity in enumerate(second.ids)}
    rows = [row for row, identity in enumerate(first.ids) if identity in place]
    others = [place[first.ids[row]] for row in rows]
    check_same_items(first.take(rows), second.take(others))
    return rows, others
