"""Detail of one head: effect, rank and test with their uncertainty, and the effect on every example.

The wording reports the measurement and never claims what a head is for.
"""

from __future__ import annotations

from math import exp

import numpy as np
import streamlit as st

from cap_viz.attribution.attention_patterns import MEASURES, TITLES, HeadRoles
from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.data import HeadView, agreement, shared_top
from cap_viz.dashboard.heads.example import clicked_example, shown_example, strip_hover
from cap_viz.dashboard.heads.source import Source, shape_of
from cap_viz.dashboard.names import run_title
from cap_viz.dashboard.stored import HeadStatistics, statistics_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.figures.ranked_bars import example_strip
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.runs.run_labels import AblationWords, ablation_words
from cap_viz.runs.run_queries import score_runs
from cap_viz.stats import HeadEstimate, RankIntervals, Specificity, rank_stability
from cap_viz.tasks import load_task

# Wording of a positive and a negative effect: on running text, and per metric on questions.
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
# Factors on the probability nearer to 1 say nothing.
LEAST_FACTOR = 1.05
TARGET_RELIABILITY = 0.8
Head = tuple[int, int]


def exact_detail(view: HeadView, head: Head) -> None:
    """Draw the sentence about a head and its effect on every example."""
    st.markdown(plain_sentence(view, head))
    effects, ids, estimate = view.stats.effects[head], view.scores.questions.ids, view.stats.estimate
    figure = example_strip(
        effects,
        ids,
        strip_hover(view.task, view.scores, effects, view.unit),
        mean=float(estimate.mean[head]),
        low=float(estimate.low[head]),
        high=float(estimate.high[head]),
        unit=view.unit,
        selected=shown_example(view.frame.selection, ids, effects),
    )
    st.plotly_chart(
        figure,
        key="heads_strip",
        config=CONFIG,
        on_select=lambda: clicked_example("heads_strip", ids),
        selection_mode="points",
        alt="Effect of the selected head on every example; the selector below chooses one, too",
    )


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


def count(n: int) -> str:
    return f"{n} example" if n == 1 else f"{n} examples"


def plain_sentence(view: HeadView, head: Head) -> str:
    estimate, tail = view.stats.estimate, f", mean of {count(view.n)}"
    return effect_sentence(view.source, view.metric, estimate, head, f"on {count(view.n)}", tail)


def effect_sentence(source: Source, metric: str, estimate: HeadEstimate, head: Head, where: str, tail: str) -> str:
    """Describe a measured effect in one sentence, without claiming what the head is for."""
    mean, kind = float(estimate.mean[head]), load_task(source.spec.examples.task).kind
    subject = head_subject(ablation_words(source.spec), *head)
    number = f"**{signed(mean)} {METRICS[metric].unit}** {interval_at(estimate, *head)}"
    if estimate.unclear[head]:
        return f"{subject} has no clear effect {where}: {number}."
    meaning = (TEXT_MEANING if kind == "text" else MEANINGS[metric])[0 if mean > 0 else 1]
    return f"{subject} {meaning}: {number}{odds(metric, mean)}{tail}."


def head_subject(words: AblationWords, layer: int, head: int) -> str:
    """Subject of a sentence about a head's effect: the ablation and the head."""
    return f"{words.doing.capitalize()} **head {head} of layer {layer}**{words.by}"


def odds(metric: str, mean: float) -> str:
    """Express a mean nll effect as a factor on the probability per token; empty for other metrics and small factors."""
    factor = exp(abs(mean))
    if metric != "nll" or factor < LEAST_FACTOR:
        return ""
    return f", a factor of {factor:.3g} per token" if factor < 1000 else f", a factor of {factor:,.0f} per token"


def group_sentence(view: HeadView, layer: int, head: int) -> str:
    assert view.source.run is not None
    shape = shape_of(view.source.run)
    size = shape.n_heads // shape.n_kv_heads
    first = head // size * size
    others = [other for other in range(first, first + size) if other != head]
    if not others:
        return f"Head {head} has keys and values of its own."
    effects = ", ".join(f"head {other} ({signed(view.stats.estimate.mean[layer, other])})" for other in others)
    return f"Shares keys and values with {effects}: group {head // size + 1} of {shape.n_kv_heads} in this layer."


