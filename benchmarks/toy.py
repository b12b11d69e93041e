"""How live the toy reasoner is, and how well it answers: python -m benchmarks.toy [--json]

load_s      the model ready to be scored, once the libraries are imported
heatmap_s   exact effects of all heads on 64 calibration questions (median of `--repeats`, the slowest task)
accuracy_s  200 evaluation questions answered under a finished mask of half of the weights (the same)
accuracy    the dense model on 400 evaluation questions of each task, with 95 % interval
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import cap_viz as cv
from cap_viz.models.catalogue import CATALOGUE, TOY_MODEL
from cap_viz.models.loading import ReasoningModel
from cap_viz.stats import above_chance

BARS = {"load_s": 1.0, "heatmap_s": 3.0, "accuracy_s": 1.0}
N_SCORED, N_PRUNED, N_DENSE = 64, 200, 400


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of some runs, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds_of(model: ReasoningModel, name: str, repeats: int) -> dict[str, float]:
    """Heatmap and accuracy of one task."""
    task = cv.load_task(name)
    calibration, evaluation = task.calibration(N_SCORED), task.evaluation(N_PRUNED)
    mask = cv.prune_mask(model, "wanda", sparsity=0.5, calibration=calibration)
    return {
        "heatmap_s": median_seconds(lambda: cv.score_heads(model, calibration, estimator="exact"), repeats),
        "accuracy_s": median_seconds(lambda: cv.evaluate(model, evaluation, mask=mask), repeats),
    }


def accuracy_of(model: ReasoningModel, name: str) -> dict[str, object]:
    report = cv.evaluate(model, cv.load_task(name).evaluation(N_DENSE))
    test = above_chance(report.correct, report.questions.n_options)
    return {"accuracy": test.accuracy, "ci": [round(test.ci.low, 4), round(test.ci.high, 4)], "n": test.n}


def measure(repeats: int) -> dict[str, object]:
    load_s = median_seconds(lambda: cv.load_model(TOY_MODEL), repeats)
    model = cv.load_model(TOY_MODEL)
    tasks = [name for name in CATALOGUE[TOY_MODEL].tasks if cv.load_task(name).kind != "text"]
    by_task = {name: seconds_of(model, name, repeats) for name in tasks}
    return {
        "load_s": round(load_s, 3),
        **{kind: round(max(one[kind] for one in by_task.values()), 3) for kind in ("heatmap_s", "accuracy_s")},
        "by_task": by_task,
        "accuracy": {name: accuracy_of(model, name) for name in tasks},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = measure(options.repeats)
    passed = all(float(str(numbers[name])) <= bar for name, bar in BARS.items())
    if options.json:
        print(json.dumps({**numbers, "bars": BARS, "passed": passed}))
    else:
        for name, bar in BARS.items():
            print(f"{name:12} {numbers[name]:8} s  (bar {bar:g})")
        print(json.dumps(numbers["accuracy"], indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
