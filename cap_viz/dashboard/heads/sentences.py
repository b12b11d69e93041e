"""Sentences about measured heads: effect, rank, test and agreement, with their uncertainty.

They report the measurement and never claim what a head is for.
"""

from __future__ import annotations

from math import exp

import numpy as np

from cap_viz.attribution.attention_patterns import MEASURES, TITLES, HeadRoles
from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.dashboard.components.head_map import Head
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.data import HeadView, agreement, shared_top
from cap_viz.dashboard.names import run_title
from cap_viz.dashboard.stored import statistics_of
from cap_viz.figures.theme import signed
from cap_viz.runs.run_labels import ablation_words
from cap_viz.runs.run_queries import score_runs
from cap_viz.runs.spec import ScoreSpec
from cap_viz.stats import HeadEstimate, HeadStatistics, RankIntervals, Specificity, rank_stability
from cap_viz.tasks import load_task

# Wording of a positive and a negative effect: on running text, per metric on questions, and by a package's metric.
TEXT_MEANING = ("makes the given text less likely", "makes the given text more likely")
MEANINGS = {
    "nll": ("makes the right answer less likely", "makes the right answer more likely"),
    "choice_nll": (
        "makes the right option less likely among the options",
        "makes the right option more likely among the options",
    ),
    "logit_diff": ("narrows the margin of the right option", "widens the margin of the right option"),
    "accuracy": ("adds errors", "removes errors"),
}
OTHER_MEANING = ("raises the loss", "lowers the loss")
# Factors on the probability nearer to 1 say nothing.
LEAST_FACTOR = 1.05
TARGET_RELIABILITY = 0.8
NOT_RANKED = "Errors change on few questions: this view shows where, and is not used to rank heads."


def count(n: int) -> str:
    return f"{n} example" if n == 1 else f"{n} examples"


def interval_at(estimate: HeadEstimate, place: tuple[int, ...] = (), digits: int = 3) -> str:
    """Format the interval of one head; without a place, of an estimate of one set of heads."""
    low, high = float(estimate.low[place]), float(estimate.high[place])
    if not (np.isfinite(low) and np.isfinite(high)):
        return "(no interval at n = 1)"
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def standing(estimate: HeadEstimate, head: Head, ranks: RankIntervals | None = None, *, ranked: bool = True) -> str:
    """State a head's rank, with its interval where there is one, and whether its effect is beyond chance."""
    if ranked:
        spread = "" if ranks is None else f" [{ranks.low[head]}, {ranks.high[head]}]"
        rank = f"Rank **{estimate.rank[head]}** of {estimate.rank.size}{spread}"
    else:
        rank = "Too coarse to rank"
    q = float(estimate.q_value[head])
    if not np.isfinite(q):
        return f"{rank}  \nOne example: no test"
    number = "q < 0.001" if q < 0.001 else f"q = {q:.2g}"
    return f"{rank}  \n{number}: {'beyond chance' if estimate.survives[head] else 'not beyond chance'}"


def effect_sentence(spec: ScoreSpec, metric: str, estimate: HeadEstimate, head: Head, where: str, tail: str) -> str:
    """Describe a measured effect: `where` follows an unclear one, `tail` a clear one."""
    mean, kind = float(estimate.mean[head]), load_task(spec.examples.task).kind
    number = f"**{signed(mean)} {METRICS[metric].unit}** {interval_at(estimate, head)}"
    if estimate.unclear[head]:
        return f"{head_subject(spec, head)} has no clear effect {where}: {number}."
    meaning = (TEXT_MEANING if kind == "text" else MEANINGS.get(metric, OTHER_MEANING))[0 if mean > 0 else 1]
    return f"{head_subject(spec, head)} {meaning}: {number}{odds(metric, mean)}{tail}."


def head_subject(spec: ScoreSpec, head: Head) -> str:
    """Subject of a sentence about a head's effect: the ablation and the head."""
    words = ablation_words(spec)
    return f"{words.doing.capitalize()} **head {head[1]} of layer {head[0]}**{words.by}"


def odds(metric: str, mean: float) -> str:
    """Express a mean nll effect as a factor on the probability per token; empty for other metrics and small factors."""
    factor = exp(abs(mean))
    if metric != "nll" or factor < LEAST_FACTOR:
        return ""
    return f", a factor of {factor:.3g} per token" if factor < 1000 else f", a factor of {factor:,.0f} per token"


def group_sentence(view: HeadView, head: Head) -> str:
    """Name the heads that share keys and values with this one, with their effects."""
    shape, (layer, own) = view.run.provenance["shape"], head
    size = shape["n_heads"] // shape["n_kv_heads"]
    group = own // size
    others = [other for other in range(group * size, (group + 1) * size) if other != own]
    if not others:
        return f"Head {own} has keys and values of its own."
    effects = ", ".join(f"head {other} ({signed(view.stats.estimate.mean[layer, other])})" for other in others)
    return f"Shares keys and values with {effects}: group {group + 1} of {shape['n_kv_heads']} in this layer."


