"""The toy tasks: a solver that reads the texts agrees with every gold answer, and half of the facts is not enough."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from cap_viz.tasks import Example, toy_choice, toy_math, toy_strategy
from cap_viz.tasks.toy_draws import N_CALIBRATION, N_EVALUATION, Draw, drawn, example, split_of
from cap_viz.tasks.toy_words import COLOURS, FOODS, PLACES

TASKS = {task.name: task for task in (toy_math.TASK, toy_strategy.TASK, toy_choice.TASK)}
TOYS = {"toy_math": toy_math.draw, "toy_strategy": toy_strategy.draw, "toy_choice": toy_choice.draw}
# Each form of a sentence as the solver reads it, written apart from the generators' own.
IS_AT = (r"^(\w+) (?:is in|went to|waits in) the (\w+)$",)
IS_LIKE = (r"^The (\w+) (?:is|feels) (\w+)$",)
HAS = (r"^The (\w+) (?:lives in the|eats|wears) (\w+)$", r"^The (?:home|food|hat) of the (\w+) is (?:the )?(\w+)$")


def sentences(text: str) -> list[str]:
    return re.findall(r"[^.?]+(?=[.?])", text.replace(". ", ".").replace("\n", ""))


def solve_math(example: Example) -> int:
    """The last number of the person asked about, one sentence after the other."""
    who = re.search(r"(?:does|left for) (\w+)", sentences(example.question)[-1])
    assert who is not None
    total = 0
    for sentence in sentences(example.question)[:-1]:
        if who[1] not in sentence.split():
            continue
        number = int(re.findall(r"\d+", sentence)[0])
        if re.search(r"finds|buys|gets", sentence):
            total += number
        elif re.search(r"loses|sells|gives away", sentence):
            total -= number
        else:
            assert total == 0, "a person starts once"
            total = number
    ends = [int(re.findall(r"#### (\d+)$", option)[0]) for option in example.options]
    assert len(set(ends)) == 4
    return ends.index(total)


def pairs(text: str, forms: tuple[str, ...]) -> dict[str, set[str]]:
    """What is told of each thing."""
    found: dict[str, set[str]] = {}
    for sentence in sentences(text):
        for form in forms:
            if match := re.match(form, sentence):
                found.setdefault(match[1], set()).add(match[2])
    return found


def solve_strategy(example: Example) -> int:
    at, like = pairs(example.question, IS_AT), pairs(example.question, IS_LIKE)
    asked = sentences(example.question)[-1].split()
    (who,) = set(asked) & set(at)
    (place,) = at[who]
    (quality,) = like[place]
    verdict = "yes" if quality in asked else "no"
    return example.options.index(f" {who} is in the {place}. The {place} is {quality}. So the answer is {verdict}.")


def solve_choice(example: Example) -> int:
    """The kind of the shown answer is looked up among the kinds of words, then the animal's own of that kind."""
    kinds = (set(PLACES), set(FOODS), set(COLOURS))
    told, _, asked = example.question.rpartition(". ")
    has = pairs(told + ".", HAS)
    words = re.findall(r"\w+", asked)
    first, animal = [word for word in words if word in has]
    (shown,) = set(words) & has[first]
    (kind,) = [kind for kind in kinds if shown in kind]
    (right,) = has[animal] & kind
    return example.options.index(f" {right}")


SOLVERS: dict[str, Callable[[Example], int]] = {
    "toy_math": solve_math,
    "toy_strategy": solve_strategy,
    "toy_choice": solve_choice,
}


@pytest.mark.parametrize("name", TOYS)
def test_a_solver_reads_the_gold_answer_off_every_question(name: str) -> None:
    splits = TASKS[name].splits
    assert (len(splits.calibration), len(splits.evaluation)) == (N_CALIBRATION, N_EVALUATION)
    for one in (*splits.calibration, *splits.evaluation):
        assert SOLVERS[name](one) == one.gold, one.question


