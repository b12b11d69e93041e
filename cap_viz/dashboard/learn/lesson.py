"""Lessons: TOML files of steps with a question each, checked when they are read (docs/own_lesson.md).

Texts may hold facts in braces, `{hurting} of {heads} heads`, with a format where one is wanted: `{effect:+.2f}`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cap_viz.dashboard.components.panels import escaped
from cap_viz.dashboard.learn.data import FACTS, Evidence
from cap_viz.dashboard.learn.pictures import PICTURES
from cap_viz.dashboard.selection import PAGE_ICONS
from cap_viz.errors import CapVizError, UsageError, choose
from cap_viz.settings import ASSETS, local_folder
from cap_viz.validation import Text, from_json, mistake

USUAL = "heads"
LETTERS = "abcd"


@dataclass(frozen=True)
class FactsOf:
    """Facts of some evidence by name, for `str.format_map`: only those that a text names are computed."""

    evidence: Evidence

    def __getitem__(self, name: str) -> float | str | list[str]:
        fact = FACTS[name](self.evidence)
        return escaped(fact) if isinstance(fact, str) else fact


def named_facts(text: str) -> str:
    """Check that braces hold known facts."""
    for _, name, _, _ in Formatter().parse(text):
        if name is not None and name not in FACTS:
            raise ValueError(f"holds {{{name}}}, which is no fact; there are {', '.join(FACTS)}")
    return text


Template = Annotated[Text, AfterValidator(named_facts)]


@dataclass(frozen=True)
class Link:
    """Button to a page, at the heading `anchor`, in the state of `params`: texts, or facts in braces."""

    label: Text
    page: Text
    anchor: str = ""
    params: Mapping[str, Template] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choose("page", self.page, PAGE_ICONS)


@dataclass(frozen=True)
class LessonStep:
    """A few sentences, a picture, a question with its choices, and what is right.

    Right is the choice of that number, or by the number of a fact: `limits` divide it among the choices, each limit
    being the least value of the next choice.
    """

    title: Text
    text: Template
    picture: Text
    question: Template
    choices: Annotated[tuple[Text, ...], Field(min_length=2, max_length=len(LETTERS))]
    because: Template
    link: Link
    right: int | None = None
    fact: str | None = None
    limits: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        choose("picture", self.picture, PICTURES)
        if (self.right is None) == (self.fact is None):
            raise ValueError("needs either right (the number of a choice) or fact with limits")
        if self.right is not None and not 1 <= self.right <= len(self.choices):
            raise ValueError(f"says that choice {self.right} is right, of {len(self.choices)}")
        if self.fact is not None:
            choose("fact", self.fact, FACTS)
            if len(self.limits) != len(self.choices) - 1 or any(low >= high for low, high in pairwise(self.limits)):
                raise ValueError(f"needs {len(self.choices) - 1} limits in rising order, one fewer than choices")

    def told(self, evidence: Evidence) -> LessonStep:
        """Return the step with its facts filled in and the number of the right choice.

        Raises `CapVizError`, such as `NotStored` where a run is missing.
        """
        texts = {name: getattr(self, name) for name in ("text", "question", "because")}
        try:
            filled = {name: text.format_map(FactsOf(evidence)) for name, text in texts.items()}
            value: Any = 0 if self.fact is None else FACTS[self.fact](evidence)
            right = self.right or 1 + sum(value >= limit for limit in self.limits)
        except (ValueError, TypeError) as error:
            raise UsageError(f"The step “{self.title}” does not fit its facts: {error}.") from error
        facts = {f"{{{name}}}": fact for name, fact in FACTS.items()}
        params = {key: facts[text](evidence) if text in facts else text for key, text in self.link.params.items()}
        # A true minus before numbers.
        filled = {name: re.sub(r"(?<!\w)-(?=\d)", "−", text) for name, text in filled.items()}
        return replace(self, **filled, right=right, fact=None, link=replace(self.link, params=params))


@dataclass(frozen=True)
class Lesson:
    """Steps of a lesson, under a title and the question it answers."""

    title: Text
    summary: Text
    steps: Annotated[tuple[LessonStep, ...], Field(min_length=1)]


def lesson_files() -> dict[str, Path]:
    """Find lessons by name, the usual one first: in the folder `lessons` of the cache, and those of CAP Viz."""
    folders = (local_folder() / "lessons", ASSETS / "lessons")
    found = {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}
    return {USUAL: found.pop(USUAL), **found}


def read_lesson(path: Path) -> Lesson:
    """Read a lesson. Raises `UsageError` with the file and its first mistake."""
    try:
        return parsed(path.read_text("utf-8"))
    except (ValueError, OSError, CapVizError) as error:
        said = mistake(error) if isinstance(error, ValueError) else str(error).rstrip(".")
        raise UsageError(f"The lesson {path.name} cannot be read: {said}.") from error


@lru_cache(maxsize=8)
def parsed(content: str) -> Lesson:
    return from_json(Lesson, json.dumps(tomllib.loads(content), default=str))
