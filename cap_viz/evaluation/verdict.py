"""What a paired comparison says, by one rule for every page, the studies and the documents.

`grade_of` takes the 95 % interval and the test, adjusted over its family, together: a difference is clear when the
interval excludes 0 and the test rejects at 0.05, a hint when only one of them does, else there is none. The words
follow from the grade, so that an interval and the words beside it never disagree. Which comparisons are a family is
fixed by the question asked (`runs/fixed_question.py`).
"""

from __future__ import annotations

from math import exp
from typing import Literal

from cap_viz.evaluation.eval_metrics import PERPLEXITY, Measure
from cap_viz.stats import PairedComparison
from cap_viz.stats.paired import ALPHA

Grade = Literal["clear", "hint", "none"]
NO_DIFFERENCE = "no clear difference"


def grade_of(result: PairedComparison, p: float | None = None) -> Grade:
    """Grade a difference; `p` is adjusted over the comparison's family, and its own where it stands alone."""
    rejected = (result.p_value if p is None else p) < ALPHA
    if result.excludes_zero and rejected:
        return "clear"
    return "hint" if result.excludes_zero or rejected else "none"


def is_ahead(result: PairedComparison, measure: Measure) -> bool:
    """Whether the first of the two is the better one: the higher share, or the lower loss."""
    return (result.difference > 0) == measure.is_share


def outcome_words(
    result: PairedComparison, measure: Measure, first: str, second: str, *, p: float | None = None
) -> str:
    """Say who is ahead: `CAP ahead`, `hint: CAP ahead` or `no clear difference`; `p` is as in `grade_of`."""
    grade = grade_of(result, p)
    if grade == "none":
        return NO_DIFFERENCE
    return f"{'hint: ' if grade == 'hint' else ''}{first if is_ahead(result, measure) else second} ahead"


def difference_words(result: PairedComparison, measure: Measure) -> str:
    """Format a difference with its 95 % interval: `+2.1 points [+0.3, +3.9]`, of perplexities a factor."""
    values = (result.difference, result.ci.low, result.ci.high)
    if measure == PERPLEXITY:
        factor, low, high = (f"{exp(value):.3f}" for value in values)
        return f"× {factor} [{low}, {high}]"
    digits = digits_of(result, measure)
    value, low, high = (f"{measure.scale * one:+.{digits}f}".replace("-", "−") for one in values)
    return f"{value} {measure.steps} [{low}, {high}]"


def digits_of(result: PairedComparison, measure: Measure) -> int:
    """Return the decimals of a difference: tenths of points, thousandths of nats, more for tiny clear differences."""
    if measure.is_share:
        return 1
    size = abs(result.difference)
    return 3 if size >= 5e-4 or size < 5e-7 else 6


def hint_reason(result: PairedComparison, p: float | None = None) -> str:
    """Say why a hint is no more than that; empty for another grade."""
    if grade_of(result, p) != "hint":
        return ""
    if not result.excludes_zero:
        return "the test rejects, but the interval holds 0"
    if p is not None and result.is_clear:
        return f"not after adjusting (p = {p:.3f})"
    return f"the interval excludes 0, but the test does not reject (p = {result.p_value if p is None else p:.2f})"
