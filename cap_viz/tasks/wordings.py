"""Prompt wordings: the same questions of a task, asked in other words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example

# Offered beside a task's own prompt; any other text that holds {question} once works as well.
WORDINGS = ("{question}\nAnswer:", "Q: {question}\nA:", "{question}\nThe answer is:")
HOLE = "{question}"


def with_question(prompt: str) -> str:
    """Return the prompt itself. Raises ValueError where it does not hold {question} once."""
    if prompt.count(HOLE) != 1:
        raise ValueError(f"should hold {HOLE} once, where the question goes")
    return prompt


def asked(prompt: str, question: str) -> str:
    """Put the question into the prompt."""
    return prompt.replace(HOLE, question)


def reworded(examples: Iterable[Example], prompt: str) -> tuple[Example, ...]:
    """Ask the questions of the examples by another prompt, such as "Q: {question}\\nA:"; options stay as they are.

    Raises `UsageError` for a prompt without {question}, and for examples that ask no question, such as running text.
    """
    try:
        with_question(prompt)
    except ValueError as error:
        raise UsageError(f'The prompt "{on_one_line(prompt)}" {error}.') from error
    found = []
    for example in examples:
        if not example.asks:
            raise UsageError(f"Example {example.id!r} asks no question, so there is nothing to ask in other words.")
        found.append(replace(example, prompt=asked(prompt, example.question)))
    return tuple(found)


def on_one_line(prompt: str) -> str:
    """Write line breaks as backslash and n."""
    return prompt.replace("\n", "\\n")


def with_line_breaks(text: str) -> str:
    """Read a prompt that `on_one_line` wrote, or that somebody typed."""
    return text.replace("\\n", "\n")