def role_sentence(roles: HeadRoles, head: Head) -> str:
    """State one head's attention measures with their ranks among all heads."""
    parts = [
        f"{TITLES[name].lower()} {roles.values[name][head]:.2f} (rank {roles.rank(name)[head]})" for name in MEASURES
    ]
    return f"Attends to: {' · '.join(parts)}."


def reliability_sentence(stats: HeadStatistics) -> str:
    """Say how far the ranking depends on the examples, and how many would make it stable."""
    found, n = stats.reliability, stats.estimate.n
    if found is None:
        return f"{count(n)}: too few to tell how stable this ranking is (at least 4 are needed)."
    needed = found.n_for(TARGET_RELIABILITY)
    if found.full >= TARGET_RELIABILITY:
        outlook = "stable under other examples"
    elif needed is None:
        outlook = "other examples would give another ranking"
    else:
        outlook = f"about {needed} examples would reach {TARGET_RELIABILITY}"
    return f"Ranking reliability **{found.full:.2f}** at n = {n}: {outlook}."


def stability_sentence(view: HeadView) -> str:
    """Report the rank correlation with other ablations on the same examples, or how to measure one."""
    this = view.spec
    others = {
        run.spec.ablation: run
        for run in score_runs(view.frame.runs, view.frame.model, this.examples.task)
        if set(run.spec.examples.ids) == set(this.examples.ids) and run.spec.ablation != this.ablation
    }
    if not others:
        return (
            f"Measured with {this.ablation} ablation only: start a new run on the same examples with another to see "
            "whether the ranking depends on it."
        )
    means = {name: statistics_of(view.frame.store, run, view.metric).estimate.mean for name, run in others.items()}
    found = rank_stability({this.ablation: view.stats.estimate.mean, **means})
    said = ", ".join(
        f"{name} ρ = {found.spearman[0, i]:.2f}, {round(found.overlap[0, i] * found.top)} of the top {found.top} shared"
        for i, name in enumerate(found.names)
        if i > 0
    )
    return f"Rank stability, {this.ablation} against other ablations of the same examples: {said}."


def agreement_sentence(frame: Frame, spec: ScoreSpec, found: HeadStatistics, metric: str) -> str:
    """Compare a gradient ranking with that of an exact run of the same task and ablation, if one is stored."""
    exact = score_runs(frame.runs, frame.model, frame.task.name)
    like = next((run for run in exact if run.spec.ablation == spec.ablation), None)
    if like is None:
        return "No exact run of this task is stored to compare the ranking with."
    ranks = agreement(found, statistics_of(frame.store, like, metric))
    ceiling = f" (noise ceiling {ranks.ceiling:.2f})" if np.isfinite(ranks.ceiling) else ""
    return (
        f"Rank correlation with the exact run of {run_title(like.spec)}: {ranks.correlation:.2f}{ceiling}. "
        "Shared examples raise it."
    )


def specificity_sentence(task: HeadView, control: HeadView, found: Specificity, head: Head) -> str:
    """Compare the two measured effects in one sentence."""
    text = control.task.title.lower()
    more, less = ("this task", text) if found.mean[head] > 0 else (text, "this task")
    if found.survives[head]:
        verdict = f"**clearly more on {more} than on {less}**"
    elif found.unclear[head]:
        verdict = "no clear difference between the two"
    else:
        verdict = f"a hint of more on {more} than on {less}, not beyond chance"
    here, there = (view.stats.estimate.mean[head] for view in (task, control))
    return (
        f"{head_subject(task.spec, head)} changes the loss by {signed(here)} nats per token on this task "
        f"({signed(found.task[head], 2)} SD) and by {signed(there)} on {text} ({signed(found.control[head], 2)} SD): "
        f"{verdict}, {signed(found.mean[head], 2)} SD {interval_at(found, head, 2)}."
    )


def overlap_sentence(task: HeadView, control: HeadView) -> str:
    """Report the agreement of the two rankings, with the overlap expected by chance and the noise ceiling."""
    shared, ranks = shared_top(task.stats, control.stats), agreement(task.stats, control.stats)
    ceiling = f"{ranks.ceiling:.2f}" if np.isfinite(ranks.ceiling) else "unknown"
    correlation = f"{ranks.correlation:.2f}".replace("-", "−")
    return (
        f"{shared.shared} of the top {shared.k} heads for this task are also among the top {shared.k} on "
        f"{control.task.title.lower()} ({shared.expected:.1f} expected by chance); rank correlation {correlation}, "
        f"noise ceiling {ceiling}."
    )
