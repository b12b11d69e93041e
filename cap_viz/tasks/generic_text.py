"""generic_text: windows of WikiText-2 (Merity et al. 2016), the control that asks for no reasoning.

A head that matters here as much as on a task is one that any text needs. Calibration uses the validation split,
evaluation the test split. WikiText's own tokenisation is undone; stretches with unknown words are left out.
"""

from __future__ import annotations

import re

from cap_viz.errors import UsageError
from cap_viz.tasks.base import Example, Splits, Task
from cap_viz.tasks.sources import HubFiles, public_rows, rows_are_local
from cap_viz.tasks.windows import windows

NAME = "generic_text"
LOCAL = "wikitext2"
HUB = HubFiles(
    repository="Salesforce/wikitext",
    revision="b08601e04326c79dfdd32d625aee71d232d685c3",
    files={
        "calibration": "wikitext-2-raw-v1/validation-00000-of-00001.parquet",
        "test": "wikitext-2-raw-v1/test-00000-of-00001.parquet",
    },
)


def plain(text: str) -> str:
    """Ordinary spacing and punctuation in place of WikiText's tokens."""
    text = re.sub(r" @(.)@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?%)\]])", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    return re.sub(r'" ([^"]*) "', r'"\1"', text).strip()


def passages(rows: list[dict[str, str]], split: str) -> list[str]:
    """Paragraphs without headings; of those with unknown words the longest run of sentences between two of them."""
    try:
        texts = [row["text"].strip() for row in rows]
    except (KeyError, AttributeError) as error:
        raise UsageError(f"A row of {LOCAL}/{split} lacks {error}; expected the field text.") from error
    return [plain(longest_known(text)) for text in texts if text and not text.startswith("=")]


def longest_known(text: str) -> str:
    """The longest stretch without unknown words, begun at the start of a sentence."""
    first, *others = text.split("<unk>")
    return max([first, *(stretch.partition(" . ")[2] for stretch in others)], key=len)


def load() -> Splits:
    def split(source: str) -> tuple[Example, ...]:
        return windows(passages(public_rows(LOCAL, source, HUB), source))

    calibration, evaluation = split("calibration"), split("test")
    known = {example.id for example in calibration}
    return Splits(calibration, tuple(example for example in evaluation if example.id not in known))


TASK = Task(
    name=NAME,
    title="Generic text",
    summary="Passages of WikiText-2: the control that needs no reasoning. From the hub or CAP_VIZ_DATA.",
    version=1,
    source="Salesforce/wikitext, wikitext-2-raw-v1",
    licence="CC BY-SA 3.0",
    prompt_format="{opening} {rest}",
    kind="text",
    load=load,
    is_local=lambda: rows_are_local(LOCAL, HUB),
)
