"""generic_text: windows of WikiText-2 (Merity et al. 2016), the control that asks for no reasoning.

A head that matters here as much as on a task is one that any text needs. Calibration uses the validation split,
evaluation the test split. WikiText's own tokenisation is undone; stretches with unknown words are left out.
"""

from __future__ import annotations

import re

from cap_viz.tasks.base import Splits, Task
from cap_viz.tasks.rows import SourceRow
from cap_viz.tasks.sources import PublicData, SplitFile, public_rows, rows_are_local
from cap_viz.tasks.windows import windows

DATA = PublicData(
    folder="wikitext2",
    repository="Salesforce/wikitext",
    revision="b08601e04326c79dfdd32d625aee71d232d685c3",
    calibration=SplitFile("calibration.jsonl", "wikitext-2-raw-v1/validation-00000-of-00001.parquet"),
    evaluation=SplitFile("test.jsonl", "wikitext-2-raw-v1/test-00000-of-00001.parquet"),
)


def plain(text: str) -> str:
    """Ordinary spacing and punctuation in place of WikiText's tokens."""
    text = re.sub(r" @(.)@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?%)\]])", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    return re.sub(r'" ([^"]*) "', r'"\1"', text).strip()


def passages(rows: list[SourceRow]) -> list[str]:
    """Paragraphs without headings; of those with unknown words the longest run of sentences between two of them."""
    # Blank lines are part of the format, so an empty text is no mistake here.
    texts = [row.field("text", str).strip() for row in rows]
    return [plain(longest_known(text)) for text in texts if text and not text.startswith("=")]


def longest_known(text: str) -> str:
    """The longest stretch without unknown words, begun at the start of a sentence."""
    first, *others = text.split("<unk>")
    return max([first, *(stretch.partition(" . ")[2] for stretch in others)], key=len)


def load() -> Splits:
    rows = public_rows(DATA)
    calibration, evaluation = windows(passages(rows.calibration)), windows(passages(rows.evaluation))
    known = {example.id for example in calibration}
    return Splits(calibration, tuple(example for example in evaluation if example.id not in known), rows.origin)


def running_text() -> str:
    """The test split with its own tokenisation. Blank rows are left out: not every copy has them."""
    texts = [row.field("text", str) for row in public_rows(DATA).evaluation]
    return "\n\n".join(text for text in texts if text.strip())


TASK = Task(
    name="generic_text",
    title="Generic text",
    summary="Passages of WikiText-2: the control that needs no reasoning. From the hub or CAP_VIZ_DATA.",
    version=1,
    source="Salesforce/wikitext, wikitext-2-raw-v1",
    licence="CC BY-SA 3.0",
    prompt_format="{opening} {rest}",
    kind="text",
    folder=DATA.folder,
    load=load,
    is_local=lambda: rows_are_local(DATA),
    running_text=running_text,
)
