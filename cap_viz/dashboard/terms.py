"""Terms of the field as the pages explain them, read from assets/glossary.toml: help texts and Glossary entries."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache

from cap_viz.settings import ASSETS
from cap_viz.validation import from_json


@dataclass(frozen=True)
class Term:
    """What a term means in a plain line, then its formula or detail; its other names and ids; where it can be seen."""

    name: str
    line: str
    more: str = ""
    aliases: tuple[str, ...] = ()
    page: str = ""
    params: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return self.name, *self.aliases


@dataclass(frozen=True)
class Group:
    """Terms of one subject, by key."""

    title: str
    terms: dict[str, Term]


@lru_cache(maxsize=1)
def groups() -> tuple[Group, ...]:
    content = tomllib.loads((ASSETS / "glossary.toml").read_text("utf-8"))
    return from_json(dict[str, tuple[Group, ...]], json.dumps(content))["groups"]


# The text of every term, as help beside a control.
GLOSSARY = {key: f"{term.line} {term.more}".strip() for group in groups() for key, term in group.terms.items()}
