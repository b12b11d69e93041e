"""How a model is asked to write its answer out, and how the answer is read from what it wrote.

Two readings, as lm-evaluation-harness has them for GSM8K: *strict* is the first place in the form the worked examples
have; *flexible* is the last thing that could be an answer at all. A text in which a reading finds nothing has no
answer and is wrong; how often that happens is the parse rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Writing:
    """`instruction` asks for the answer where no worked examples show it; writing ends at any of `stops`.

    `strict` and `flexible` find an answer as their first group that took part; `normal` makes equal answers equal
    strings. `shots` worked examples stand before the question in the few-shot format.
    """

    instruction: str
    strict: re.Pattern[str]
    flexible: re.Pattern[str]
    normal: Callable[[str], str]
    stops: tuple[str, ...] = ("Question:",)
    max_tokens: int = 256
    shots: int = 5

    def read_strictly(self, text: str) -> str | None:
        """The first answer in the asked form, or None."""
        found = self.strict.search(text)
        return None if found is None else self.normal(group_of(found))

    def read_flexibly(self, text: str) -> str | None:
        """The last thing that could be an answer, or None."""
        found = list(self.flexible.finditer(text))
        return self.normal(group_of(found[-1])) if found else None


def group_of(found: re.Match[str]) -> str:
    return next(group for group in found.groups() if group is not None)


def plain_number(text: str) -> str:
    """Without thousands commas, dollar signs and a full stop at the end, as lm-evaluation-harness compares numbers."""
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
