"""Windows of running text as examples: the opening words are the prompt, the rest is the text to score."""

from __future__ import annotations

from collections.abc import Sequence

from cap_viz.tasks.base import Example, example_id
from cap_viz.tasks.rows import SourceRow
from cap_viz.validation import Record

OPENING_WORDS = 12
WINDOW_WORDS = 64


class TextRow(Record):
    """A row with a stretch of running text, which may be blank."""

    text: str


def texts_of(rows: Sequence[SourceRow]) -> list[str]:
    return [row.read(TextRow.model_validate).text for row in rows]


def window(text: str) -> Example | None:
    """Make an example of a text's first 64 words: 12 as the prompt, the rest as the only option; None if too short."""
    words = text.split()
    if len(words) < WINDOW_WORDS:
        return None
    shown = " ".join(words[:WINDOW_WORDS])
    opening = " ".join(words[:OPENING_WORDS])
    return Example(
        id=example_id(shown), question=opening, prompt=opening, options=(shown.removeprefix(opening),), gold=0
    )


def windows(texts: list[str]) -> tuple[Example, ...]:
    """Make one window per text that is long enough; identical windows count once."""
    found = [example for text in texts if (example := window(text)) is not None]
    return tuple({example.id: example for example in found}.values())
