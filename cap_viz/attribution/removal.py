"""Computation of head-removal curves, and of orders whose heads are scored again after every removal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from cap_viz.attribution.effect_metrics import MetricName
from cap_viz.attribution.estimators import score_heads
from cap_viz.attribution.exact import make_score_plan
from cap_viz.attribution.joint_ablation import joint_steps
from cap_viz.attribution.pruned_weights import MaskLike, weights_under, without_heads
from cap_viz.attribution.removal_curve import DRAWS, SHARES, RemovalCurve, Removals, counts_of
from cap_viz.attribution.results import Ablation, AboutQuestions, EffectResult, Questions
from cap_viz.errors import UsageError, choose
from cap_viz.models.loading import ReasoningModel
from cap_viz.progress import finish_with_bar
from cap_viz.stats.circuits import rescored_order
from cap_viz.stats.joint import Head, HeadSet, plain_heads
from cap_viz.tasks.base import Example

# Estimators that heads can be scored by again and again.
RESCORED_BY = ("gradient", "exact")


def removal_curve(
    model: ReasoningModel,
    examples: Sequence[Example],
    scores: EffectResult | None = None,
    *,
    order: Sequence[Head] | None = None,
    metric: MetricName | str = "nll",
    shares: Sequence[float] = SHARES,
    draws: int = DRAWS,
    ablation: Ablation = "zero",
    reference: Sequence[Example] | None = None,
    seed: int = 0,
    mask: MaskLike | None = None,
    progress: bool = True,
) -> RemovalCurve:
    """Remove heads in the order of their effects on `metric`, from either end, and in `draws` random orders.

    Use other examples than those of the scores: the result counts the questions that are in both. `order` takes the
    place of scores and lists all heads, the most important first (see `greedy_order`). `shares` of the heads are
    removed together, or kept alone. With `mask` all is measured on the pruned model. `ablation`, `reference` and `seed`
    are those of `score_heads`; `seed` also draws the random orders. Raises `UsageError` for neither scores nor order,
    scores of blocks or of another model, an incomplete order, bad shares, and as `joint_effects` does.
    """
    if (scores is None) == (order is None):
        raise UsageError("Heads are removed in the order of scores or in one of your own; give one of the two.")
    if scores is not None and scores.parts is not None:
        raise UsageError("These effects are of whole attention layers and MLPs; order heads by effects of heads.")
    shape = model.shape
    if scores is None:
        heads = plain_heads(order or ())
        removals = Removals(heads, heads, counts_of(shares, shape.n_layers * shape.n_heads), draws, seed)
    else:
        removals = Removals.of_effects(scores.estimated(metric).mean, shares, draws, seed)
    removals.check(shape.n_layers, shape.n_heads)
    plan = make_score_plan(model, examples, ablation=ablation, reference=reference, seed=seed, parts="sets")
    steps = joint_steps(model, plan, removals.sets, weights_under(model, mask))
    return RemovalCurve(finish_with_bar(steps, progress), removals, shared_questions(scores, plan.questions))


def shared_questions(scores: EffectResult | None, questions: Questions) -> int | None:
    """Count the questions that ranked the heads, too; None where the ranking does not say which it used."""
    if not isinstance(scores, AboutQuestions):
        return None
    return len(set(scores.questions.ids) & set(questions.ids)) if scores.tasks == questions.tasks else 0


def greedy_order(
    model: ReasoningModel,
    examples: Sequence[Example],
    *,
    estimator: str = "gradient",
    metric: MetricName | str = "nll",
    shares: Sequence[float] = SHARES,
    mask: MaskLike | None = None,
    progress: bool = True,
) -> tuple[Head, ...]:
    """Order the heads, most important first, by removing the least important and scoring the others again.

    Heads are removed up to each of the `shares` and scored in between, under zero ablation. That takes one scoring more
    than there are shares: cheap by gradient, by the exact estimator each costs a whole ranking. Other arguments are
    those of `score_heads`; use other examples than those the order is judged on. Raises `UsageError` for the hybrid
    estimator, and as `score_heads` does.
    """
    choose("estimator", estimator, RESCORED_BY)

    def effects(removed: HeadSet) -> Float[np.ndarray, "layer head"]:
        under = without_heads(model, removed, mask)
        options = {"estimator": estimator, "metric": metric, "mask": under, "progress": progress}
        return score_heads(model, examples, **options).mean_effect(metric)

    return rescored_order(effects, counts_of(shares, model.shape.n_layers * model.shape.n_heads))
