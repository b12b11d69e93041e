"""The batch plan: which examples share a forward pass, fixed before the first one.

Bit-identical results need the same plan (other batch sizes move log-likelihoods by up to 4e-5), so it is stored
with the run and followed on resume.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace


def halved(plan: BatchPlan, unfinished: Collection[int]) -> BatchPlan | None:
    """Cut every unfinished batch in two and halve `most_tokens`, if set; None where nothing is left to halve.

    The second halves go to the end, so that finished batches keep their numbers.
    """
    batches, second = list(plan.batches), []
    for number in sorted(unfinished):
        members = batches[number]
        middle = -(-len(members) // 2)
        batches[number] = members[:middle]
        second += [members[middle:]] if members[middle:] else []
    most = plan.most_tokens
    if not second and (most is None or most == 1):
        return None
    return replace(plan, batches=(*batches, *second), most_tokens=most and max(1, most // 2))


@dataclass(frozen=True)
class BatchPlan:
    """Example numbers of each batch; `packed` says whether an example's options share a row.

    `direct`: `attribution/forward/llama_fast_path.py` computes instead of the model's own blocks. `most_tokens` limits
    the tokens of one step where a batch can be split into steps of some heads each; None where it cannot.
    """

    batches: tuple[tuple[int, ...], ...]
    packed: bool
    direct: bool = False
    most_tokens: int | None = None

    def numbers(self, only: Iterable[int] | None = None) -> Iterable[int]:
        """Return the numbers of all batches, or `only` the given ones."""
        return range(len(self.batches)) if only is None else only


def plan_batches(
    lengths: Sequence[int], token_budget: int, *, window: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Group examples of similar length so that examples x longest length stays within `token_budget`.

    Sorting by length keeps padding small; with a `window`, only that many neighbours are sorted among themselves,
    so that results arrive roughly in source order. An example longer than the budget gets a batch of its own.
    """
    order: list[int] = []
    step = window or len(lengths)
    for number, start in enumerate(range(0, len(lengths), step)):
        neighbours = range(start, min(start + step, len(lengths)))
        # Alternate ascending and descending, so that a batch spanning two windows holds similar lengths, too.
        order += sorted(neighbours, key=lambda i: lengths[i], reverse=number % 2 == 1)
    batches: list[tuple[int, ...]] = []
    current: list[int] = []
    longest = 0
    for i in order:
        longest_with = max(longest, lengths[i])
        if current and longest_with * (len(current) + 1) > token_budget:
            batches.append(tuple(current))
            current, longest_with = [], lengths[i]
        current.append(i)
        longest = longest_with
    if current:
        batches.append(tuple(current))
    return tuple(batches)