@pytest.mark.parametrize(("name", "draw"), TOYS.items())
def test_a_question_follows_from_its_id(name: str, draw: Draw) -> None:
    (again,) = TASKS[name].by_ids(["evaluation-17"])
    assert again == example(name, "evaluation", draw, 17)


@pytest.mark.parametrize(("name", "draw"), TOYS.items())
def test_no_combination_is_in_two_splits(name: str, draw: Draw) -> None:
    calibration = {drawn(name, "calibration", draw, index).combination for index in range(100)}
    evaluation = {drawn(name, "evaluation", draw, index).combination for index in range(100)}
    training = {drawn(name, "training", draw, index).combination for index in range(100)}
    assert not calibration & evaluation
    assert not training & (calibration | evaluation)
    assert {split_of(one) for one in training} == {"training"}


@pytest.mark.parametrize("name", TOYS)
def test_gold_positions_are_nearly_balanced_and_questions_differ(name: str) -> None:
    examples = TASKS[name].evaluation()
    counts, options = Counter(one.gold for one in examples), len(examples[0].options)
    expected = len(examples) / options
    assert len(counts) == options
    # Four standard deviations of a fair draw.
    assert all(abs(count - expected) < 4 * (expected * (1 - 1 / options)) ** 0.5 for count in counts.values())
    assert len({one.question for one in examples}) == len(examples)


def test_half_of_the_facts_of_toy_strategy_leaves_a_yes_and_a_no() -> None:
    """Told only who is where, or only what places are like, two options fit, and they say the opposite."""
    for one in TASKS["toy_strategy"].evaluation(300):
        at, like = pairs(one.question, IS_AT), pairs(one.question, IS_LIKE)
        said = [
            (*pairs(option.strip(), IS_AT).items(), *pairs(option.strip(), IS_LIKE).items()) for option in one.options
        ]
        verdicts = [option.split()[-1] for option in one.options]
        knows_where = [verdicts[k] for k, (where, _) in enumerate(said) if at[where[0]] == where[1]]
        knows_what = [verdicts[k] for k, (_, what) in enumerate(said) if like[what[0]] == what[1]]
        assert sorted(knows_where) == sorted(knows_what) == ["no.", "yes."]
        assert sorted(verdicts) == ["no.", "no.", "yes.", "yes."]


def test_toy_choice_needs_both_the_pair_and_the_facts() -> None:
    """Two options are of the kind shown and two belong to the animal: each alone leaves a coin to toss."""
    kinds = (set(PLACES), set(FOODS), set(COLOURS))
    for one in TASKS["toy_choice"].evaluation(300):
        told, _, asked = one.question.rpartition(". ")
        has = pairs(told + ".", HAS)
        animal = [word for word in re.findall(r"\w+", asked) if word in has][1]
        values = [option.strip() for option in one.options]
        assert sum(value in has[animal] for value in values) == 2
        right = values[one.gold]
        assert sum(value in kind for kind in kinds if right in kind for value in values) == 2
        assert not set(values) & set(re.findall(r"\w+", asked)), "no option is said in the question itself"


def test_wrong_solutions_of_toy_math_hold_one_mistake() -> None:
    """Every line of a wrong solution but one adds up, or all do and a number is not the story's."""
    for one in TASKS["toy_math"].evaluation(300):
        for at, option in enumerate(one.options):
            lines = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", option)
            wrong = [line for line in lines if int(line[0]) + int(line[1] + line[2]) != int(line[3])]
            assert len(wrong) <= (0 if at == one.gold else 1)
            assert option.endswith(f"#### {lines[-1][3]}")
            assert all(first[3] == then[0] for first, then in pairwise(lines))


def test_chains_stay_between_nothing_and_the_largest_number() -> None:
    rng = random.Random(1)
    for _ in range(300):
        chain = toy_math.draw_chain(rng, 4)
        assert all(0 <= total <= toy_math.LARGEST for total in chain.totals)
    assert str(toy_math.Chain(7, (5, -3))) == "7+5-3"
    assert toy_math.solution(toy_math.Chain(7, (5, -3))) == " 7 + 5 = 12. 12 - 3 = 9.\n#### 9"
