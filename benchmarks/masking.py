"""How fast masks are: python -m benchmarks.masking [--json]

slider_ms         new zeros per layer and matrix for a new sparsity, from weights ranked once (worst of 19)
apply_s           a finished mask put on the model: pruned copies made, swapped in and out again
bytes_per_weight  what the ranking keeps in memory
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np

from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.progress import finish
from cap_viz.pruning import rank_weights
from cap_viz.pruning.selection.global_threshold import GlobalRanking

BARS = {"slider_ms": 150.0, "apply_s": 0.5, "bytes_per_weight": 2.0}
SPARSITIES = tuple(round(0.05 * step, 2) for step in range(1, 20))


def measure(model: ReasoningModel) -> dict[str, float]:
    """The three numbers for CAP on effects drawn at random: their values change no timing."""
    shape = model.shape
    effect = np.random.default_rng(0).normal(size=(shape.n_layers, shape.n_heads))
    ranking = rank_weights(model, "cap", effect=effect)
    assert isinstance(ranking, GlobalRanking)
    slider = []
    for sparsity in SPARSITIES:
        started = time.perf_counter()
        counts = ranking.profile([sparsity])
        shares = counts.by_layer(), counts.share
        assert all(np.isfinite(share).all() for share in shares)
        slider.append(1000 * (time.perf_counter() - started))
    mask = finish(ranking.mask_steps(model, 0.5))
    applied = []
    for _ in range(5):
        started = time.perf_counter()
        with model.masked(mask.keep, mask.updated):
            pass
        applied.append(time.perf_counter() - started)
    kept = ranking.bins.nbytes + ranking.histogram.nbytes + ranking.before.nbytes
    return {
        "slider_ms": round(max(slider), 2),
        "apply_s": round(float(np.median(applied)), 3),
        "bytes_per_weight": round(kept / ranking.total, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = measure(load_model(options.model))
    passed = all(numbers[name] <= bar for name, bar in BARS.items())
    if options.json:
        print(json.dumps({**numbers, "bars": BARS, "passed": passed}))
    else:
        for name, bar in BARS.items():
            print(f"{name:17} {numbers[name]:8g}  (bar {bar:g})")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
