"""Gradient and hybrid head scores against exact ones: python -m benchmarks.estimators [--json]

A bank of ARC-Easy calibration examples is scored exactly and by gradient through the store (so an interrupted
benchmark goes on where it was, and a second one reads; the first 48 come from the shipped run). From it, per metric:

gradient_rank_corr             Spearman over heads, mean gradient effect on one half of the bank against mean exact
                               effect on the other half; median over random halves
gradient_rank_corr_ceiling     the same with exact effects on both halves: what no estimator can beat
gradient_rank_corr_same_items  both on the whole bank: looks better, since the examples' noise is shared
hybrid_coverage, _p5           share of 95 % hybrid intervals that hold the truth: mean and 5th percentile over heads.
                               The bank is the population, its mean the truth; replicates are drawn with replacement
exact_coverage, _p5            the same for the t interval of the n exact examples alone
simulated_coverage, _p5        the same on generated effects with known means and heavy tails
equal_ci_cost_ratio            cost of the naive exact loop over that of the hybrid run at the same half-width of the
                               interval, median over heads; one common (n, N), and everything counted on our side
equal_ci_cost_ratio_top10      the median over the ten heads with the largest effects

(n, N) is one pair for all heads and metrics: the one whose expected ratios for nll, of the median head and of the ten
heads with the largest effects, are highest against their bars (the worse of the two counts). The naive loop is that of
`benchmarks.replay_vs_naive`, timed on heads spread over the layers and scaled to all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import stats

from benchmarks.guards import self_checks_made
from benchmarks.replay_vs_naive import CLOCKS, Clock, naive_batches, naive_head, option_rows, spread_heads
from cap_viz.attribution.exact import encode_all, make_score_plan, score_steps
from cap_viz.attribution.gradient import gradient_effects
from cap_viz.cli.output import shown
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import N_CALIBRATION
from cap_viz.stats import hybrid_mean, mean_with_ci
from cap_viz.stats.budget import ExampleCost, pilot_of
from cap_viz.stats.reliability import shuffled_examples, spearman_rows, subset_means
from cap_viz.tasks import Example, load_task
from cap_viz.tasks.example_sets import ExampleSet, calibration_set, named_set

TASK = "arc_easy"
METRICS = ("nll", "choice_nll")
BARS = {
    "hybrid_coverage": 0.93,
    "hybrid_coverage_p5": 0.85,
    "equal_ci_cost_ratio": 40.0,
    "equal_ci_cost_ratio_top10": 15.0,
}
HALVES = 200
TOP = 10
SIZES_EXACT = (16, 24, 32, 48, 64, 96)
SIZES_GRADIENT = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)

Effects = Float[np.ndarray, "head example"]


@dataclass(frozen=True)
class Bank:
    """Exact and gradient effects of every head on the same examples, for one metric."""

    exact: Effects
    gradient: Effects


@dataclass(frozen=True)
class Coverage:
    """What repeated hybrid runs give per head: how often the interval holds the truth, and its median half-width."""

    hybrid: Float[np.ndarray, " head"]
    exact: Float[np.ndarray, " head"]
    half_width: Float[np.ndarray, " head"]


@dataclass(frozen=True)
class Seconds:
    """Seconds per example, and those of planning and self-checks, which an exact run has once whatever its size."""

    naive: float
    exact: float
    checks: float
    gradient: float

    def hybrid(self, n: int, n_gradient: int) -> float:
        """Seconds of a whole hybrid run."""
        return self.checks + ExampleCost(self.exact, self.gradient).seconds(n, n_gradient)


def banks(model: ReasoningModel, n: int) -> dict[str, Bank]:
    store, examples = Store(), calibration_set(TASK, n)
    exact = [load_scores(store, shown(run_steps(spec, model, store))) for spec in exact_specs(model, examples)]
    found = {}
    for metric in METRICS:
        spec = ScoreSpec(model=model.ref, examples=examples, estimator="gradient", metric=metric)
        gradient = load_gradient(store, shown(run_steps(spec, model, store)))
        effects = np.concatenate([scores.effects(metric) for scores in exact], axis=-1)
        found[metric] = Bank(
            exact=effects.reshape(-1, n).astype(np.float64),
            gradient=gradient.per_example.reshape(-1, n).astype(np.float64),
        )
    return found


def exact_specs(model: ReasoningModel, examples: ExampleSet) -> list[ScoreSpec]:
    """The shipped run, whose examples every longer draw begins with, and one of the others."""
    shipped = calibration_set(TASK, min(N_CALIBRATION, len(examples.ids)))
    rest = examples.ids[len(shipped.ids) :]
    sets = [shipped, named_set(TASK, rest)] if rest else [shipped]
    return [ScoreSpec(model=model.ref, examples=part) for part in sets]


# The gradient's self-check is part of its time: as in a hybrid run it comes once for many more examples.
MANY = 8
REPEATS = 3


def time_per_example(model: ReasoningModel, examples: Sequence[Example], n_heads_timed: int, clock: Clock) -> Seconds:
    """All of them in turns on the same examples (the gradient on `MANY` times as many); medians of `REPEATS`."""
    heads, n = spread_heads(model, n_heads_timed), len(examples)
    many = load_task(TASK).calibration(MANY * n)
    naive_head(model, naive_batches(option_rows(encode_all(model, examples[:2]))), 0, 0)
    turns = [time_once(model, examples, many, heads, clock) for _ in range(REPEATS)]
    naive, checks, exact, gradient = (float(np.median(column)) for column in zip(*turns, strict=True))
    scale = model.shape.n_layers * model.shape.n_heads / len(heads)
    return Seconds(naive=naive * scale / n, exact=exact / n, checks=checks, gradient=gradient / len(many))


def time_once(
    model: ReasoningModel,
    examples: Sequence[Example],
    many: Sequence[Example],
    heads: Sequence[tuple[int, int]],
    clock: Clock,
) -> tuple[float, float, float, float]:
    """Seconds of the naive loop over `heads`, of the exact run's plan and its steps, and of the gradients of `many`."""
    marks = [clock()]
    batches = naive_batches(option_rows(encode_all(model, examples)))
    for layer, head in heads:
        naive_head(model, batches, layer, head)
    marks.append(clock())
    with self_checks_made(model):
        plan = make_score_plan(model, examples)
    marks.append(clock())
    for _ in score_steps(model, plan):
        pass
    marks.append(clock())
    with self_checks_made(model):
        gradient_effects(model, many)
    marks.append(clock())
    first, second, third, fourth = np.diff(marks).tolist()
    return first, second, third, fourth


