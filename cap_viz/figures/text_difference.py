"""Word-level difference of two texts, as HTML."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Piece:
    """A stretch of a text: `kind` is "same", "gone" (only in the first text) or "new" (only in the second)."""

    kind: str
    text: str


def word_difference(first: str, second: str) -> list[Piece]:
    """Word-level difference from one text to the other; spaces belong to the word before them."""
    a, b = (re.findall(r"\s+|\S+\s*", text) for text in (first, second))
    pieces: list[Piece] = []
    for operation, i1, i2, j1, j2 in difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_opcodes():
        if operation == "equal":
            pieces.append(Piece("same", "".join(a[i1:i2])))
            continue
        if i1 < i2:
            pieces.append(Piece("gone", "".join(a[i1:i2])))
        if j1 < j2:
            pieces.append(Piece("new", "".join(b[j1:j2])))
    return pieces


def text_html(first: str, second: str) -> str:
    """HTML of the differences from the first text to the second; both are untrusted and escaped."""
    tags = {"same": ("", ""), "gone": ('<del style="opacity:0.6">', "</del>"), "new": ("<ins><b>", "</b></ins>")}
    parts = [f"{tags[p.kind][0]}{escape(p.text)}{tags[p.kind][1]}" for p in word_difference(first, second)]
    style = "white-space:pre-wrap;font-size:0.9rem;overflow-wrap:anywhere"
    return f'<div style="{style}">{"".join(parts) or "(writes nothing)"}</div>'
