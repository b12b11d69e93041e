"""What half precision does to head scores:  python -m benchmarks.precision [--dtype bfloat16] [--items 16] [--json]

The same heads on the same examples in float32 and in a half precision.

rank_correlation   of the mean effects of all heads (Spearman), for answer loss and choice loss; `ceiling` is that of
                   two halves of the examples in float32, what sampling alone leaves
noise_rms          root mean square difference of a single effect (one head, one example), in nats
noise_floor        twice its standard error on the mean of all examples: smaller scores may be rounding
below_floor        share of heads whose mean effect is smaller than that
seconds            of both, in turns in one process
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

import cap_viz as cv
from cap_viz.attribution.results import HeadScores
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.settings import FULL_PRECISION, PRECISIONS, ask_for
from cap_viz.stats.reliability import rank_correlation

METRICS = ("nll", "choice_nll")


def scored(model_id: str, task: str, n: int, dtype: str) -> tuple[HeadScores, float]:
    """Scores in that precision, and the seconds they took without loading."""
    ask_for(device="", dtype=dtype)
    model, examples = cv.load_model(model_id), cv.load_task(task).calibration(n)
    cv.score_heads(model, examples[:1], estimator="exact")
    started = time.perf_counter()
    scores = cv.score_heads(model, examples, estimator="exact")
    return scores, time.perf_counter() - started


def agreement(full: HeadScores, half: HeadScores, metric: str) -> dict[str, float]:
    exact, rounded = full.effects(metric), half.effects(metric)
    n = exact.shape[-1]
    noise = float(np.sqrt(np.mean((rounded - exact) ** 2)))
    floor = 2 * noise / np.sqrt(n)
    means = exact.mean(axis=-1).ravel()
    halves = exact[..., 0::2].mean(axis=-1).ravel(), exact[..., 1::2].mean(axis=-1).ravel()
    return {
        "rank_correlation": round(rank_correlation(means, rounded.mean(axis=-1).ravel()), 4),
        "ceiling": round(rank_correlation(*halves), 4),
        "noise_rms": round(noise, 5),
        "noise_floor": round(float(floor), 5),
        "below_floor": round(float((np.abs(means) < floor).mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--task", default="arc_easy")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16", choices=[name for name in PRECISIONS if name != FULL_PRECISION])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    full, full_s = scored(options.model, options.task, options.items, FULL_PRECISION)
    half, half_s = scored(options.model, options.task, options.items, options.dtype)
    numbers = {
        "dtype": options.dtype,
        "task": options.task,
        "items": options.items,
        **{metric: agreement(full, half, metric) for metric in METRICS},
        "answers_that_differ": int((np.nanargmax(full.dense, axis=1) != np.nanargmax(half.dense, axis=1)).sum()),
        "seconds": {FULL_PRECISION: round(full_s, 1), options.dtype: round(half_s, 1)},
    }
    print(json.dumps(numbers) if options.json else json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
