"""The points the CAP paper reports, for reference beside measured ones.

Source: *Causal Attribution Pruning*, arXiv 2606.19350 (ICLR 2026 Workshop on LLM Reasoning), Llama-3-8B-Instruct,
CAP / Wanda, final-answer accuracy in per cent, 128–256 calibration examples, and WikiText-2 perplexity.

Known limits:

1. Second-hand: the numbers come from a digest of the paper's result table and were not checked against the PDF.
2. Another model, another prompt and parsed final answers: the level cannot be compared with log-likelihood accuracy
   of a small model, only the order of the criteria can.
3. Some values lie far below guessing (ARC-Challenge 8.5, StrategyQA 6.9 at 50 %) and Wanda's GSM8K rises from 10 to
   20 % sparsity: they look like answers that could not be parsed.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "Llama-3-8B-Instruct"
SOURCE = "arXiv 2606.19350"


@dataclass(frozen=True)
class PaperPoint:
    """One reported number: accuracy as a share, or perplexity."""

    task: str
    criterion: str
    sparsity: float
    value: float


def points(
    task: str, cap: tuple[float, ...], wanda: tuple[float, ...], sparsities: tuple[float, ...], unit: float
) -> tuple[PaperPoint, ...]:
    return tuple(
        PaperPoint(task, criterion, sparsity, round(value * unit, 4))
        for criterion, values in (("cap", cap), ("wanda", wanda))
        for sparsity, value in zip(sparsities, values, strict=True)
    )


SPARSITIES = (0.1, 0.2, 0.5)
ACCURACY: tuple[PaperPoint, ...] = (
    *points("gsm8k", (71.5, 65.4, 0.5), (59.5, 72.1, 1.7), SPARSITIES, 0.01),
    *points("strategyqa", (65.5, 63.1, 6.9), (65.0, 60.5, 51.7), SPARSITIES, 0.01),
    *points("arc_challenge", (74.2, 70.8, 30.1), (68.7, 43.9, 8.5), SPARSITIES, 0.01),
)
PERPLEXITY: tuple[PaperPoint, ...] = points("generic_text", (9.57, 428.2), (8.70, 55.6), (0.2, 0.5), 1)


def accuracy_of(task: str) -> tuple[PaperPoint, ...]:
    """The reported accuracies on a task; empty where the paper reports none."""
    return tuple(point for point in ACCURACY if point.task == task)
