"""The points the CAP paper reports, shown for reference beside measured ones (`assets/reported_results.json`).

*Causal Attribution Pruning*, arXiv 2606.19350 (ICLR 2026 Workshop on LLM Reasoning): final-answer accuracy as a share,
128–256 calibration examples, and WikiText-2 perplexity. Known limits:

1. Second-hand: the numbers come from a digest of the paper's result table and were not checked against the PDF.
2. Another model, another prompt and parsed final answers: only the order of the criteria compares with
   log-likelihood accuracy of a small model, not the level.
3. Some values lie far below guessing (ARC-Challenge 8.5, StrategyQA 6.9 at 50 %) and Wanda's GSM8K rises from 10 to
   20 % sparsity: they look like answers that could not be parsed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from cap_viz.settings import ASSETS


@dataclass(frozen=True)
class ReportedPoint:
    """One reported number: accuracy as a share, or perplexity."""

    task: str
    measure: str
    criterion: str
    sparsity: float
    value: float


CONTENT = json.loads((ASSETS / "reported_results.json").read_text("utf-8"))
SOURCE, MODEL, NOTE = CONTENT["source"], CONTENT["model"], CONTENT["note"]
POINTS = tuple(ReportedPoint(**point) for point in CONTENT["points"])
ACCURACY = tuple(point for point in POINTS if point.measure == "accuracy")
PERPLEXITY = tuple(point for point in POINTS if point.measure == "perplexity")


def reported_accuracy(task: str) -> tuple[ReportedPoint, ...]:
    """The reported accuracies on a task; empty where the paper reports none."""
    return tuple(point for point in ACCURACY if point.task == task)


def reported_table() -> pd.DataFrame:
    """Tabulate all reported numbers, CAP beside Wanda."""
    rows = []
    for name, points, form in (("accuracy", ACCURACY, "{:.1%}"), ("perplexity", PERPLEXITY, "{:g}")):
        values = {(point.task, point.sparsity, point.criterion): point.value for point in points}
        for task, sparsity in dict.fromkeys((point.task, point.sparsity) for point in points):
            cap, wanda = (form.format(values[task, sparsity, one]).replace("%", " %") for one in ("cap", "wanda"))
            said = {"Task": task, "Number": name, "Sparsity": f"{100 * sparsity:.0f} %", "CAP": cap, "Wanda": wanda}
            rows.append(said)
    return pd.DataFrame(rows)
