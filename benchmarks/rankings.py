"""Do the rankings of heads hold on other examples? python -m benchmarks.rankings [--json]

Heads are ranked on ARC-Easy calibration examples by metric nll and zero ablation:

exact      mean effect on `--n` examples (the shipped run where n is 48)
gradient   mean first-order effect on `--big-n` examples
hybrid     the two combined
michel     mean size of the gradient effects, divided by its norm in each layer (Michel et al. 2019)
random     `--orders` random orders

On the first `--items` evaluation examples, which no ranking has seen, sets of heads are removed together:

most_first, least_first   nll (and accuracy) with the first r heads of an order removed, from either end
most_area, least_area     nll above the untouched model's, averaged over the share of heads removed from 0 to one half
                          (trapezoids): good rankings have a high most_area and a low least_area
cpr, cmd                  as in MIB (arXiv 2504.13151): heads kept by highest score, and by largest size, at MIB's
                          shares from .01 on (with 270 heads the smaller ones are one head or none)

seconds                   of these removals; the rankings themselves may be read from stored runs and are not timed

Random orders stand for both ends. `p` is the share of orders, the ranking included, that do at least as well: with 20
random ones never below 1/21.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch

from cap_viz.attribution.hybrid import hybrid_scores
from cap_viz.attribution.joint_ablation import joint_effects
from cap_viz.attribution.removal_curve import SHARES, RemovalCurve, Removals
from cap_viz.cli.output import shown
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.stats.circuits import michel_scores
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import calibration_set

TASK, METRIC = "arc_easy", "nll"
AREAS = {"most": "most_area", "least": "least_area", "cpr": "cpr", "cmd": "cmd"}


def rankings(model: ReasoningModel, n: int, big_n: int, orders: int, store: Store) -> dict[str, Removals]:
    exact_run = shown(run_steps(ScoreSpec(model=model.ref, examples=calibration_set(TASK, n)), model, store))
    many = calibration_set(TASK, big_n)
    gradient_spec = ScoreSpec(model=model.ref, examples=many, estimator="gradient", metric=METRIC)
    gradient = load_gradient(store, shown(run_steps(gradient_spec, model, store)))
    exact = load_scores(store, exact_run)
    by_name = {
        "exact": exact.mean_effect(METRIC),
        "gradient": gradient.mean_effect(METRIC),
        "hybrid": hybrid_scores(exact, gradient).mean_effect(METRIC),
        "michel": michel_scores(gradient.per_example),
    }
    return {name: Removals.of_effects(scores, SHARES, orders) for name, scores in by_name.items()}


def measure(model: ReasoningModel, *, items: int, n: int, big_n: int, orders: int) -> dict[str, Any]:
    ranked = rankings(model, n, big_n, orders, Store())
    sets = [heads for removals in ranked.values() for heads in removals.sets]
    started = time.perf_counter()
    joint = joint_effects(model, load_task(TASK).evaluation(items), sets)
    seconds = time.perf_counter() - started
    curves = {name: RemovalCurve(joint, removals) for name, removals in ranked.items()}
    exact = curves["exact"]
    loss, errors = exact.losses(METRIC), exact.losses("accuracy")
    areas = {name: curve.areas(METRIC).set_index("area") for name, curve in curves.items()}
    numbers: dict[str, Any] = {
        "counts": list(exact.counts),
        "dense_nll": round(float(loss[()].mean()), 4),
        "no_heads_nll": round(float(loss[tuple(sorted(exact.heads))].mean()), 4),
        "dense_accuracy": round(float(1 - errors[()].mean()), 3),
        "items": items,
        "n": n,
        "n_gradient": big_n,
        "orders": orders,
        "sets": len(joint.sets),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
    }
    for name, curve in curves.items():
        found, along, wrong = areas[name], curve.ordered(loss), curve.ordered(errors)
        values, p_values = found["value"].round(4).to_dict(), found["p_value"].round(3).to_dict()
        numbers[name] = {called: values[area] for area, called in AREAS.items()}
        numbers[name] |= {f"p_{called}": p_values[area] for area, called in AREAS.items()}
        numbers[name] |= {
            "most_first": along.most_first.mean(axis=-1).round(4).tolist(),
            "least_first": along.least_first.mean(axis=-1).round(4).tolist(),
            "most_first_accuracy": (1 - wrong.most_first.mean(axis=-1)).round(3).tolist(),
            "least_first_accuracy": (1 - wrong.least_first.mean(axis=-1)).round(3).tolist(),
        }
    removed = np.array([one.most_first.mean(axis=-1) for one in exact.at_random(loss)])
    limits = areas["exact"][["random_low", "random_median", "random_high"]]
    numbers["random"] = dict(zip(AREAS.values(), limits.round(4).to_numpy().tolist(), strict=True))
    numbers["random"] |= {"removed": np.quantile(removed, (0, 0.5, 1), axis=0).round(4).tolist()}
    return numbers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--items", type=int, default=24, help="held-out examples the sets are removed on")
    parser.add_argument("--n", type=int, default=48, help="examples measured exactly")
    parser.add_argument("--big-n", type=int, default=256, help="examples measured by their gradient")
    parser.add_argument("--orders", type=int, default=20, help="random orders")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = measure(
        load_model(options.model), items=options.items, n=options.n, big_n=options.big_n, orders=options.orders
    )
    if options.json:
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            print(f"{name:18} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
