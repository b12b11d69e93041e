"""What a sentence or a page says, apart from its wording: tests hold the numbers and names in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Tests of the shell need no Streamlit.
    from streamlit.testing.v1 import AppTest


def numbers(text: str) -> set[str]:
    """Return the numbers in a text as they are written there: `1.5`, `20`, `−0.7`, `1,000`."""
    return set(re.findall(r"(?<![\w.])[-+−]?\d+(?:[.,]\d+)*", text))


def saying(page: AppTest, *parts: str) -> list[str]:
    """Return the texts on a page that hold all these names and numbers, each as a whole: "2" is not in "2.5"."""
    elements = [*page.title, *page.markdown, *page.caption, *page.info, *page.warning, *page.error, *page.success]
    texts = [str(element.value).replace("\\", "") for element in elements]
    return [text for text in texts if all(re.search(whole(part), text) for part in parts)]


def whole(part: str) -> str:
    return rf"(?<!\w)(?<!\d[.,]){re.escape(part)}(?!\w)(?![.,]\d)"


def bold_titles(page: AppTest) -> list[str]:
    """Return the texts that are one bold line: the titles of boxes, as `components.panels.empty` draws them."""
    titles = [re.fullmatch(r"\*\*([^*]+)\*\*", one.value) for one in page.markdown]
    return [title[1].replace("\\", "") for title in titles if title]
