"""File size and latency saved by zeros, as measured by `benchmarks.pruned_cost`, in words for the Prune page."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from cap_viz.pruning import CRITERIA
from cap_viz.settings import ASSETS

MEASURED = ASSETS / "pruned_cost.json"


@lru_cache(maxsize=1)
def measured() -> dict[str, Any]:
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def cost_sentence(criteria: tuple[str, ...]) -> str:
    """State the savings of the kinds of zeros the criteria make: none if unstructured, as measured for whole heads."""
    cost = measured()
    about = f"{cost['model']}, {cost['tokens']} tokens, {cost['machine']}, {cost['threads']} threads"
    structured = [CRITERIA[name].structured for name in criteria]
    parts: list[str] = []
    if not all(structured):
        half = cost["unstructured 50 %"]
        parts.append(
            "Zeros among other weights leave file size and latency unchanged: with half of the weights at zero the "
            f"file has {half['bytes_ratio']:.2f} and a forward takes {half['seconds_ratio']:.2f} times the dense "
            "model's."
        )
    if any(structured):
        few, half = cost["whole heads 20 %"], cost["whole heads 50 %"]
        parts.append(
            "Whole heads can be left out: without 20 % (50 %) of them the file has "
            f"{few['bytes_ratio']:.2f} ({half['bytes_ratio']:.2f}) and a forward takes {few['seconds_ratio']:.2f} "
            f"({half['seconds_ratio']:.2f}) times the dense model's."
        )
    return f"{' '.join(parts)} Measured: {about}."
