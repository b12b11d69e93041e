"""What limits the engine, and what was tried without gain: python -m benchmarks.limits [--json]

product_share        share of a replay's time that goes into matrix products (profiler, a layer in the middle)
gflops_by_shape      rate of the products a replay consists of at its batch size, in float32 and in bfloat16, and of a
                     large square one
exact_seconds        seconds per item of the exact estimator by rows x positions of a forward, self-checks included
gradient_seconds     the same of the gradient estimator, on eight times the items, by rows x positions of a backward
bfloat16_noise       root mean square change of the options' log-likelihoods with products in bfloat16, by the model's
                     own blocks (torch's autocast does not reach into the direct ones, which add in place)
left_by_covariate    share of an example's variance that is left when its exact effect is predicted from its gradient
                     effect and others (leave-one-out; median over heads, and over the ten with the largest effects)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks.estimators import MANY, TASK, TOP, exact_specs
from benchmarks.guards import self_checks_made
from benchmarks.replay_vs_naive import matmul_rate
from cap_viz.attribution import exact
from cap_viz.attribution import gradient as by_gradient
from cap_viz.attribution.exact import exact_scores, make_score_plan, score_steps
from cap_viz.attribution.results import EvalReport
from cap_viz.cli.output import shown
from cap_viz.evaluation.choice import EvalArrays, eval_steps, make_eval_plan
from cap_viz.models.catalogue import DEFAULT_MODEL
from cap_viz.models.loading import ReasoningModel, load_model
from cap_viz.runs.execute import run_steps
from cap_viz.runs.kinds.scores import load_gradient, load_scores
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import Store
from cap_viz.settings import N_CALIBRATION
from cap_viz.tasks import Example, load_task
from cap_viz.tasks.example_sets import calibration_set

PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")


def best_seconds(run: Callable[[], object], repeats: int = 20) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def product_share(model: ReasoningModel, examples: Sequence[Example]) -> float:
    """Of the steps of the first batch from the middle layer on, after one step to warm up."""
    plan = make_score_plan(model, examples)
    steps = score_steps(model, plan)
    for _ in range(model.shape.n_layers // 2):
        next(steps)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        next(steps)
    spent = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    return sum(spent.get(name, 0.0) for name in PRODUCTS) / sum(spent.values())


def gflops_by_shape(model: ReasoningModel, rows: int) -> dict[str, list[float]]:
    """float32 and bfloat16 rates of x W^T for every matrix of a block and a slice of the vocabulary."""
    block = {m.kind: m.weight.detach() for m in model.matrices() if m.layer == 0}
    weights = block | {"vocabulary": model.bridge.unembed.original_component.weight.detach()[:4096]}
    found = {}
    for name, weight in weights.items():
        x = torch.randn(rows, weight.shape[1])
        flop = 2 * rows * weight.numel()
        pairs = ((x, weight), (x.bfloat16(), weight.bfloat16()))
        with torch.inference_mode():
            found[name] = [round(flop / best_seconds(lambda pair=pair: F.linear(*pair)) / 1e9, 1) for pair in pairs]
    return found | {"2048 square": [round(matmul_rate() / 1e9, 1)]}


@contextmanager
def scaled(module: Any, names: Sequence[str], factor: float) -> Iterator[None]:
    """Constants of a module times a factor."""
    before = {name: getattr(module, name) for name in names}
    try:
        for name, value in before.items():
            setattr(module, name, int(factor * value))
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def seconds_by_budget(
    model: ReasoningModel,
    run: Callable[[], object],
    module: Any,
    names: Sequence[str],
    factors: Sequence[float],
    n: int,
) -> dict[str, float]:
    """Seconds per item by the first of these budgets; all of them are scaled, so that none limits another."""

    def with_self_checks() -> None:
        with self_checks_made(model):
            run()

    found = {}
    for factor in factors:
        with scaled(module, names, factor):
            budget = str(getattr(module, names[0]))
            found[budget] = round(best_seconds(with_self_checks, repeats=2) / n, 3)
    return found


def left_over(covariates: Sequence[Float[np.ndarray, " example"]], exact: Float[np.ndarray, " example"]) -> float:
    """Mean squared leave-one-out residual of least squares, relative to the variance."""
    design = np.column_stack([np.ones(len(exact)), *covariates])
    hat = design @ np.linalg.pinv(design)
    residual = (exact - hat @ exact) / (1 - np.diag(hat))
    return float((residual**2).mean() / exact.var(ddof=1))


def left_by_covariate(model: ReasoningModel) -> dict[str, list[float]]:
    store, examples = Store(), calibration_set(TASK, N_CALIBRATION)
    scores = load_scores(store, shown(run_steps(exact_specs(model, examples)[0], model, store)))
    spec = ScoreSpec(model=model.ref, examples=examples, estimator="gradient", metric="nll")
    gradient = load_gradient(store, shown(run_steps(spec, model, store))).per_example.astype(np.float64)
    exact, dense = scores.effects("nll").astype(np.float64), EvalReport(scores.questions, scores.dense).losses("nll")
    exact, gradient = (effects.reshape(-1, effects.shape[-1]) for effects in (exact, gradient))
    top = np.argsort(-exact.mean(axis=1))[:TOP]
    sets: dict[str, Callable[[Any], list[Any]]] = {
        "gradient": lambda g: [g],
        "dense loss": lambda g: [dense],
        "gradient, dense loss": lambda g: [g, dense],
        "gradient, its square": lambda g: [g, g**2],
        "gradient, its size": lambda g: [g, np.abs(g)],
    }
    found = {}
    for name, covariates in sets.items():
        left = np.array([left_over(covariates(g), e) for g, e in zip(gradient, exact, strict=True)])
        found[name] = [round(float(np.median(left)), 3), round(float(np.median(left[top])), 3)]
    return found


def bfloat16_noise(model: ReasoningModel, examples: Sequence[Example]) -> float:
    """Root mean square change of the options' log-likelihoods when matrix products are taken in bfloat16."""
    full = logliks_by_own_blocks(model, examples)
    with torch.autocast("cpu", torch.bfloat16):
        half = logliks_by_own_blocks(model, examples)
    return float(np.sqrt(np.nanmean((half - full) ** 2)))


