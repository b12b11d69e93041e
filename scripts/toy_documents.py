"""What the toy reasoner is trained on: the three toy tasks, and what they build on (copying, retelling, looking up).

Only questions of the training split are asked. Every piece of a document carries a weight for the loss: answers and
what is repeated count whole, the facts that are made up anew each time count little, since nobody can know them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from cap_viz.tasks import toy_choice, toy_math, toy_strategy
from cap_viz.tasks.toy_draws import Drawn, split_of
from cap_viz.tasks.toy_words import ANIMALS, COLOURS, FOODS, PEOPLE, PLACES, PROPERTIES, THINGS

TOKEN = r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s"
END = "<end>"
FACTS_WEIGHT = 0.02
# A worked solution has a dozen tokens and more, the other answers one.
SOLUTION_WEIGHT = 0.3
QUESTIONS_PER_WORLD = 4
EVERY_WORD = (*PEOPLE, *PLACES, *PROPERTIES, *ANIMALS, *FOODS, *COLOURS, *THINGS)

# A document: texts and the weights of their tokens in the loss.
Document = list[tuple[str, float]]


def in_training(draw: Callable[[], Drawn], tries: int = 100) -> Drawn | None:
    """A question of the training split; None when `tries` draws gave none (few can be asked about small worlds)."""
    found = (draw() for _ in range(tries))
    return next((one for one in found if split_of(one.combination) == "training"), None)


def asked(question: str, answer: str, weight: float = 1.0) -> Document:
    return [(f"Question: {question}\nAnswer:", FACTS_WEIGHT), (answer, weight)]


def math_document(rng: random.Random) -> Document | None:
    found = in_training(lambda: toy_math.draw(rng))
    if found is None:
        return None
    return [*asked(found.question, found.options[found.gold], SOLUTION_WEIGHT), (END, 1.0)]


def strategy_document(rng: random.Random) -> Document | None:
    world = toy_strategy.draw_world(rng)
    facts = toy_strategy.tell(rng, world)
    return world_document(facts, lambda: toy_strategy.ask(rng, world, facts), SOLUTION_WEIGHT)


def choice_document(rng: random.Random) -> Document | None:
    world = toy_choice.draw_world(rng)
    facts = toy_choice.tell(rng, world)
    return world_document(facts, lambda: toy_choice.ask(rng, world, facts), 1.0)


def world_document(facts: str, ask: Callable[[], Drawn], weight: float) -> Document | None:
    """Some questions about the same facts, so that one reading of them teaches more."""
    document: Document = []
    for turn in range(QUESTIONS_PER_WORLD):
        found = in_training(ask)
        if found is None:
            return None
        document += [("\n", FACTS_WEIGHT)] if turn else []
        document += asked(found.asked if turn else f"{facts} {found.asked}", found.options[found.gold], weight)
    return [*document, (END, 1.0)]


def lookup_document(rng: random.Random) -> Document:
    """Facts asked for by their own word: one alone, or the second of two that belong together."""
    if rng.random() < 0.5:
        world = toy_strategy.draw_world(rng)
        facts = toy_strategy.tell(rng, world)
        questions = [(f"Where is {who}?", f" {place}") for who, place, _ in world]
        questions += [(f"What is the {place} like?", f" {quality}") for _, place, quality in world]
        questions += [
            (f"What is it like where {who} is?", f" {quality}")
            for who, place, quality in world
            if split_of(f"{who} {place} {quality}") == "training"
        ]
    else:
        animals = toy_choice.draw_world(rng)
        facts = toy_choice.tell(rng, animals)
        questions = [
            (f"What {relation} has the {animal}?", f" {value}")
            for animal, has in animals.items()
            for relation, value in has.items()
            if split_of(f"{animal} {value}") == "training"
        ]
    rng.shuffle(questions)
    document: Document = []
    for turn, (question, answer) in enumerate(questions[:6]):
        document += [("\n", FACTS_WEIGHT)] if turn else []
        document += asked(question if turn else f"{facts} {question}", answer)
    return [*document, (END, 1.0)]


def retold_document(rng: random.Random) -> Document:
    """The facts of a world told twice, in another order and in other words."""
    if rng.random() < 0.5:
        people = toy_strategy.draw_world(rng)
        first, second = (toy_strategy.tell(rng, people) for _ in range(2))
    else:
        animals = toy_choice.draw_world(rng)
        first, second = (toy_choice.tell(rng, animals) for _ in range(2))
    return [(f"Question: {first}\n", FACTS_WEIGHT), (f"Answer: {second}", 1.0), (END, 1.0)]


def repeated_document(rng: random.Random) -> Document:
    """Random words said twice: what comes next is what came next the first time."""
    words = [f" {word}" for word in rng.choices(EVERY_WORD, k=rng.randint(8, 24))]
    return [("".join(words), 0.0), ("".join(words), 1.0), (END, 1.0)]


DOCUMENTS: dict[str, Callable[[random.Random], Document | None]] = {
    "math": math_document,
    "strategy": strategy_document,
    "choice": choice_document,
    "lookup": lookup_document,
    "retold": retold_document,
    "repeated": repeated_document,
}


def document(kind: str, rng: random.Random) -> Document:
    while True:
        made = DOCUMENTS[kind](rng)
        if made is not None:
            return made


def vocabulary() -> list[str]:
    """Every token that can occur, found by drawing; special tokens first."""
    rng = random.Random("vocabulary")
    found = {f" {number}" for number in range(toy_math.LARGEST + 10)}
    for kind in DOCUMENTS:
        for _ in range(3000):
            for text, _ in document(kind, rng):
                if text != END:
                    found.update(re.findall(TOKEN, text))
    for draw in (toy_math.draw, toy_strategy.draw, toy_choice.draw):
        for _ in range(3000):
            for option in draw(rng).options:
                found.update(re.findall(TOKEN, option))
    return ["<unk>", END, *sorted(found)]
