"""Items on which models answer differently, by who is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cap_viz.attribution.results import EvalReport
from cap_viz.tasks.pairing import common_rows

ALL, APART = "all", "apart"


@dataclass(frozen=True)
class Flip:
    """One item with differing answers: the right option (`gold`) and the one each model chose."""

    id: str
    number: int
    gold: int
    chosen: Mapping[str, int]

    def right(self, model: str) -> bool:
        return self.chosen[model] == self.gold


def flips_of(reports: Mapping[str, EvalReport]) -> tuple[Flip, ...]:
    """Return the items on which at least two models differ, in item order, among those that all have answered.

    Raises `UsageError` where an id stands for different items.
    """
    if len(reports) < 2:
        return ()
    first, *others = reports.values()
    for other in others:
        common_rows(first.items, other.items)
    chosen = {
        name: dict(zip(report.questions.ids, report.chosen.tolist(), strict=True)) for name, report in reports.items()
    }
    flips: list[Flip] = []
    for number, (identity, gold) in enumerate(zip(first.questions.ids, first.questions.gold, strict=True), start=1):
        answers = {name: of[identity] for name, of in chosen.items() if identity in of}
        if len(answers) == len(reports) and len(set(answers.values())) > 1:
            flips.append(Flip(id=identity, number=number, gold=int(gold), chosen=answers))
    return tuple(flips)


def flips_by_filter(flips: Sequence[Flip], models: Sequence[str], dense: str) -> dict[str, tuple[Flip, ...]]:
    """Group flips: all; per pruned model those lost and gained against dense; those only one of two gets right."""
    found = {ALL: tuple(flips)}
    pruned = [name for name in models if name != dense]
    for name in pruned if dense in models else ():
        found[f"lost_{name}"] = tuple(flip for flip in flips if flip.right(dense) and not flip.right(name))
        found[f"gained_{name}"] = tuple(flip for flip in flips if not flip.right(dense) and flip.right(name))
    if len(pruned) == 2:
        first, second = pruned
        found[APART] = tuple(flip for flip in flips if flip.right(first) != flip.right(second))
    return found