def logliks_by_own_blocks(model: ReasoningModel, examples: Sequence[Example]) -> Float[np.ndarray, "example option"]:
    plan = make_eval_plan(model, examples)
    plan = replace(plan, batches=replace(plan.batches, direct=False))
    arrays = EvalArrays(plan)
    for block in eval_steps(model, plan):
        arrays.add(block)
    return arrays.report().logliks


def measure(model: ReasoningModel, n: int) -> dict[str, Any]:
    examples, many = (load_task(TASK).calibration(number) for number in (n, MANY * n))
    factors = (0.5, 1.0, 2.0)
    return {
        "product_share": round(product_share(model, examples), 3),
        "gflops_by_shape": gflops_by_shape(model, rows=exact.TOKENS_PER_FORWARD // 2),
        "exact_seconds": seconds_by_budget(
            model,
            lambda: exact_scores(model, examples),
            exact,
            ("TOKENS_PER_FORWARD", "MOST_TOKENS_PER_STEP"),
            factors,
            n,
        ),
        "gradient_seconds": seconds_by_budget(
            model,
            lambda: by_gradient.gradient_effects(model, many),
            by_gradient,
            ("TOKENS_PER_BACKWARD",),
            factors,
            len(many),
        ),
        "bfloat16_noise": round(bfloat16_noise(model, many), 3),
        "left_by_covariate": left_by_covariate(model),
        "items": n,
        "threads": torch.get_num_threads(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--items", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = measure(load_model(options.model), options.items)
    if options.json:
        print(json.dumps(numbers))
    else:
        for name, value in numbers.items():
            print(f"{name:20} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
