"""toy_math: generated word problems of two to four sums, for the toy model.

A second person also gains or loses things, as a distractor. Options are whole worked solutions, and a wrong one has one
mistake: a slip in a sum, the other person's number, or addition and subtraction confused.
Whole chains of numbers and operations are held out; each single sum occurs in training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    """A start number and the signed changes made to it, in order."""

    start: int
    changes: tuple[int, ...]

    @property
    def totals(self) -> tuple[int, ...]:
        """Return the number after each change."""
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
    """Draw one word problem of `steps` steps, two to four by default."""
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
    """Tell both starts, then the changes: in order for each person, interleaved between persons."""
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
    """Write the chain's worked solution, one sum after the other; wrong `totals` make it a wrong solution."""
    lines, before = [], chain.start
    for change, total in zip(chain.changes, totals or chain.totals, strict=True):
        lines.append(f"{before} {'+' if change > 0 else '-'} {abs(change)} = {total}.")
        before = total
    return f" {' '.join(lines)}\n#### {before}"


def wrong_solutions(rng: random.Random, chain: Chain, aside: Chain) -> list[str]:
    """Make three worked solutions with one mistake each, ending in different wrong numbers."""
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
    """Make one sum wrong by up to three and carry the error through the later sums."""
    step, off = rng.randrange(len(chain.changes)), rng.choice((-3, -2, -1, 1, 2, 3))
    totals = [total + (off if at >= step else 0) for at, total in enumerate(chain.totals)]
    return (totals[-1] if min(totals) >= 0 else -1), solution(chain, totals)


def misread(rng: random.Random, chain: Chain, aside: Chain) -> tuple[int, str]:
    """Replace one number by one of the other person's."""
    step, taken = rng.randrange(len(chain.changes) + 1), rng.choice((aside.start, *map(abs, aside.changes)))
    if step == 0:
        return ended(Chain(taken, chain.changes))
    changed = list(chain.changes)
    changed[step - 1] = taken if changed[step - 1] > 0 else -taken
    return ended(Chain(chain.start, tuple(changed)))


def wrong_way(rng: random.Random, chain: Chain, aside: Chain) -> tuple[int, str]:
    """Flip the sign of one change."""
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
    # The toy reasoner was trained on single questions and reads 256 tokens; its solutions have up to 27.
    writing=replace(NUMBER, max_tokens=64, shots=0),
)
