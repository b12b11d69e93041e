"""Entries of the glossary: the terms of the pages, the criteria and the measures of an evaluation, and a search."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from cap_viz.dashboard.terms import ALIASES, GLOSSARY, SECTIONS
from cap_viz.evaluation.eval_metrics import ACC, ACC_NORM
from cap_viz.pruning import CRITERIA

Sections = dict[str, dict[str, "Entry"]]


@dataclass(frozen=True)
class Entry:
    """A term, its definition, and the other names and ids it goes by."""

    name: str
    text: str
    aliases: tuple[str, ...] = ()

    def has(self, wanted: str) -> bool:
        """Return whether a folded search stands in the name, an alias or the definition."""
        return any(wanted in folded(text) for text in (self.name, *self.aliases, self.text))


@cache
def entries() -> Sections:
    """Return all entries by section and key; those of criteria and measures are taken from their registries."""
    found = {
        section: {key: Entry(name, GLOSSARY[key], ALIASES.get(key, ())) for key, name in terms.items()}
        for section, terms in SECTIONS.items()
    }
    found["Losses"] |= {one.name: Entry(one.title, sentence(one.summary), (one.name,)) for one in (ACC, ACC_NORM)}
    found["Criteria"] = {one.name: Entry(one.title, one.summary, (one.name,)) for one in CRITERIA.values()}
    return found


def sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def search(asked: str) -> Sections:
    """Return the entries that hold the search in a name, an id or the definition; all for an empty search."""
    wanted = folded(asked)
    matching = {
        section: {key: entry for key, entry in terms.items() if entry.has(wanted)}
        for section, terms in entries().items()
    }
    return {section: terms for section, terms in matching.items() if terms}


def folded(text: str) -> str:
    """Fold case, and hyphens and underscores to spaces: `cap_fine` and `CAP fine` are the same word."""
    return " ".join(text.casefold().replace("_", " ").replace("-", " ").split())
