"""Paired comparison of two logs of lm-evaluation-harness (`--log_samples`), made by anybody.

A log has one JSON object a line: `doc_id`, hashes of document and prompt, the filter, and one value per metric. Shares
of right answers (every value 0 or 1) are compared by McNemar's exact test, other metrics by the paired t-test, all with
a bootstrap interval; Holm's adjustment runs over the metrics compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cap_viz.errors import UsageError
from cap_viz.stats import PairedComparison, compare_means, compare_paired, family_p

MOST_BYTES = 2 << 30
IDENTITY = ("doc_hash", "prompt_hash", "target_hash")


@dataclass(frozen=True)
class SampleLog:
    """Values of one log: metric and filter → document → value; `identity` holds the hashes of every document."""

    name: str
    values: Mapping[tuple[str, str], Mapping[int, float]]
    identity: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True)
class LogDifference:
    """One metric of two logs: first minus second, with p adjusted over all metrics compared."""

    metric: str
    filter: str
    result: PairedComparison
    p_holm: float


def read_log(path: Path) -> SampleLog:
    """Read a log. Raises `UsageError` with file and line for anything that is not one."""
    if not path.is_file():
        raise UsageError(f"{path} is no file.")
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path} is larger than {MOST_BYTES >> 30} GiB.")
    values: dict[tuple[str, str], dict[int, float]] = {}
    identity: dict[int, tuple[str, ...]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            sample = parsed(path, number, line)
            document = sample["doc_id"]
            identity[document] = tuple(str(sample.get(name, "")) for name in IDENTITY)
            for metric in sample["metrics"]:
                value = sample.get(metric)
                if not isinstance(value, int | float):
                    continue
                column = values.setdefault((metric, str(sample.get("filter", "none"))), {})
                if document in column:
                    raise UsageError(f"{path}, line {number}: document {document} occurs twice for {metric}.")
                column[document] = float(value)
    if not values:
        raise UsageError(f"{path} holds no metric with one number per document, so there is nothing to compare.")
    return SampleLog(path.name, values, identity)


def parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}, line {number} is not valid JSON.") from error
    if not isinstance(sample, dict) or not isinstance(sample.get("doc_id"), int):
        raise UsageError(f"{path}, line {number} has no doc_id: a log is written by lm-eval with --log_samples.")
    if not isinstance(sample.get("metrics"), list):
        raise UsageError(f"{path}, line {number} names no metrics: logs of lm-eval 0.4.9 and later do.")
    return sample


def compare_logs(first: SampleLog, second: SampleLog) -> tuple[LogDifference, ...]:
    """Compare every metric that both logs hold, on the same documents.

    Raises `UsageError` if the documents or their prompts differ, or if no metric is common.
    """
    if first.identity.keys() != second.identity.keys():
        lacking = first.identity.keys() ^ second.identity.keys()
        raise UsageError(
            f"The logs are not of the same documents: {len(lacking)} are in one of them only, such as doc_id "
            f"{min(lacking)}."
        )
    other = next((one for one, hashes in first.identity.items() if second.identity[one] != hashes), None)
    if other is not None:
        raise UsageError(f"Document {other} is another one, or was asked in other words, in {second.name}.")
    common = [column for column in first.values if column in second.values]
    if not common:
        raise UsageError("The logs have no metric in common.")
    results = [paired(first.values[column], second.values[column]) for column in common]
    return tuple(
        LogDifference(metric, name, result, p)
        for (metric, name), result, p in zip(common, results, family_p(results), strict=True)
    )


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> PairedComparison:
    documents = [document for document in first if document in second]
    a, b = (np.array([values[document] for document in documents]) for values in (first, second))
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        return compare_paired(a > 0, b > 0)
    return compare_means(a, b)
