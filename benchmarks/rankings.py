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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from cap_viz.attribution.hybrid import hybrid_scores
from cap_viz.attribution.joint_ablation import JointScores, joint_effects
from cap_viz.cli.output import shown
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ModelShape, ReasoningModel, load_model
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.stats.circuits import all_but_first, circuit_areas, faithfulness, first, michel_scores, order_of
from cap_viz.stats.joint import Head, HeadSet
from cap_viz.tasks import load_task
from cap_viz.tasks.example_sets import calibration_set

TASK, METRIC = "arc_easy", "nll"
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

Order = tuple[Head, ...]
Scores = Float[np.ndarray, "layer head"]


@dataclass(frozen=True)
class Ranking:
    """Heads from the most important down: by score, and by the score's size (for CMD)."""

    order: Order
    by_size: Order

    def sets(self, counts: Sequence[int]) -> list[HeadSet]:
        """Every set of heads that is removed to judge this ranking."""
        removed = [first(self.order, count) for count in counts]
        removed += [first(self.order[::-1], count) for count in counts]
        return removed + [all_but_first(order, count) for order in (self.order, self.by_size) for count in counts]


@dataclass(frozen=True)
class Curves:
    """Mean nll on the held-out examples with so many heads removed, or only so many kept."""

    most_first: Float[np.ndarray, " count"]
    least_first: Float[np.ndarray, " count"]
    kept: Float[np.ndarray, " count"]
    kept_by_size: Float[np.ndarray, " count"]


def rankings(model: ReasoningModel, n: int, big_n: int, store: Store) -> dict[str, Ranking]:
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
    return {name: Ranking(order_of(scores), order_of(np.abs(scores))) for name, scores in by_name.items()}


def random_rankings(shape: ModelShape, orders: int) -> dict[str, Ranking]:
    heads = [(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads)]
    random = np.random.default_rng(0)
    drawn = [tuple(heads[i] for i in random.permutation(len(heads))) for _ in range(orders)]
    return {f"random {i}": Ranking(order, order) for i, order in enumerate(drawn)}


def random_sets(ranking: Ranking, counts: Sequence[int]) -> list[HeadSet]:
    """A random order from its end is another random order, so one direction does for both."""
    return [cut(ranking.order, count) for cut in (first, all_but_first) for count in counts]


def curves_of(ranking: Ranking, counts: Sequence[int], loss: dict[HeadSet, float], *, random: bool) -> Curves:
    most = np.array([loss[first(ranking.order, count)] for count in counts])
    least = most if random else np.array([loss[first(ranking.order[::-1], count)] for count in counts])
    kept = np.array([loss[all_but_first(ranking.order, count)] for count in counts])
    by_size = np.array([loss[all_but_first(ranking.by_size, count)] for count in counts])
    return Curves(most, least, kept, by_size)


def summary(curves: Curves, shares: Float[np.ndarray, " count"], dense: float, empty: float) -> dict[str, float]:
    def area(removed: Float[np.ndarray, " count"]) -> float:
        rise, at = np.array([0.0, *(removed - dense)]), np.array([0.0, *shares])
        return float(np.trapezoid(rise, at) / at[-1])

    def areas(kept: Float[np.ndarray, " count"]) -> Any:
        return circuit_areas(np.array([*shares, 1.0]), faithfulness(np.array([*kept, dense]), dense=dense, empty=empty))

    return {
        "most_area": area(curves.most_first),
        "least_area": area(curves.least_first),
        "cpr": areas(curves.kept).cpr,
        "cmd": areas(curves.kept_by_size).cmd,
    }


BETTER_WHEN_LOW = ("least_area", "cmd")


def share_as_good(name: str, value: float, random: Sequence[float]) -> float:
    sign = -1 if name in BETTER_WHEN_LOW else 1
    return (1 + sum(sign * other >= sign * value for other in random)) / (1 + len(random))


def measure(model: ReasoningModel, *, items: int, n: int, big_n: int, orders: int) -> dict[str, Any]:
    shape = model.shape
    n_heads = shape.n_layers * shape.n_heads
    counts = [max(1, round(share * n_heads)) for share in SHARES]
    ranked = rankings(model, n, big_n, Store())
    drawn = random_rankings(shape, orders)
    every = first(ranked["exact"].order, n_heads)
    sets = [every, *(s for ranking in ranked.values() for s in ranking.sets(counts))]
    sets += [s for ranking in drawn.values() for s in random_sets(ranking, counts)]
    started = time.perf_counter()
    joint = joint_effects(model, load_task(TASK).evaluation(items), sets)
    seconds = time.perf_counter() - started
    loss, errors = mean_losses(joint, METRIC), mean_losses(joint, "accuracy")
    shares = np.array(counts) / n_heads
    summaries = {
        name: summary(curves_of(ranking, counts, loss, random=name in drawn), shares, loss[()], loss[every])
        for name, ranking in (ranked | drawn).items()
    }
    numbers: dict[str, Any] = {
        "counts": counts,
        "dense_nll": round(loss[()], 4),
        "no_heads_nll": round(loss[every], 4),
        "dense_accuracy": round(1 - errors[()], 3),
        "items": items,
        "n": n,
        "n_gradient": big_n,
        "orders": orders,
        "sets": len(joint.sets),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 1),
    }
    for name, ranking in ranked.items():
        curves, errors_of = (curves_of(ranking, counts, values, random=False) for values in (loss, errors))
        numbers[name] = {key: round(value, 4) for key, value in summaries[name].items()}
        numbers[name] |= {
            f"p_{key}": round(share_as_good(key, value, [summaries[other][key] for other in drawn]), 3)
            for key, value in summaries[name].items()
        }
        numbers[name] |= {
            "most_first": curves.most_first.round(4).tolist(),
            "least_first": curves.least_first.round(4).tolist(),
            "most_first_accuracy": (1 - errors_of.most_first).round(3).tolist(),
            "least_first_accuracy": (1 - errors_of.least_first).round(3).tolist(),
        }
    removed = np.array([curves_of(r, counts, loss, random=True).most_first for r in drawn.values()])
    numbers["random"] = {
        key: [round(float(q), 4) for q in np.quantile([summaries[name][key] for name in drawn], (0, 0.5, 1))]
        for key in summaries["exact"]
    } | {"removed": np.quantile(removed, (0, 0.5, 1), axis=0).round(4).tolist()}
    return numbers


def mean_losses(joint: JointScores, metric: str) -> dict[HeadSet, float]:
    return dict(zip(joint.sets, joint.losses(metric).mean(axis=1).tolist(), strict=True))


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