def role_sentence(roles: HeadRoles, layer: int, head: int) -> str:
    """State one head's attention measures with their ranks among all heads."""
    parts = [
        f"{TITLES[name].lower()} {roles.values[name][layer, head]:.2f} (rank {roles.rank(name)[layer, head]})"
        for name in MEASURES
    ]
    return f"Attends to: {' · '.join(parts)}."


def estimate_detail(
    frame: Frame,
    source: Source,
    estimate: HeadEstimate,
    effects: HeadStatistics | None,
    metric: str,
    head: Head,
) -> None:
    """Draw the sentence about a head by the gradient or hybrid estimator, and the agreement with exact effects."""
    estimator = f"{source.estimator} estimator"
    st.markdown(effect_sentence(source, metric, estimate, head, f"by the {estimator}", f", {estimator}"))
    st.caption(agreement_sentence(frame, source, effects, metric))


def agreement_sentence(frame: Frame, source: Source, effects: HeadStatistics | None, metric: str) -> str:
    """Compare a gradient ranking with that of an exact run of the same task and ablation, if one is stored."""
    if effects is None:
        return "Both parts are stored runs of their own: choose them under Run."
    like = [
        run for run in score_runs(frame.runs, frame.model, frame.task.name) if run.spec.ablation == source.spec.ablation
    ]
    if not like:
        return "No exact run of this task is stored to compare the ranking with."
    ranks = agreement(effects, statistics_of(frame.store, like[0], metric))
    ceiling = f" (noise ceiling {ranks.ceiling:.2f})" if np.isfinite(ranks.ceiling) else ""
    return (
        f"Rank correlation with the exact run of {run_title(like[0].spec)}: {ranks.correlation:.2f}{ceiling}. "
        "Shared examples raise it."
    )


def specificity_sentence(task: HeadView, control: HeadView, found: Specificity, layer: int, head: int) -> str:
    """Compare the two measured effects in one sentence, without claiming what the head is for."""
    text = control.task.title.lower()
    more, less = ("this task", text) if found.mean[layer, head] > 0 else (text, "this task")
    if found.survives[layer, head]:
        verdict = f"**clearly more on {more} than on {less}**"
    elif found.unclear[layer, head]:
        verdict = "no clear difference between the two"
    else:
        verdict = f"a hint of more on {more} than on {less}, not beyond chance"
    here, there = (view.stats.estimate.mean[layer, head] for view in (task, control))
    return (
        f"{head_subject(task.words, layer, head)} changes the loss by {signed(here)} nats per token on this task "
        f"({signed(found.task[layer, head], 2)} SD) and by {signed(there)} on {text} "
        f"({signed(found.control[layer, head], 2)} SD): {verdict}, "
        f"{signed(found.mean[layer, head], 2)} SD {interval_at(found, layer, head, 2)}."
    )


def reliability_sentence(view: HeadView) -> str:
    found = view.stats.reliability
    if not view.ranks_heads:
        return "Errors change on few questions: this view shows where, and is not used to rank heads."
    if found is None:
        return f"{count(view.n)}: too few to tell how stable this ranking is (at least 4 are needed)."
    needed = found.n_for(TARGET_RELIABILITY)
    if found.full >= TARGET_RELIABILITY:
        outlook = "stable under other examples"
    elif needed is None:
        outlook = "other examples would give another ranking"
    else:
        outlook = f"about {needed} examples would reach {TARGET_RELIABILITY}"
    return f"Ranking reliability **{found.full:.2f}** at n = {view.n}: {outlook}."


def explanations(view: HeadView, overlap: str) -> None:
    """Explain the terms of the map, each with what was found for it beyond the map itself."""
    stability = stability_sentence(view) if view.ranks_heads else ""
    said = {"effect": "", "fdr": "", "reliability": "", "ablation": stability}
    if overlap:
        said["ceiling"] = overlap
    st.markdown("\n\n".join(" ".join(filter(None, (GLOSSARY[term], more))) for term, more in said.items()))


def stability_sentence(view: HeadView) -> str:
    """Report the rank correlation with other ablations on the same examples, or how to measure one."""
    this = view.source.spec
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


def interval_at(estimate: HeadEstimate, layer: int, head: int, digits: int = 3) -> str:
    return interval(float(estimate.low[layer, head]), float(estimate.high[layer, head]), digits)


def interval(low: float, high: float, digits: int = 3) -> str:
    return (
        f"[{signed(low, digits)}, {signed(high, digits)}]"
        if np.isfinite(low) and np.isfinite(high)
        else "(no interval at n = 1)"
    )
