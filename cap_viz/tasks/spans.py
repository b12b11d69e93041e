"""Spans: the named stretches of an example's text, from its first character to its last.

The prompt falls into the text before the question (template), the facts that the question states, the question itself
and what asks for the answer (answer cue). The facts are all sentences of the question but the last; without any, the
whole is the question. An option is one span, or one per step where options are worked solutions; a step is a sentence
or a line, and the last step gives the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example

# What effects are split by: where the output of a head is replaced, or what is predicted.
By = Literal["span", "step"]
BYS: tuple[By, ...] = get_args(By)

SINK, TEMPLATE, FACTS, QUESTION, CUE = "sink", "template", "facts", "question", "answer cue"
STEP, LAST_STEP = "step", "last step"
SHARED, RIGHT, WRONG = "options", "right option", "wrong option"
# Of names with a number, such as "step 2", without it.
ORDER = (SINK, TEMPLATE, FACTS, QUESTION, CUE, STEP, LAST_STEP, SHARED, RIGHT, WRONG)

# A sentence ends at a mark before a space and no small letter, unless the full stop belongs to a title or an initial.
TITLES = "".join(rf"(?<!\b{title})" for title in ("Mr", "Ms", "Mrs", "Dr", "St", "[A-Z]"))
SENTENCE_END = re.compile(rf"(?:{TITLES}\.|[!?])[\"')\]]*\s+(?=[^a-z\s])|\n+")


@dataclass(frozen=True)
class Span:
    """A stretch of a text, from the character `start` to the start of the next span."""

    name: str
    start: int


def sentence_starts(text: str) -> list[int]:
    """Return where the sentences and lines of a text begin; spaces belong to the sentence before them."""
    return [0, *(found.end() for found in SENTENCE_END.finditer(text) if text[found.end() :].strip())]


def text_spans(example: Example, option: int) -> tuple[Span, ...]:
    """Return the spans of the prompt followed by an option. Raises `UsageError` where the prompt has no question."""
    start, text = len(example.prompt), example.options[option]
    if example.solution is not None and example.solution in example.options:
        return (*prompt_spans(example), *step_spans(text, start))
    # Wrong options are counted in their order; the order of all says nothing about an option.
    name = RIGHT if option == example.gold else f"{WRONG} {option + (option < example.gold)}"
    return (*prompt_spans(example), Span(name, start))


def prompt_spans(example: Example) -> tuple[Span, ...]:
    prompt, question = example.prompt, example.question
    if not example.asks:
        raise UsageError(
            f"Example {example.id!r} asks no question in its prompt, so its positions have no names; choose a task "
            "with questions."
        )
    at = prompt.rfind(question)
    asked = at + sentence_starts(question)[-1]
    spans = (Span(TEMPLATE, 0), Span(FACTS, at), Span(QUESTION, asked), Span(CUE, at + len(question)))
    ends = (*(span.start for span in spans[1:]), len(prompt))
    return tuple(span for span, end in zip(spans, ends, strict=True) if span.start < end)


def step_spans(solution: str, start: int = 0) -> tuple[Span, ...]:
    """Return the steps of a worked solution that begins at the character `start`."""
    *first, last = sentence_starts(solution)
    steps = [Span(f"{STEP} {number}", start + at) for number, at in enumerate(first, start=1)]
    return (*steps, Span(LAST_STEP, start + last))


def with_solution(example: Example) -> Example:
    """Return the example with its worked solution as the only option. Raises `UsageError` where it has none."""
    if example.solution is None:
        raise UsageError(
            f"Example {example.id!r} has no worked solution, so its loss has no steps; choose a task with solutions, "
            "such as gsm8k or toy_math."
        )
    return replace(example, options=(example.solution,), gold=0)


def span_names(examples: Iterable[Example]) -> set[str]:
    """Collect the names of the spans that the examples can have."""
    texts = ((example, option) for example in examples for option in range(len(example.options)))
    return {SINK, *(span.name for text in texts for span in text_spans(*text))}


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort the names of spans in the order of the text, each once."""

    def place(name: str) -> tuple[int, int]:
        stem, _, number = name.rpartition(" ")
        return (ORDER.index(stem), int(number)) if number.isdigit() else (ORDER.index(name), 0)

    return tuple(sorted(set(names), key=place))
