"""toy_math: sums in two to four steps about things people have, generated; the toy model's arithmetic.

Somebody else has things too, and gets or loses some, which is not asked. Options are whole worked solutions, and a
wrong one differs by one mistake: a slip in a sum, the other person's number, or taking away instead of adding.
Held out are whole chains of numbers and operations; each single sum occurs in training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cap_viz.tasks.base import Task
from cap_viz.tasks.toy_draws import Drawn, drawn_splits, shuffled
from cap_viz.tasks.toy_words import PEOPLE, THINGS
from cap_viz.tasks.writing import NUMBER

LARGEST = 40
LARGEST_CHANGE = 12
STARTS = ("{who} has {n} {things}.", "{who} starts with {n} {things}.", "The box of {who} has {n} {things}.")
GAINS = ("{who} finds {n} more.", "{who} buys {n} {things}.", "Then {who} gets {n} more.")
LOSSES = ("{who} loses {n}.", "{who} sells {n} {things}.", "Then {who} gives away {n}.")
QUESTIONS = ("How many {things} does {who} have now?", "How many {things} are left for {who}?")


@dataclass(frozen=True)
class Chain:
    """A number and the changes made to it, in order; negative ones take away."""

    start: int
    changes: tuple[int, ...]

    @property
    def totals(self) -> tuple[int, ...]:
        """The number after each change."""
        total, found = self.start, []
        for change in self.changes:
            total += change
            found.append(total)
        return tuple(found)

    @property
    def is_sound(self) -> bool:
        return all(0 <= total <= LARGEST for total in self.totals)

    def __str__(self) -> str:
        return f"{self.start}{''.join(f'{change:+}' for change in self.changes)}"


def draw(rng: random.Random, steps: int | None = None) -> Drawn:
    """One word problem, in two to four steps where their number is not given."""
    who, other = rng.sample(PEOPLE, 2)
    things = rng.choice(THINGS)
    chain, aside = draw_chain(rng, steps or rng.randint(2, 4)), draw_chain(rng, rng.randint(1, 2))
    wrong = wrong_solutions(rng, chain, aside)
    options, gold = shuffled(rng, solution(chain), wrong)
    return Drawn(
        combination=str(chain),
        facts=" ".join(story(rng, {who: chain, other: aside}, things)),
        asked=rng.choice(QUESTIONS).format(things=things, who=who),
        options=options,
        gold=gold,
        difficulty=len(chain.changes),
        solution=options[gold],
    )


def draw_chain(rng: random.Random, steps: int) -> Chain:
    while True:
        changes = tuple(rng.choice((1, -1)) * rng.randint(1, LARGEST_CHANGE) for _ in range(steps))
        chain = Chain(rng.randint(1, 20), changes)
        if chain.is_sound:
            return chain


def story(rng: random.Random, chains: dict[str, Chain], things: str) -> list[str]:
    """Everybody's start, then the changes: each person's in order, those of the other in between."""
    starts = [rng.choice(STARTS).format(who=who, n=chain.start, things=things) for who, chain in chains.items()]
    rng.shuffle(starts)
    left = {who: list(chain.changes) for who, chain in chains.items()}
    told = []
    while any(left.values()):
        who = rng.choice([who for who, changes in left.items() for _ in changes])
        change = left[who].pop(0)
        form = rng.choice(GAINS if change > 0 else LOSSES)
        told.append(form.format(who=who, n=abs(change), things=things))
    return [*starts, *told]


def solution(chain: Chain, totals: Sequence[int] | None = None) -> str:
    """The chain worked out line by line; other `totals` than its own make it a wrong one."""
    lines, before = [], chain.start
    for change, total in zip(chain.changes, totals or chain.totals, strict=True):
        lines.append(f"{before} {'+' if change > 0 else '-'} {abs(change)} = {total}.")
        before = total
    return f" {' '.join(lines)}\n#### {before}"


def wrong_solutions(rng: random.Random, chain: Chain, aside: Chain) -> list[str]:
    """Three worked solutions with one mistake each, all ending in different wrong numbers."""
    found: dict[int, str] = {chain.totals[-1]: ""}
    mistakes = [slip, misread, wrong_way]
    turn = 0
    while len(found) < 4:
        end, text = mistakes[turn % 3](rng, chain, aside)
        turn += 1
        if 0 <= end <= LARGEST and end not in found:
            found[end] = text
    return [text for text in found.values() if text]


def slip(rng: random.Random, chain: Chain, aside: Chain) -> tuple[int, str]:
    """One sum is off by up to three, and everything after it goes on from there."""
    step, off = rng.randrange(len(chain.changes)), rng.choice((-3, -2, -1, 1, 2, 3))
    totals = [total + (off if at >= step else 0) for at, total in enumerate(chain.totals)]
    return (totals[-1] if min(totals) >= 0 else -1), solution(chain, totals)


def misread(rng: random.Random, chain: Chain, aside: Chain) -> tuple[int, str]:
    """One number is the other person's."""
    step, taken = rng.randrange(len(chain.changes) + 1), rng.choice((aside.start, *map(abs, aside.changes)))
    if step == 0:
        return ended(Chain(taken, chain.changes))
    changed = list(chain.changes)
    changed[step - 1] = taken if changed[step - 1] > 0 else -taken
    return ended(Chain(chain.start, tuple(changed)))


def wrong_way(rng: random.Random, chain: Chain, aside: Chain) -> tuple[int, str]:
    """One change goes the other way."""
    step = rng.randrange(len(chain.changes))
    changed = tuple(-change if at == step else change for at, change in enumerate(chain.changes))
    return ended(Chain(chain.start, changed))


def ended(chain: Chain) -> tuple[int, str]:
    return (chain.totals[-1] if chain.is_sound else -1), solution(chain)


TASK = Task(
    name="toy_math",
    title="Toy math",
    summary="Sums in two to four steps with worked solutions, generated for the toy model.",
    version=1,
    source="generated by CAP Viz",
    licence="Apache-2.0",
    prompt_format="Question: {question}\\nAnswer: {worked option}",
    load=lambda: drawn_splits("toy_math", draw),
    is_local=lambda: True,
    writing=NUMBER,
)
