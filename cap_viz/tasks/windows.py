"""Windows of running text as examples: given the opening words, how likely is what follows?"""

from __future__ import annotations

from cap_viz.tasks.base import Example, example_id

OPENING_WORDS = 12
WINDOW_WORDS = 64


def window(text: str) -> Example | None:
    """The first words of a text: an opening as the prompt, the rest as the one continuation; None if too short."""
    words = text.split()
    if len(words) < WINDOW_WORDS:
        return None
    shown = " ".join(words[:WINDOW_WORDS])
    opening = " ".join(words[:OPENING_WORDS])
    return Example(
        id=example_id(shown), question=opening, prompt=opening, options=(shown.removeprefix(opening),), gold=0
    )


def windows(texts: list[str]) -> tuple[Example, ...]:
    """One window of each text that is long enough; repeated texts once."""
    found = [example for text in texts if (example := window(text)) is not None]
    return tuple({example.id: example for example in found}.values())
