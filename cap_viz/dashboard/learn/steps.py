"""Steps of the lesson: a few sentences, a guess, and the answer from stored runs.

Every number is read from the runs of the model and task in the sidebar; none is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cap_viz.dashboard.components.head_map import head_name
from cap_viz.dashboard.components.panels import percent
from cap_viz.dashboard.learn.data import TOP, Lesson
from cap_viz.figures.theme import signed
from cap_viz.pruning import CRITERIA

CLEAR = 0.05
ALIKE_POINTS = 5
TOGETHER = 4

# Keys and values of a page's address.
Params = dict[str, str | Sequence[str]]


@dataclass(frozen=True)
class Answer:
    """Index of the right choice, and a sentence with the numbers behind it."""

    right: int
    because: str


@dataclass(frozen=True)
class Link:
    """Link to a page in the state the step is about; `params` may depend on the lesson's numbers.

    `anchor` is that of the heading to land at.
    """

    label: str
    page: str
    params: Callable[[Lesson], Params] = field(default=lambda lesson: {})
    anchor: str = ""


@dataclass(frozen=True)
class LessonStep:
    """A few sentences, a guess with three choices, and the answer from stored runs."""

    title: str
    text: str
    question: Callable[[Lesson], str]
    choices: tuple[str, ...]
    answer: Callable[[Lesson], Answer]
    link: Link


def at_top_head(lesson: Lesson) -> Params:
    layer, head = lesson.top_head
    return {"run": lesson.run_name, "layer": str(layer), "head": str(head)}


def top_together(lesson: Lesson) -> Params:
    top = lesson.heads.estimate.top_heads(TOGETHER)
    return {**at_top_head(lesson), "together": [head_name(*head) for head in top]}


def needed(lesson: Lesson) -> Answer:
    n, others, total = lesson.clearly_needed, lesson.clearly_in_the_way, lesson.heads.estimate.mean.size
    share = n / total
    return Answer(
        0 if share < 0.15 else 1 if share <= 0.4 else 2,
        f"{n} of {total} heads ({percent(share)}): the answers get worse without one of them. Without one of "
        f"{others} others they get better; together {n + others} heads have an effect that survives the test for false "
        "finds. For the rest these examples cannot tell a small effect from none.",
    )


def changed(lesson: Lesson) -> Answer:
    n, total = lesson.changed_answers()
    layer, head = lesson.top_head
    return Answer(
        0 if n == 0 else 1 if n < total / 2 else 2,
        f"On {n} of {total} questions the model chooses another option without head {head} of layer {layer}. "
        f"Its answers "
        "also become less certain where they stay the same: the loss sees that, right or wrong does not.",
    )


def where(lesson: Lesson) -> Answer:
    (layer, head), n_layers = lesson.top_head, lesson.scores.n_layers
    effect = signed(float(lesson.heads.estimate.mean[layer, head]), 2)
    third = min(2, 3 * layer // n_layers)
    return Answer(
        third,
        f"Head {head} of layer {layer} (of {n_layers}, counted from 0): without it the loss on the right answer is "
        f"{effect} nats per token.",
    )


def stable(lesson: Lesson) -> Answer:
    found, n = lesson.halves(), lesson.heads.effects.shape[2]
    return Answer(
        0 if found.shared >= 9 else 1 if found.shared >= 5 else 2,
        f"{found.shared} of {found.k} are the same, with {n // 2} examples on each side; chance alone would give "
        f"{found.expected:.1f}. Whether head 3 or head 7 comes first is often noise, and the page says how often.",
    )


def shared(lesson: Lesson) -> Answer:
    name, found = lesson.control()
    return Answer(
        0 if found.shared <= 2 else 1 if found.shared <= 6 else 2,
        f"{found.shared} of {found.k} are also among the {found.k} largest on {name}. A head that any text needs is no "
        "reasoning head, however large its effect.",
    )


def parts(lesson: Lesson) -> Answer:
    attention, mlp = lesson.removed_shares()
    apart = 100 * (attention - mlp)
    return Answer(
        2 if abs(apart) < ALIKE_POINTS else 0 if apart > 0 else 1,
        f"Of half of all weights removed by CAP: {percent(attention, 0)} of the attention weights and "
        f"{percent(mlp, 0)} of those in the MLPs. The paper has one causal score per head, and none for the MLPs.",
    )


def better(lesson: Lesson) -> Answer:
    cap, wanda, pair = lesson.cap_against_wanda()
    verdict = 2 if pair.p_value >= CLEAR else 0 if pair.difference > 0 else 1
    return Answer(
        verdict,
        f"CAP {percent(cap.acc)}, Wanda {percent(wanda.acc)} on the same {len(cap)} questions: "
        f"{signed(100 * pair.difference, 1)} points, p = {pair.p_value:.2g} (paired McNemar test).",
    )


STEPS = (
    LessonStep(
        "What a head is",
        "A language model of this kind reads a text in layers. In each layer some **attention heads** look back at the "
        "earlier words, each in a way of its own, and pass on what they find. Which of them does a task need?",
        lambda lesson: (
            f"This model has {lesson.heads.estimate.mean.size} heads. Taken out one at a time, how many does "
            f"{lesson.view.task.title} clearly need?"
        ),
        ("fewer than 15 %", "15 to 40 %", "more than 40 %"),
        needed,
        Link("See all heads", "pages/heads.py", at_top_head),
    ),
    LessonStep(
        "What removing one does",
        "To see what a head does for the answers, its output is set to zero and nothing else is touched: an "
        "**ablation**. Then the model answers the same questions again. What gets worse was the head's "
        "doing. That is a "
        "cause, not only something that goes along with it.",
        lambda lesson: "The head with the largest effect is out. How often does the model now choose another answer?",
        ("never", "on less than half of the questions", "on half of them or more"),
        changed,
        Link("See its effect on every question", "pages/heads.py", at_top_head, "examples"),
    ),
    LessonStep(
        "Reading the map",
        "Every cell of the map is one head: layers from top to bottom, heads from left to right. Teal: removing it "
        "hurts. Brown: removing it helps. A dot marks effects that survive the test for false finds, faded "
        "cells may be "
        "nothing at all.",
        lambda lesson: "Where does the head with the largest effect sit?",
        ("in the first third of the layers", "in the middle third", "in the last third"),
        where,
        Link("Look at the map", "pages/heads.py", at_top_head),
    ),
    LessonStep(
        "Noise and error bars",
        "An effect is a mean over some questions. Other questions would have given another mean, and so "
        "another order of "
        "heads. The brackets behind every number say how far it can be trusted.",
        lambda lesson: f"Measured on two halves of the questions: how many of the {TOP} largest heads are the same?",
        ("9 or 10", "5 to 8", "fewer than 5"),
        stable,
        Link("See ranks with their intervals", "pages/heads.py", at_top_head, "ranked-heads"),
    ),
    LessonStep(
        "Reasoning, or any text?",
        "Some heads are needed whatever the model reads: without them it cannot even write a sentence. To "
        "find those that "
        "matter for the task, the same measurement is made on text that asks for no reasoning, and subtracted.",
        lambda lesson: (
            f"Of the {TOP} largest heads on {lesson.view.task.title}, how many are among the {TOP} largest there, too?"
        ),
        ("0 to 2", "3 to 6", "7 to 10"),
        shared,
        Link("Compare the two", "pages/heads.py", lambda lesson: {"run": lesson.run_name, "view": "specificity"}),
    ),
    LessonStep(
        "From heads to weights",
        "**Causal Attribution Pruning** (CAP) multiplies the size of every weight by how much its head "
        "matters, and sets "
        "the smallest products to zero. Weights of important heads survive longer.",
        lambda lesson: "Half of all weights go. Which part of the model loses the larger share?",
        ("attention", "the MLPs", f"about the same (within {ALIKE_POINTS} points)"),
        parts,
        Link("See where the zeros are", "pages/prune.py", lambda lesson: {"criterion": "cap", "sparsity": "50"}),
    ),
    LessonStep(
        "CAP against Wanda",
        f"**{CRITERIA['wanda'].title}** needs no causes: it multiplies the size of a weight by how strong its input "
        "usually is. It is the method to beat. Both are asked the very same questions, so that luck with the questions "
        "is the same for both.",
        lambda lesson: "Half of all weights go. Which of the two answers more questions right?",
        ("CAP, clearly", "Wanda, clearly", "these questions cannot tell them apart"),
        better,
        Link("See all sparsities", "pages/compare.py"),
    ),
    LessonStep(
        "What this cannot tell you",
        "An effect is about these questions, this way of removing a head, and a model that is otherwise "
        "whole. Two heads "
        "may do the same work, and then neither looks important alone. One small model says little about large ones.",
        lambda lesson: "A head has no effect on a task. What follows?",
        (
            "these questions do not need it while all other heads are there",
            "the model never uses it",
            "it can go together with all others like it",
        ),
        lambda lesson: Answer(
            0,
            "Another head may stand in for it, and a mean of zero may hide questions it helps and questions it hurts. "
            "“What if all of these” on the Heads page removes several at once.",
        ),
        Link("Remove the first four together", "pages/heads.py", top_together, "what-if-all-of-these"),
    ),
)
