"""Rows of a data file with their file and line, and the examples made from them.

What a row holds is declared as a pydantic model, one per kind of row, and checked when the row is read; errors name the
file and line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, model_validator

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example, Splits, example_id, first_repeat
from cap_viz.validation import Record, Text, mistake

YES_NO = (" yes", " no")
MAX_OPTIONS = 26
MAX_CHARACTERS = 20_000
Read = TypeVar("Read")
Fields = dict[str, Any]


@dataclass(frozen=True)
class SourceRow:
    """One record and the place it was read from, such as "data/arc_easy/train.jsonl, line 3"."""

    fields: Fields
    place: str

    def mistake(self, reason: str) -> UsageError:
        return UsageError(f"{self.place}: {reason}.")

    def read(self, reader: Callable[[Fields], Read]) -> Read:
        """Read the fields. A ValueError of the reader becomes a `UsageError` with the row's place."""
        try:
            return reader(self.fields)
        except ValueError as error:
            raise self.mistake(mistake(error)) from error


class ExampleRow(Record, ABC):
    """Fields of a row that becomes an example; others are ignored."""

    model_config = ConfigDict(str_max_length=MAX_CHARACTERS)

    @abstractmethod
    def example(self) -> Example:
        """Make the example. Raises ValueError where fields contradict each other."""

    @classmethod
    def to_example(cls, fields: Fields) -> Example:
        """Check the fields of a row and make its example. Raises ValueError."""
        return cls.model_validate(fields).example()


class QuestionRow(ExampleRow):
    """A question, asked in the prompt of ARC in lm-evaluation-harness; the hash of the question stands in for an id."""

    id: Text = ""
    question: Text

    def with_options(self, options: tuple[str, ...], gold: int, solution: str | None = None) -> Example:
        """Make an example with the options as they follow the prompt."""
        return Example(
            id=self.id or example_id(self.question),
            question=self.question,
            prompt=f"Question: {self.question}\nAnswer:",
            options=options,
            gold=gold,
            solution=solution,
        )

    def with_choices(self, texts: Sequence[str], gold: int) -> Example:
        """Make an example with 2 to 26 options, all different; `gold` is the right one's index."""
        if len(texts) < 2:
            raise ValueError(f"a question needs at least 2 options, not {len(texts)}")
        if len(texts) > MAX_OPTIONS:
            raise ValueError(f"there are {len(texts)} options, at most {MAX_OPTIONS} are allowed")
        repeated = first_repeat(texts)
        if repeated is not None:
            raise ValueError(f"the option {repeated!r} is there twice")
        if not 0 <= gold < len(texts):
            raise ValueError(f"the right option is number {gold} (counted from 0), but there are {len(texts)} options")
        return self.with_options(tuple(f" {text}" for text in texts), gold)


class ChoiceRow(QuestionRow):
    """A question with options; `gold` is the right one's number, from 0. In its place `answer` may name the option."""

    options: list[Text]
    gold: int

    @model_validator(mode="before")
    @classmethod
    def take_answer(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or "gold" in fields:
            return fields
        answer, options = fields.get("answer"), fields.get("options")
        if not isinstance(answer, str) or not isinstance(options, list):
            return fields
        return {**fields, "gold": option_named(answer, [str(option) for option in options])}

    def example(self) -> Example:
        return self.with_choices(self.options, self.gold)


def option_named(answer: str, options: Sequence[str]) -> int:
    """Return the number, from 0, of the option that an answer names by its text, else by its letter (A the first)."""
    wanted, texts = answer.strip().casefold(), [option.strip().casefold() for option in options]
    letters = list("abcdefghijklmnopqrstuvwxyz"[: len(options)])
    for names in (texts, letters):
        if wanted in names:
            return names.index(wanted)
    raise ValueError(f"the answer {answer!r} is none of the options, nor the letter of one")


class YesNoRow(QuestionRow):
    """A question with the answer true (yes) or false (no); `facts`, if any, become the solution."""

    answer: bool
    facts: list[Text] = Field([])

    def example(self) -> Example:
        facts = " ".join(f if f.endswith((".", "!", "?")) else f"{f}." for f in map(str.strip, self.facts))
        solution = f" {facts} So the answer is {'yes' if self.answer else 'no'}." if facts else None
        return self.with_options(YES_NO, 0 if self.answer else 1, solution)


def splits_from(
    calibration: Sequence[SourceRow],
    evaluation: Sequence[SourceRow],
    to_example: Callable[[Fields], Example],
    origin: str | None = None,
) -> Splits:
    """Make one example per row. Raises `UsageError` with both places when two rows of any split have the same id."""
    places: dict[str, str] = {}

    def made_from(rows: Sequence[SourceRow]) -> tuple[Example, ...]:
        made = []
        for row in rows:
            example = row.read(to_example)
            if example.id in places:
                what = "question" if example.id == example_id(example.question) else f"id {example.id!r}"
                raise row.mistake(
                    f"the {what} is already that of {places[example.id]}; ids are unique and no question is both "
                    "in calibration and in evaluation"
                )
            places[example.id] = row.place
            made.append(example)
        return tuple(made)

    return Splits(calibration=made_from(calibration), evaluation=made_from(evaluation), origin=origin)


def examples(rows: Sequence[Mapping[str, Any]]) -> tuple[Example, ...]:
    """Make examples of one's own: each row has a question, its options, and gold, the right one's number from 0.

    They are asked as the questions of ARC are. An id is made from the question where a row has none. Raises
    `UsageError`, naming the row, for a field that is missing or wrong, and for no rows.
    """
    if not rows:
        raise UsageError(
            'There are no examples; give rows such as {"question": "…", "options": ["…", "…"], "gold": 0}.'
        )
    places = [SourceRow(dict(row), f"Example {number}") for number, row in enumerate(rows)]
    return splits_from(places, (), ChoiceRow.to_example).calibration
