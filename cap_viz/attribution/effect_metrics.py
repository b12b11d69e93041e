"""Metrics of a question answered by log-likelihood, and the effect of an ablation on them.

Every metric is a loss (lower is better for the model), computed from the summed log-likelihood of each option.
The effect of removing a head is `metric(ablated) - metric(dense)`: positive means the head helps.
Options an example does not have are NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp

from cap_viz.errors import UsageError, choose
from cap_viz.tasks.base import Task

Logliks = Float[np.ndarray, "*batch example option"]
PerExample = Float[np.ndarray, "*batch example"]
Gold = Int[np.ndarray, " example"]
Tokens = Int[np.ndarray, "example option"]


def nll(logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
    """Mean token cross-entropy of the gold option, in nats (CAP paper, section 3)."""
    return -at_gold(logliks, gold) / at_gold(tokens, gold)


def choice_nll(logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
    """Minus the log of the softmax over the options' summed log-likelihoods, at the gold option, in nats."""
    return logsumexp(filled(logliks), axis=-1) - at_gold(logliks, gold)


def logit_diff(logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
    """Log-sum-exp of the other options minus the gold option's log-likelihood, in nats."""
    others = filled(logliks)
    np.put_along_axis(others, gold_index(others, gold), -np.inf, axis=-1)
    return logsumexp(others, axis=-1) - at_gold(logliks, gold)


def accuracy(logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
    """1 where the gold option is not the most likely one, else 0 (the error, so that all metrics are losses)."""
    return (np.argmax(filled(logliks), axis=-1) != gold).astype(np.float64)


@dataclass(frozen=True)
class Metric:
    """A loss per example with its plain name, the unit of its effects, and the package and version it came with.

    `origin` is empty for the metrics of CAP Viz; those of other packages are added by `integrations/plugins.py`.
    """

    compute: Callable[[Logliks, Gold, Tokens], PerExample]
    title: str
    unit: str
    origin: str = ""

    def __call__(self, logliks: Logliks, gold: Gold, tokens: Tokens) -> PerExample:
        return self.compute(logliks, gold, tokens)


# The metrics that come with CAP Viz, for editors and type checkers; other names are looked up in `METRICS`.
MetricName = Literal["nll", "choice_nll", "logit_diff", "accuracy"]

METRICS: dict[str, Metric] = {
    "nll": Metric(nll, "Answer loss", "nats per token"),
    "choice_nll": Metric(choice_nll, "Choice loss", "nats"),
    "logit_diff": Metric(logit_diff, "Margin loss", "nats"),
    "accuracy": Metric(accuracy, "Errors", "errors per question"),
}

# Metrics with a gradient (on torch tensors: `attribution/forward/backward.py`), and metrics that need a second option.
DIFFERENTIABLE = ("nll", "choice_nll", "logit_diff")
COMPARES_OPTIONS = ("choice_nll", "logit_diff", "accuracy")


def metric_named(name: str) -> Metric:
    return choose("metric", name, METRICS)


def applicable_metrics(task: Task) -> tuple[str, ...]:
    """Return the metrics of a task; running text has no options, so only its token loss (nll)."""
    return ("nll",) if task.kind == "text" else tuple(METRICS)


def check_differentiable(name: str) -> None:
    """Raise `UsageError` for an unknown metric and for one without a useful gradient."""
    metric_named(name)
    if name not in DIFFERENTIABLE:
        raise UsageError(
            f"Metric {name!r} has no gradient to estimate effects from; choose one of {', '.join(DIFFERENTIABLE)}, "
            "or the exact estimator."
        )


def filled(logliks: Logliks) -> Logliks:
    """Copy as float64, with absent options at -inf so that they never win."""
    return np.where(np.isnan(logliks), -np.inf, np.asarray(logliks, dtype=np.float64))


def gold_index(values: np.ndarray, gold: Gold) -> np.ndarray:
    return np.broadcast_to(gold[:, None], (*values.shape[:-1], 1))


def at_gold(values: np.ndarray, gold: Gold) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return np.take_along_axis(values, gold_index(values, gold), axis=-1)[..., 0]