def rank_correlations(bank: Bank) -> dict[str, float]:
    n = bank.exact.shape[1]
    order = shuffled_examples(n, HALVES, seed=0)
    first, second = order[:, : n // 2], order[:, n // 2 : 2 * (n // 2)]
    target = subset_means(bank.exact, second)
    means = [values.mean(axis=1)[None] for values in (bank.gradient, bank.exact)]
    return {
        "gradient_rank_corr": float(np.median(spearman_rows(subset_means(bank.gradient, first), target))),
        "gradient_rank_corr_ceiling": float(np.median(spearman_rows(subset_means(bank.exact, first), target))),
        "gradient_rank_corr_same_items": float(spearman_rows(*means)[0]),
    }


def best_sizes(bank: Bank, seconds: Seconds) -> tuple[int, int]:
    """The pair with the best expected ratios relative to their bars, from the bank's variances."""
    pilot, top = pilot_of(bank.exact, bank.gradient), top_heads(bank)

    def expected(sizes: tuple[int, int]) -> float:
        needed = (
            exact_examples_for(np.sqrt(pilot.total), pilot.half_width(*sizes)) * seconds.naive / seconds.hybrid(*sizes)
        )
        return min(
            float(np.median(needed)) / BARS["equal_ci_cost_ratio"],
            float(np.median(needed[top])) / BARS["equal_ci_cost_ratio_top10"],
        )

    return max(((n, m) for n in SIZES_EXACT for m in SIZES_GRADIENT if m >= n), key=expected)


def top_heads(bank: Bank) -> Int[np.ndarray, " head"]:
    return np.argsort(-bank.exact.mean(axis=1))[:TOP]


def repeated_runs(bank: Bank, n: int, n_gradient: int, replicates: int, seed: int = 0) -> Coverage:
    """Hybrid runs on examples drawn from the bank with replacement; the truth is the bank's mean."""
    random = np.random.default_rng(seed)
    truth, size = bank.exact.mean(axis=1), bank.exact.shape[1]
    covered, covered_exact, widths = [], [], []
    for _ in range(replicates):
        drawn = random.integers(size, size=n_gradient)
        exact, gradient = bank.exact[:, drawn[:n]], bank.gradient[:, drawn]
        for estimate, covers in (
            (hybrid_mean(exact, gradient[:, :n], gradient), covered),
            (mean_with_ci(exact), covered_exact),
        ):
            covers.append((estimate.low <= truth) & (truth <= estimate.high))
            if covers is covered:
                widths.append((estimate.high - estimate.low) / 2)
    return Coverage(np.mean(covered, axis=0), np.mean(covered_exact, axis=0), np.median(widths, axis=0))


def simulated_coverage(n: int, n_gradient: int, replicates: int) -> Float[np.ndarray, " head"]:
    """Coverage on 200 heads whose effects are t-distributed with 5 degrees of freedom around known means."""
    random = np.random.default_rng(0)
    truth = random.normal(size=200)
    correlation = random.uniform(0, 0.99, size=(200, 1))
    covered = []
    for _ in range(replicates):
        shared, own = random.standard_t(5, size=(2, 200, n_gradient))
        exact = truth[:, None] + correlation * shared + np.sqrt(1 - correlation**2) * own
        gradient = 0.8 * shared + 0.1
        estimate = hybrid_mean(exact[:, :n], gradient[:, :n], gradient)
        covered.append((estimate.low <= truth) & (truth <= estimate.high))
    return np.mean(covered, axis=0)


def exact_examples_for(
    spread: Float[np.ndarray, "*head"],
    half_width: Float[np.ndarray, "*head"],
) -> Float[np.ndarray, "*head"]:
    """Examples an exact run needs for a 95 % t interval of this half-width, as a real number (at least 2).

    `spread` is the standard deviation of an example's effect.
    """
    low, high = np.full(np.shape(spread), 2.0), np.full(np.shape(spread), 1e7)
    for _ in range(60):
        middle = np.sqrt(low * high)
        wide = stats.t.ppf(0.975, df=middle - 1) * spread / np.sqrt(middle) > half_width
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return np.asarray(high)


def cost_ratios(bank: Bank, runs: Coverage, seconds: Seconds, n: int, n_gradient: int) -> Float[np.ndarray, " head"]:
    needed = exact_examples_for(bank.exact.std(axis=1, ddof=1), runs.half_width)
    return needed * seconds.naive / seconds.hybrid(n, n_gradient)


def summary(bank: Bank, seconds: Seconds, sizes: tuple[int, int], replicates: int) -> dict[str, float]:
    runs = repeated_runs(bank, *sizes, replicates)
    ratios = cost_ratios(bank, runs, seconds, *sizes)
    top = top_heads(bank)
    return rank_correlations(bank) | {
        "hybrid_coverage": float(runs.hybrid.mean()),
        "hybrid_coverage_p5": float(np.quantile(runs.hybrid, 0.05)),
        "hybrid_coverage_lowest": float(runs.hybrid.min()),
        "exact_coverage": float(runs.exact.mean()),
        "exact_coverage_p5": float(np.quantile(runs.exact, 0.05)),
        "equal_ci_cost_ratio": float(np.median(ratios)),
        "equal_ci_cost_ratio_top10": float(np.median(ratios[top])),
    }


def measure(model: ReasoningModel, *, bank: int, timed: int, heads: int, replicates: int, clock: str) -> dict[str, Any]:
    by_metric = banks(model, bank)
    seconds = time_per_example(model, load_task(TASK).calibration(timed), heads, CLOCKS[clock])
    sizes = best_sizes(by_metric["nll"], seconds)
    simulated = simulated_coverage(*sizes, replicates)
    numbers: dict[str, Any] = {}
    for metric, effects in by_metric.items():
        suffix = "" if metric == "nll" else f"_{metric}"
        found = summary(effects, seconds, sizes, replicates)
        numbers |= {f"{name}{suffix}": round(value, 3) for name, value in found.items()}
    return numbers | {
        "simulated_coverage": round(float(simulated.mean()), 3),
        "simulated_coverage_p5": round(float(np.quantile(simulated, 0.05)), 3),
        "n": sizes[0],
        "n_gradient": sizes[1],
        "naive_seconds_per_item": round(seconds.naive, 2),
        "exact_seconds_per_item": round(seconds.exact, 2),
        "exact_seconds_once": round(seconds.checks, 2),
        "gradient_seconds_per_item": round(seconds.gradient, 3),
        "bank": bank,
        "timed": timed,
        "heads_timed": heads,
        "replicates": replicates,
        "threads": torch.get_num_threads(),
        "clock": clock,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--bank", type=int, default=128, help="examples scored exactly and by gradient")
    parser.add_argument("--timed", type=int, default=8, help="examples on which the three are timed")
    parser.add_argument("--heads", type=int, default=12, help="heads of the naive loop that are timed")
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="as in benchmarks.replay_vs_naive")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = measure(
        load_model(options.model),
        bank=options.bank,
        timed=options.timed,
        heads=options.heads,
        replicates=options.replicates,
        clock=options.clock,
    )
    if options.json:
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            print(f"{name:42} {value}")
    return 0 if all(numbers[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
