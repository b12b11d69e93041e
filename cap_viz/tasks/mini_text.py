"""mini_text: plain prose on many subjects, written for this project; the offline substitute for generic_text.

Each paragraph of the 43 short pieces gives one window. All windows of a piece are in the same split.
"""

from __future__ import annotations

from cap_viz.settings import ASSETS
from cap_viz.tasks.base import Splits, Task
from cap_viz.tasks.sources import read_json_lines
from cap_viz.tasks.windows import texts_of, windows

CALIBRATION_PIECES = 28


def pieces() -> list[str]:
    return texts_of(read_json_lines(ASSETS / "mini_text" / "pieces.jsonl"))


def load() -> Splits:
    paragraphs = [piece.split("\n\n") for piece in pieces()]
    first, rest = paragraphs[:CALIBRATION_PIECES], paragraphs[CALIBRATION_PIECES:]
    return Splits(
        calibration=windows([paragraph for piece in first for paragraph in piece]),
        evaluation=windows([paragraph for piece in rest for paragraph in piece]),
    )


def running_text() -> str:
    """Return the evaluation pieces as one text."""
    return "\n\n".join(pieces()[CALIBRATION_PIECES:])


TASK = Task(
    name="mini_text",
    title="Mini text",
    summary="Plain prose on many subjects, written for CAP Viz: a control that needs no reasoning; works offline.",
    version=1,
    source="written for CAP Viz",
    licence="Apache-2.0",
    prompt_format="{opening} {rest}",
    kind="text",
    load=load,
    running_text=running_text,
)
