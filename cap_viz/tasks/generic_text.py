"""generic_text: windows of WikiText-2 (Merity et al. 2016), a control text without reasoning.

A head that matters here as much as on a task is needed by any text. Calibration uses the validation split,
evaluation the test split. WikiText's tokenisation is undone; unknown words are cut out.
"""

from __future__ import annotations

import re

from cap_viz.tasks.base import Splits, Task
from cap_viz.tasks.rows import SourceRow
from cap_viz.tasks.sources import PublicData, SplitFile, public_rows, rows_are_local
from cap_viz.tasks.windows import texts_of, windows

DATA = PublicData(
    folder="wikitext2",
    repository="Salesforce/wikitext",
    revision="b08601e04326c79dfdd32d625aee71d232d685c3",
    calibration=SplitFile("calibration.jsonl", "wikitext-2-raw-v1/validation-00000-of-00001.parquet"),
    evaluation=SplitFile("test.jsonl", "wikitext-2-raw-v1/test-00000-of-00001.parquet"),
)


def plain(text: str) -> str:
    """Restore ordinary spacing and punctuation from WikiText's tokens."""
    text = re.sub(r" @(.)@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?%)\]])", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    return re.sub(r'" ([^"]*) "', r'"\1"', text).strip()


def passages(rows: list[SourceRow]) -> list[str]:
    """Return the paragraphs, without headings, each cut to its longest stretch free of unknown words."""
    texts = [text.strip() for text in texts_of(rows)]
    # Blank lines are part of the format.
    return [plain(longest_known(text)) for text in texts if text and not text.startswith("=")]


def longest_known(text: str) -> str:
    """Return the longest stretch without unknown words that begins at the start of a sentence."""
    first, *others = text.split("<unk>")
    return max([first, *(stretch.partition(" . ")[2] for stretch in others)], key=len)


def load() -> Splits:
    rows = public_rows(DATA)
    calibration, evaluation = windows(passages(rows.calibration)), windows(passages(rows.evaluation))
    known = {example.id for example in calibration}
    return Splits(calibration, tuple(example for example in evaluation if example.id not in known), rows.origin)


def running_text() -> str:
    """Return the test split in WikiText's own tokenisation. Blank rows are left out: not every copy has them."""
    return "\n\n".join(text for text in texts_of(public_rows(DATA).evaluation) if text.strip())


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
