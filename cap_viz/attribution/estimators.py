"""Estimators of head effects, behind one function.

`exact` ablates every head in turn. `gradient` estimates all effects from one backward pass, to first order. `hybrid`
measures a few examples exactly and many by their gradient, and combines the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

from cap_viz.errors import choose

if TYPE_CHECKING:
    from cap_viz.attribution.hybrid import HybridScores
    from cap_viz.attribution.results import GradientEffects, HeadScores
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.tasks.base import Example

ESTIMATORS = ("exact", "gradient", "hybrid")
# Default number of exactly measured examples of the hybrid estimator.
N_EXACT = 16


@overload
def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: Literal["exact"] = "exact",
    metric: str = "nll",
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
) -> HeadScores: ...
@overload
def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: Literal["gradient"],
    metric: str = "nll",
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
) -> GradientEffects: ...
@overload
def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: Literal["hybrid"],
    metric: str = "nll",
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    n_exact: int = N_EXACT,
) -> HybridScores: ...


def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: str = "exact",
    metric: str = "nll",
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    n_exact: int = N_EXACT,
) -> HeadScores | GradientEffects | HybridScores:
    """Estimate the effect of every head on the examples; all three result types have `mean_effect(metric)`.

    Exact scores serve every metric, the others only `metric`. `hybrid` measures the first `n_exact` examples exactly,
    so their order must be random, as in `task.calibration(n, seed)`.

    Mean and resample ablation take their values from `reference`, by default from the examples (for hybrid, from those
    measured exactly); `seed` draws the partners of resample. Raises `UsageError` for unknown names, no examples, or a
    metric or number of examples that the estimator does not support.
    """
    from cap_viz.attribution.effect_metrics import metric_named
    from cap_viz.attribution.exact import exact_scores
    from cap_viz.attribution.gradient import gradient_effects
    from cap_viz.attribution.hybrid import hybrid_scores
    from cap_viz.stats.hybrid import check_combinable, check_sizes

    metric_named(metric)
    choose("estimator", estimator, ESTIMATORS)
    few = examples
    if estimator == "hybrid":
        check_combinable(metric)
        check_sizes(n_exact, len(examples))
        few = examples[:n_exact]
    if estimator == "exact":
        return exact_scores(model, few, ablation=ablation, reference=reference, seed=seed)
    # Both parts of hybrid take replacement values from the same examples.
    gradient = gradient_effects(
        model, examples, metric=metric, ablation=ablation, reference=few if reference is None else reference, seed=seed
    )
    if estimator == "gradient":
        return gradient
    return hybrid_scores(exact_scores(model, few, ablation=ablation, reference=reference, seed=seed), gradient)
