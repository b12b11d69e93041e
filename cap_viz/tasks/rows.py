"""Rows of a data file with their file and line, and the examples made from them.

A task chooses the fields it reads and its prompt; rows are checked here, in one place, and errors name the file and
line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example, Splits, example_id, first_repeat

YES_NO = (" yes", " no")
Value = TypeVar("Value")
# Names of JSON's types for people who edit a file.
KINDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class SourceRow:
    """One record and the place it was read from, such as "data/arc_easy/train.jsonl, line 3"."""

    fields: dict[str, Any]
    place: str

    def mistake(self, reason: str) -> UsageError:
        return UsageError(f"{self.place}: {reason}.")

    def text(self, name: str) -> str:
        """Return a text field that holds more than white space."""
        return self.written(name, self.field(name, str))

    def truth(self, name: str) -> bool:
        return self.field(name, bool)

    def number(self, name: str) -> int:
        return self.field(name, int)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a field that lists texts, each with more than white space."""
        for value in self.field(name, list):
            if type(value) is not str:
                raise self.mistake(f"the field {name} should hold texts only, not {kind_of(value)}")
            self.written(name, value)
        return tuple(self.fields[name])

    def record(self, name: str) -> SourceRow:
        """Return an object inside the row as a row of its own."""
        return SourceRow(self.field(name, dict), self.place)

    def field(self, name: str, kind: type[Value]) -> Value:
        if name not in self.fields:
            raise self.mistake(f"the field {name} is missing; there are {', '.join(self.fields) or 'no fields'}")
        value = self.fields[name]
        # Not isinstance: in Python, unlike JSON, true is an integer.
        if type(value) is not kind:
            raise self.mistake(f"the field {name} should be {KINDS[kind]}, not {kind_of(value)}")
        return value

    def written(self, name: str, text: str) -> str:
        if not text.strip():
            raise self.mistake(f"the field {name} is empty")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self.mistake(f"the field {name} holds half of a surrogate pair, which is no character")
        return text


def kind_of(value: Any) -> str:
    return "null" if value is None else KINDS.get(type(value), type(value).__name__)


def question_example(
    row: SourceRow, options: tuple[str, ...], gold: int, *, id: str | None = None, solution: str | None = None
) -> Example:
    """Make an example with the prompt of ARC in lm-evaluation-harness; without `id` the question is hashed."""
    question = row.text("question")
    return Example(
        id=example_id(question) if id is None else id,
        question=question,
        prompt=f"Question: {question}\nAnswer:",
        options=options,
        gold=gold,
        solution=solution,
    )


def choice_example(row: SourceRow, texts: Sequence[str], gold: int, *, id: str | None = None) -> Example:
    """Make a question with at least two options, all different; `gold` is the right one's index."""
    if len(texts) < 2:
        raise row.mistake(f"a question needs at least 2 options, not {len(texts)}")
    repeated = first_repeat(texts)
    if repeated is not None:
        raise row.mistake(f"the option {repeated!r} is there twice")
    if not 0 <= gold < len(texts):
        raise row.mistake(f"the right option is number {gold} (counted from 0), but there are {len(texts)} options")
    return question_example(row, tuple(f" {text}" for text in texts), gold, id=id)


def yes_no_example(row: SourceRow, *, id: str | None = None) -> Example:
    """Make a yes/no question: the field `answer` is true (yes) or false (no), `facts`, if any, become the solution."""
    answer, solution = row.truth("answer"), None
    if "facts" in row.fields:
        solution = f" {' '.join(sentences(row.texts('facts')))} So the answer is {'yes' if answer else 'no'}."
    return question_example(row, YES_NO, 0 if answer else 1, id=id, solution=solution)


def sentences(facts: Sequence[str]) -> list[str]:
    """Strip the facts and add a full stop where one is missing."""
    return [fact.strip() if fact.strip().endswith((".", "!", "?")) else f"{fact.strip()}." for fact in facts]


def splits_from(
    calibration: Sequence[SourceRow],
    evaluation: Sequence[SourceRow],
    to_example: Callable[[SourceRow], Example],
    origin: str | None = None,
) -> Splits:
    """Make one example per row. Raises `UsageError` with both places when two rows of any split have the same id."""
    places: dict[str, str] = {}

    def examples(rows: Sequence[SourceRow]) -> tuple[Example, ...]:
        made = []
        for row in rows:
            example = to_example(row)
            if example.id in places:
                what = "question" if example.id == example_id(example.question) else f"id {example.id!r}"
                raise row.mistake(
                    f"the {what} is already that of {places[example.id]}; ids are unique and no question is both "
                    "in calibration and in evaluation"
                )
            places[example.id] = row.place
            made.append(example)
        return tuple(made)

    return Splits(calibration=examples(calibration), evaluation=examples(evaluation), origin=origin)
