"""Estimators of head effects beyond the exact one (`cap_viz.attribution.exact`), and one way in to all of them.

`exact` removes every head in turn. `gradient` judges all heads from one backward pass, to first order. `hybrid`
measures a few examples exactly and many by their gradient, and combines the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

from cap_viz.errors import check_choice

if TYPE_CHECKING:
    from cap_viz.attribution.hybrid import HybridScores
    from cap_viz.attribution.results import GradientEffects, HeadScores
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.tasks.base import Example

ESTIMATORS = ("exact", "gradient", "hybrid")
# Exactly measured examples of the hybrid estimator, where nothing else is asked for.
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
    """The effect of every head on the examples; all three results have `mean_effect(metric)`.

    Exact scores answer for every metric, the others for the one named. `hybrid` measures the first `n_exact` examples
    exactly, so their order must be random, as `task.calibration(n, seed)` gives it.

    Mean and resample ablation take their values from `reference`, by default from the examples (of hybrid: those
    measured exactly); `seed` draws the partners of resample. Raises `UsageError` for unknown names, no examples, or a
    metric or number of examples that the estimator cannot do.
    """
    from cap_viz.attribution.effect_metrics import metric_named
    from cap_viz.attribution.exact import exact_scores
    from cap_viz.attribution.gradient import gradient_effects
    from cap_viz.attribution.hybrid import hybrid_scores
    from cap_viz.stats.hybrid import check_combinable, check_sizes

    metric_named(metric)
    check_choice("estimator", estimator, ESTIMATORS)
    few = examples
    if estimator == "hybrid":
        check_combinable(metric)
        check_sizes(n_exact, len(examples))
        few = examples[:n_exact]
    if estimator == "exact":
        return exact_scores(model, few, ablation=ablation, reference=reference, seed=seed)
    # Both parts of hybrid replace an example's values by the same.
    gradient = gradient_effects(
        model, examples, metric=metric, ablation=ablation, reference=few if reference is None else reference, seed=seed
    )
    if estimator == "gradient":
        return gradient
    return hybrid_scores(exact_scores(model, few, ablation=ablation, reference=reference, seed=seed), gradient)
