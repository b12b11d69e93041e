"""Metrics of evaluations and their paired comparison: accuracy, length-normalised accuracy, choice loss, token loss.

Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp

import numpy as np
from jaxtyping import Float

from cap_viz.attribution.results import EvalReport
from cap_viz.errors import choose
from cap_viz.evaluation.generation import GenerationReport
from cap_viz.stats import (
    ChanceTest,
    Interval,
    PairedComparison,
    above_chance,
    bootstrap_mean_ci,
    compare_means,
    compare_paired,
    mean_with_ci,
    wilson,
)
from cap_viz.stats.paired import mcnemar
from cap_viz.tasks import Task, majority_share
from cap_viz.tasks.pairing import check_same_items


@dataclass(frozen=True)
class Measure:
    """Metric of an evaluation. Values times `scale` are in `unit`, differences times `scale` in `steps`.

    `is_share` is True for shares of right answers (higher is better), False for losses (lower is better). Values are
    written with `digits` decimals.
    """

    name: str
    title: str
    summary: str
    is_share: bool
    scale: float
    unit: str
    steps: str
    digits: int = 3

    def words(self, value: float) -> str:
        """Format a value: `65.8 %`, or `1.492` in the unit of a loss."""
        return f"{self.scale * value:.{self.digits}f}{' %' if self.is_share else ''}"

    def interval_words(self, ci: Interval) -> str:
        """Format an interval: `62.0 – 69.5 %`."""
        return f"{self.scale * ci.low:.{self.digits}f} – {self.words(ci.high)}"


ACC = Measure(
    "acc",
    "Accuracy",
    "share of questions whose right option has the highest log-likelihood",
    is_share=True,
    scale=100,
    unit="%",
    steps="points",
    digits=1,
)
ACC_NORM = Measure(
    "acc_norm",
    "Normalised accuracy",
    "the same with log-likelihood per character of the option, as in lm-evaluation-harness",
    is_share=True,
    scale=100,
    unit="%",
    steps="points",
    digits=1,
)
CHOICE_LOSS = Measure(
    "choice_nll",
    "Choice loss",
    "mean surprise at the right option among those offered; lower is better, and finer than right or wrong",
    is_share=False,
    scale=1,
    unit="nats",
    steps="nats",
)
# Of written answers, which hold no log-likelihoods.
EXACT_MATCH = Measure(
    "exact_match",
    "Exact match",
    "share of questions whose answer, read from the text in the asked form, is the right one",
    is_share=True,
    scale=100,
    unit="%",
    steps="points",
    digits=1,
)
FLEXIBLE_MATCH = replace(
    EXACT_MATCH,
    name="flexible_match",
    title="Exact match, flexible",
    summary="share of questions whose answer, read from anywhere in the text, is the right one",
)
# Of texts without options: worked solutions, and windows of running text, whose loss is told as exp of it.
TOKEN_LOSS = Measure(
    "nll",
    "Token loss",
    "mean loss per token of the given text; lower is better",
    is_share=False,
    scale=1,
    unit="nats per token",
    steps="nats per token",
)
PERPLEXITY = Measure(
    "nll",
    "Perplexity",
    "exp of the mean loss per token of running text; lower is better",
    is_share=False,
    scale=1,
    unit="",
    steps="nats per token",
    digits=2,
)
# The measures of questions with options, to choose from.
MEASURES = {measure.name: measure for measure in (ACC, ACC_NORM, CHOICE_LOSS)}


@dataclass(frozen=True)
class Level:
    """Value of a measure for one evaluation with its 95 % interval, before scaling."""

    value: float
    ci: Interval


def measure_named(name: str) -> Measure:
    return choose("measure", name, MEASURES)


def per_question(report: EvalReport | GenerationReport, measure: Measure) -> Float[np.ndarray, " example"]:
    """Return 1 (right) or 0 (wrong) per question, or its loss in nats."""
    if isinstance(report, GenerationReport):
        right = {EXACT_MATCH: report.correct, FLEXIBLE_MATCH: report.correct_flexible}
        return right[measure].astype(np.float64)
    if measure == ACC:
        return report.correct.astype(np.float64)
    if measure == ACC_NORM:
        return report.correct_norm.astype(np.float64)
    return report.losses(measure.name)


def level_of(report: EvalReport | GenerationReport, measure: Measure) -> Level:
    """Average a measure over questions, with Wilson's interval for a share and a bootstrap one for a mean loss."""
    values = per_question(report, measure)
    mean = float(values.mean())
    if measure.is_share:
        return Level(mean, wilson(int(values.sum()), values.size))
    ci = bootstrap_mean_ci(values)
    return Level(exp(mean), Interval(exp(ci.low), exp(ci.high))) if measure == PERPLEXITY else Level(mean, ci)


def paired(
    first: EvalReport | GenerationReport, second: EvalReport | GenerationReport, measure: Measure
) -> PairedComparison:
    """Compare two evaluations of the same items, first minus second.

    Raises `UsageError` when the items (for losses of text also their tokens) differ.
    """
    check_same_items(first.items, second.items)
    return compare_values(per_question(first, measure), per_question(second, measure), measure)


def compare_values(
    first: Float[np.ndarray, " example"], second: Float[np.ndarray, " example"], measure: Measure
) -> PairedComparison:
    """Compare values of a measure on the same questions, first minus second."""
    return compare_paired(first > 0, second > 0) if measure.is_share else compare_means(first, second)


def paired_p(first: EvalReport, second: EvalReport, measure: Measure) -> float:
    """Return the p-value of `paired` without computing its interval, for large families of which few are shown."""
    check_same_items(first.items, second.items)
    a, b = per_question(first, measure), per_question(second, measure)
    return mcnemar(int((a > b).sum()), int((b > a).sum())) if measure.is_share else float(mean_with_ci(a - b).p_value)


def guessing(task: Task, report: EvalReport, measure: Measure) -> float:
    """Return the guessing baseline on these questions; for the loss, that of a uniform guess over the options."""
    if measure.is_share:
        return against_guessing(task, report).chance
    return float(np.log(report.questions.n_options).mean())


def against_guessing(task: Task, report: EvalReport) -> ChanceTest:
    """Test accuracy against 1/K or, for yes/no questions, against always giving the commoner answer if that is more."""
    questions = report.questions
    return above_chance(report.correct, questions.n_options, majority=majority_share(task, questions.gold.tolist()))
