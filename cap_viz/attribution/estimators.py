"""Estimators of head effects, behind one function.

`exact` ablates every head in turn. `gradient` estimates all effects from one backward pass, to first order. `hybrid`
measures a few examples exactly and many by their gradient, and combines the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args, overload

from cap_viz.attribution.effect_metrics import MetricName
from cap_viz.attribution.results import Ablation
from cap_viz.errors import choose
from cap_viz.progress import Steps, finish_with_bar, portion

if TYPE_CHECKING:
    from cap_viz.attribution.hybrid import HybridScores
    from cap_viz.attribution.pruned_weights import MaskLike
    from cap_viz.attribution.results import GradientEffects, HeadScores
    from cap_viz.models.loading import ReasoningModel
    from cap_viz.tasks.base import Example

Estimator = Literal["exact", "gradient", "hybrid"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
# Default number of exactly measured examples of the hybrid estimator.
N_EXACT = 16


@overload
def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: Literal["exact"] = "exact",
    metric: MetricName | str = "nll",
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    progress: bool = True,
) -> HeadScores: ...
@overload
def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: Literal["gradient"],
    metric: MetricName | str = "nll",
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    progress: bool = True,
) -> GradientEffects: ...
@overload
def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: Literal["hybrid"],
    metric: MetricName | str = "nll",
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    n_exact: int = N_EXACT,
    progress: bool = True,
) -> HybridScores: ...


def score_heads(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: Estimator = "exact",
    metric: MetricName | str = "nll",
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    n_exact: int = N_EXACT,
    progress: bool = True,
) -> HeadScores | GradientEffects | HybridScores:
    """Estimate the effect of every head on the examples; all three result types have `mean_effect(metric)`.

    Exact scores serve every metric, the others only `metric`. `hybrid` measures the first `n_exact` examples exactly,
    so their order must be random, as in `task.calibration(n, seed)`.

    Mean and resample ablation take their values from `reference`, by default from the examples (for hybrid, from those
    measured exactly); `seed` draws the partners of resample. With `mask` the pruned model is measured, by all three
    estimators. `progress` shows a bar. Raises `UsageError` for unknown names, no examples, a mask of another model, or
    a metric or number of examples that the estimator does not support.
    """
    steps = scoring_steps(
        model,
        examples,
        estimator=estimator,
        metric=metric,
        ablation=ablation,
        reference=reference,
        seed=seed,
        mask=mask,
        n_exact=n_exact,
    )
    return finish_with_bar(steps, progress)


def scoring_steps(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: str = "exact",
    metric: str = "nll",
    ablation: str = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    n_exact: int = N_EXACT,
) -> Steps[HeadScores | GradientEffects | HybridScores]:
    """Estimate the effect of every head step by step; arguments and errors are those of `score_heads`."""
    from cap_viz.attribution.effect_metrics import metric_named
    from cap_viz.attribution.exact import exact_steps
    from cap_viz.attribution.gradient import gradient_effect_steps
    from cap_viz.attribution.hybrid import hybrid_scores
    from cap_viz.stats.hybrid import check_combinable, check_sizes

    metric_named(metric)
    choose("estimator", estimator, ESTIMATORS)
    few = examples
    if estimator == "hybrid":
        check_combinable(metric)
        check_sizes(n_exact, len(examples))
        few = examples[:n_exact]
    exact = exact_steps(model, few, ablation=ablation, reference=reference, seed=seed, mask=mask)
    if estimator == "exact":
        return (yield from exact)
    # Both parts of hybrid take replacement values from the same examples.
    others = few if reference is None else reference
    gradient = gradient_effect_steps(
        model, examples, metric=metric, ablation=ablation, reference=others, seed=seed, mask=mask
    )
    if estimator == "gradient":
        return (yield from gradient)
    by_gradient = yield from portion(gradient, 0, 2)
    return hybrid_scores((yield from portion(exact, 1, 2)), by_gradient)
