"""Instructions for written answers, and parsers that extract the answer from generated text.

Two parsers, as in lm-evaluation-harness for GSM8K: *strict* takes the first match of the form that the worked examples
have; *flexible* takes the last match of anything that could be an answer. A text without a match has no answer and is
wrong; the parse rate is the share of texts with a match.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Writing:
    """How a task's answers are requested and parsed; generation ends at any of `stops`.

    `instruction` asks for the answer where no worked examples show it. The first group that takes part in a match of
    `strict` or `flexible` is the answer; `normal` maps equal answers to equal strings. `shots` worked examples precede
    the question in the few-shot format.
    """

    instruction: str
    strict: re.Pattern[str]
    flexible: re.Pattern[str]
    normal: Callable[[str], str]
    stops: tuple[str, ...] = ("Question:",)
    max_tokens: int = 256
    shots: int = 5

    def read_strictly(self, text: str) -> str | None:
        """Return the first answer in the requested form, or None."""
        found = self.strict.search(text)
        return None if found is None else self.normal(group_of(found))

    def read_flexibly(self, text: str) -> str | None:
        """Return the last match that could be an answer, or None."""
        found = list(self.flexible.finditer(text))
        return self.normal(group_of(found[-1])) if found else None


def group_of(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None)


def plain_number(text: str) -> str:
    """Remove commas, dollar signs and a final full stop, as lm-evaluation-harness does to compare numbers."""
    return re.sub(r",|\$|\.$", "", text)


NUMBER = Writing(
    instruction='Work the answer out step by step. On the last line write "#### " and then the number alone.',
    strict=re.compile(r"#### (-?[0-9.,]+)"),
    flexible=re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)"),
    normal=plain_number,
    stops=("Question:", "</s>", "<|im_end|>"),
)
YES_NO = Writing(
    instruction='Say what is known about the question, then end with "So the answer is yes." or "So the answer is no."',
    strict=re.compile(r"the answer is (yes|no)\b", re.IGNORECASE),
    flexible=re.compile(r"\b(yes|no)\b", re.IGNORECASE),
    normal=str.lower,
    max_tokens=128,
)
