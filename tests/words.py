"""What a sentence or a page says, apart from its wording: the tests hold the numbers and names in it."""

from __future__ import annotations

import re

from streamlit.testing.v1 import AppTest


def numbers(text: str) -> set[str]:
    """Return the numbers in a text as they are written there: `1.5`, `20`, `−0.7`, `1,000`."""
    return set(re.findall(r"(?<![\w.])[-+−]?\d+(?:[.,]\d+)*", text))


def empty_states(page: AppTest) -> list[str]:
    """Return the titles of a page's empty states, as `components.panels.empty` draws them."""
    titles = [re.fullmatch(r"\*\*([^*]+)\*\*", one.value) for one in page.markdown]
    return [title[1].replace("\\", "") for title in titles if title]
