"""Heads page: the map on the left, the selected head with its examples on the right, groups and ranks below."""

from __future__ import annotations

from functools import partial

import numpy as np
import streamlit as st

from cap_viz.attribution.attention_patterns import TITLES, HeadRoles
from cap_viz.attribution.effect_metrics import METRICS
from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.dashboard.components.head_map import (
    Head,
    difference_scatter,
    head_boxes,
    head_chart,
    head_map,
    head_name,
    pick_head,
)
from cap_viz.dashboard.components.job_card import ended_view, job_view, ticking
from cap_viz.dashboard.components.panels import (
    age,
    caution,
    empty,
    escaped,
    examples_fact,
    heading,
    problems_told,
    provenance,
)
from cap_viz.dashboard.components.share import share
from cap_viz.dashboard.components.submission import refusal
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads import sentences
from cap_viz.dashboard.heads.controls import last_failure, pick_metric, pick_source, pick_view, sources
from cap_viz.dashboard.heads.data import (
    GENERIC_TEXT,
    SPECIFICITY,
    SPECIFICITY_UNIT,
    TASK_EFFECT,
    HeadView,
    View,
    downloads_of,
    hybrid_of,
)
from cap_viz.dashboard.heads.example import example_section, reading_section, shown_example
from cap_viz.dashboard.heads.new_run import STARTED, new_run, no_control, offer_blocks, offer_runs
from cap_viz.dashboard.heads.other_choices import other_choices_section
from cap_viz.dashboard.heads.together import together_section
from cap_viz.dashboard.names import metric_name, model_name, task_name
from cap_viz.dashboard.overview.data import dense_evaluation
from cap_viz.dashboard.playground.page import rounding_note
from cap_viz.dashboard.stored import block_estimate, report_of, roles_of, specificity_of, statistics_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.evaluation.eval_metrics import against_guessing
from cap_viz.figures.head_grid import Grid, colour_limit
from cap_viz.figures.ranked_bars import ranked_bars
from cap_viz.figures.specificity import role_scatter
from cap_viz.figures.theme import signed
from cap_viz.models.rounding_noise import noise_floor
from cap_viz.runs.run_labels import ablation_words, making_of
from cap_viz.runs.run_queries import block_run, role_spec
from cap_viz.runs.score_sources import ScoreSource
from cap_viz.runs.spec import ScoreSpec
from cap_viz.runs.store import StoredRun
from cap_viz.stats import HeadEstimate, RankIntervals
from cap_viz.stats.reliability import rank_correlation
from cap_viz.tasks import load_task

FEWEST_FOR_BANNER = 8
MOST_BARS = 60
HIGHEST_ROLES = 7
VIEW_WIDTH, METRIC_WIDTH = 276, 352
# Widths of the map and of what stands beside it.
HALVES = (11, 10)


def page(frame: Frame) -> None:
    heading("Heads", "Which attention heads does the model need on this task, and how sure are we?")
    facts, new_place, share_place = st.columns([6, 1, 1], vertical_alignment="center")
    with new_place:
        new_run(frame)
    view = controls(frame)
    if view is None:
        return
    with facts:
        provenance(facts_of(view), origin="running" if view.source.run is None else view.source.run.origin)
    ticking(lambda: body(frame, view), live=view.source.job is not None)
    # Last, since its link holds the head that the body shows.
    with share_place:
        downloads = downloads_of(frame.store, view)
        made = making_of(view.run) if view.run and downloads else "Files follow when everything is measured."
        share("heads", downloads, said=[escaped(made)])


def controls(frame: Frame) -> View | None:
    """Draw the selectors. Returns what to show, or None if there is no run yet."""
    available = sources(frame)
    ended = last_failure(frame, available)
    # Containers that wrap on a narrow screen; columns would cut the segmented controls.
    with st.container(horizontal=True, gap="small"):
        view_place, metric_place = st.container(width=VIEW_WIDTH), st.container(width=METRIC_WIDTH)
        with st.container(width="stretch"):
            source = pick_source(frame, available)
    refusal(STARTED)
    if ended is not None:
        ended_view(ended, key="heads_ended")
    if source is None:
        empty(
            f"No head scores of {model_name(frame.model.id)} on {frame.task.title} yet",
            "Start one with “New run” above, or from the shell: python -m cap_viz score "
            f"--model {frame.model.id} --task {frame.task.name} --n 16",
        )
        return None
    with view_place:
        name = pick_view(frame, source.estimator)
    with metric_place:
        return pick_metric(frame, source, name)


def facts_of(view: View) -> list[str]:
    source, examples = view.source, view.source.spec.examples
    method = f"{source.estimator}, {source.spec.ablation} ablation"
    if source.gradient is not None:
        method += f", gradients of {len(source.gradient.spec.examples.ids)}"
    metric = metric_name(load_task(examples.task), view.metric)
    said = [task_name(examples.task), examples_fact(examples), method, metric]
    if view.name != TASK_EFFECT and view.control is not None:
        control = view.control.spec.examples
        said.append(f"control {task_name(control.task)}, {sentences.count(len(control.ids))}")
    return said if source.run is None else [*said, age(source.run.provenance["created"])]


def body(frame: Frame, view: View) -> None:
    """Draw map and detail of a stored run, or the filling map of a running one."""
    source = view.source
    if source.run is None:
        live_body(frame, source, view.metric)
        return
    if view.needs_control:
        no_control(frame, source.spec)
        return
    with problems_told():
        if source.estimator != "exact":
            estimate_body(frame, source, source.run)
            return
        shown = HeadView.of(frame, source.run, view.metric)
        # Running text has no options, and so this metric only.
        control = None if view.control is None else HeadView.of(frame, view.control, "nll")
        baseline_banner(shown)
        if view.name == SPECIFICITY and control is not None:
            specificity_body(shown, control)
        elif view.name == GENERIC_TEXT and control is not None:
            effect_body(control, shown, above=sentences.overlap_sentence(shown, control))
        else:
            effect_body(shown, control)


def effect_body(view: HeadView, other: HeadView | None, *, above: str = "") -> None:
    """Draw the effects of heads on one task or text; `other` at the same metric shares the colour scale."""
    if other is not None and other.metric != view.metric:
        other = None
    store, spec, estimate = view.frame.store, view.spec, view.stats.estimate
    # The wider of the two scales, so that neither text has more heads beyond the scale than on its own.
    limit = max(colour_limit(one.stats.estimate.mean) for one in (view, other) if one is not None)
    stored_blocks, stored_roles = block_run(store, spec), store.get(role_spec(spec))
    blocks = None if stored_blocks is None else block_estimate(store, stored_blocks, view.metric)
    roles = None if stored_roles is None else roles_of(store, stored_roles)
    left, right = st.columns(HALVES, gap="medium")
    with right, st.container(gap="small"):
        head = chosen_head(view.frame, estimate, view.stats.ranks, ranked=view.ranks_heads)
        row, n = shown_example(view, head), sentences.count(view.n)
        st.markdown(sentences.effect_sentence(spec, view.metric, estimate, head, f"on {n}", f", mean of {n}"))
        reads = example_section(view, head, row)
        st.caption(sentences.group_sentence(view, head))
        if roles is not None:
            st.caption(sentences.role_sentence(roles, head))
    with left, st.container(gap="small"):
        ranking = sentences.reliability_sentence(view.stats) if view.ranks_heads else sentences.NOT_RANKED
        st.markdown(above or ranking)
        rounding = noise_floor(spec.model.dtype, view.metric, estimate.mean, view.n)
        if rounding is not None and rounding.below:
            caution(str(rounding))
        grid = Grid.of(estimate, ends=view.words.ends, limit=limit, selected=head, ranked=view.ranks_heads)
        draw_map(grid, view.unit, effect_title(spec, view.metric), blocks)
        with st.container(horizontal=True, gap="small"):
            with st.popover("How to read this map", icon=":material/help:"):
                explanations(view, None if above else other)
            offer_blocks(view.frame, spec)
    if reads:
        reading_section(view, head, row)
    lower_left, lower_right = st.columns(HALVES, gap="medium")
    with lower_left:
        if view.ranks_heads:
            draw_bars(view.frame, estimate, head, view.unit)
        else:
            st.caption("Choose another metric to rank heads: errors are too coarse for it.")
        other_choices_section(view.frame, view.task, head)
    with lower_right:
        together_section(view, head)
    roles_section(view, roles, head)


def effect_title(spec: ScoreSpec, metric: str, estimator: str = "") -> str:
    """Name a map of effects: `Effect of removing each head on Mini science, Answer loss`."""
    words, task = ablation_words(spec), load_task(spec.examples.task)
    named = ", ".join(filter(None, (metric_name(task, metric), estimator)))
    return f"Effect of {words.doing} each head{words.by} on {task.title}, {named}"


def chosen_head(
    frame: Frame, estimate: HeadEstimate, ranks: RankIntervals | None = None, *, ranked: bool = True
) -> Head:
    """Draw the boxes of layer and head with the head's rank and test; unchosen, it is the first by rank."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        head = head_boxes(frame.selection, *estimate.mean.shape, default=estimate.top_head)
        st.markdown(sentences.standing(estimate, head, ranks, ranked=ranked))
    return head


def draw_map(grid: Grid, unit: str, title: str, blocks: HeadEstimate | None = None) -> None:
    """Draw the map with its legend."""
    head_map(grid, key="heads_map", unit=unit, label=title, on_pick=pick_head, blocks=blocks)
    if grid.marked is not None:
        beyond = f"{int(grid.marked.sum())} of {grid.marked.size} heads have an effect beyond chance"
        st.caption(f"● {beyond} · ▲ △ off the scale · faded: may be zero")


def explanations(view: HeadView, other: HeadView | None) -> None:
    """Explain the terms of the map, each with what was found for it beyond the map itself."""
    said = {"effect": "", "fdr": "", "reliability": ""}
    said["ablation"] = sentences.stability_sentence(view) if view.ranks_heads else ""
    if other is not None:
        said["ceiling"] = sentences.overlap_sentence(view, other)
    st.markdown("\n\n".join(f"{GLOSSARY[term]} {more}".strip() for term, more in said.items()))


def draw_bars(frame: Frame, estimate: HeadEstimate, selected: Head, unit: str, quantity: str = "effect") -> None:
    """Draw the heads of highest rank as bars with whiskers."""
    title, slider = st.columns([1, 1], vertical_alignment="center")
    title.markdown("#### Ranked heads")
    most = min(MOST_BARS, estimate.mean.size)
    with slider:
        top = most if most <= 5 else frame.selection.slider("Heads shown", "top", 5, most, default=min(25, most))
    head_chart(
        partial(ranked_bars, estimate, top=top, selected=selected, unit=unit, quantity=quantity),
        key="heads_ranked",
        alt=f"Heads of highest rank by {quantity}, with 95 % confidence intervals",
    )


def roles_section(view: HeadView, roles: HeadRoles | None, selected: Head) -> None:
    """Draw effect against a chosen measure of attention for all heads, or the button that starts the measurement."""
    st.markdown("#### Effect and attention")
    if roles is None:
        offer_runs(
            view.frame,
            "Measure what heads attend to",
            role_spec(view.spec),
            key="heads_roles_start",
            help=GLOSSARY["roles"],
        )
        return
    measure = view.frame.selection.segmented("Measure of attention", "role", TITLES, help=GLOSSARY["roles"])
    estimate, values, title = view.stats.estimate, roles.values[measure], TITLES[measure]
    correlation = signed(rank_correlation(estimate.mean.ravel(), values.ravel()), 2)
    words = f"Rank correlation over {estimate.mean.size} heads: {correlation}."
    figure, reading = st.columns(HALVES, gap="medium", vertical_alignment="center")
    with figure:
        head_chart(
            partial(
                role_scatter, estimate.mean, values, estimate.unclear, title=title, unit=view.unit, selected=selected
            ),
            key="heads_roles",
            alt=f"Effect of every head against {title}; {words}",
        )
    highest = np.argsort(-values, axis=None)[:HIGHEST_ROLES]
    names = ", ".join(head_name(*divmod(int(place), values.shape[1])) for place in highest)
    with reading:
        st.markdown(
            f"{words} Highest: {names}.\n\nAttention describes; only a head's effect says whether the model needs it. "
            "Click a point to select its head."
        )
        rounding_note(view.frame.model)


def baseline_banner(view: HeadView) -> None:
    """Warn if the intact model is not clearly above guessing, by its stored accuracy, else on these examples."""
    if view.task.kind == "text":
        return
    run = dense_evaluation(view.frame, view.frame.task)
    report = EvalReport(view.scores.questions, view.scores.dense) if run is None else report_of(view.frame.store, run)
    test = against_guessing(view.frame.task, report)
    if not test.clearly_above and test.n >= FEWEST_FOR_BANNER:
        caution(
            f"The intact model is right on {test.accuracy:.0%} of {test.n} questions, not clearly above guessing "
            f"({test.chance:.0%}): there may be little here for a head to carry."
        )


def specificity_body(task: HeadView, control: HeadView) -> None:
    """Draw map and ranking of the differences. Raises `CapVizError` when the runs are too small to compare."""
    found = specificity_of(task.frame.store, task.run, control.run)
    here, text = task.task.title, control.task.title.lower()
    left, right = st.columns(HALVES, gap="medium")
    with right, st.container(gap="small"):
        head = chosen_head(task.frame, found)
        st.markdown(sentences.specificity_sentence(task, control, found, head))
        difference_scatter(found, (here, control.task.title), head, key="heads_scatter")
    with left, st.container(gap="small"):
        st.markdown(sentences.overlap_sentence(task, control))
        ends, also = (f"more on {text}", "more on this task"), {here: found.task, text: found.control}
        grid = Grid.of(found, ends=ends, selected=head, also=also, digits=2)
        draw_map(grid, SPECIFICITY_UNIT, f"Specificity of each head, {here} against {text}")
    draw_bars(task.frame, found, head, SPECIFICITY_UNIT, "specificity")


def estimate_body(frame: Frame, source: ScoreSource, run: StoredRun[ScoreSpec]) -> None:
    """Draw a gradient or hybrid estimate: no head was ablated on most examples, so there are no answers to show."""
    metric, spec, estimator = source.metric or "nll", source.spec, f"{source.estimator} estimator"
    if source.gradient is not None:
        estimate, narrower = hybrid_of(frame.store, run, source.gradient)
        above = (
            f"Intervals are **{narrower:.1f} times** narrower (median head) than those of the {estimate.n} exact "
            f"examples alone, thanks to the gradients of {estimate.n_gradient}."
        )
        below = "Both parts are stored runs of their own: choose them under Run."
    else:
        stats = statistics_of(frame.store, run, metric)
        estimate = stats.estimate
        above = f"{sentences.reliability_sentence(stats)} Approximation: the interval does not cover its error."
        below = sentences.agreement_sentence(frame, spec, stats, metric)
    unit = METRICS[metric].unit
    left, right = st.columns(HALVES, gap="medium")
    with right, st.container(gap="small"):
        head = chosen_head(frame, estimate)
        st.markdown(sentences.effect_sentence(spec, metric, estimate, head, f"by the {estimator}", f", {estimator}"))
        st.caption(below)
        draw_bars(frame, estimate, head, unit)
        other_choices_section(frame, load_task(spec.examples.task), head)
    with left, st.container(gap="small"):
        st.markdown(above)
        grid = Grid.of(estimate, ends=ablation_words(spec).ends, selected=head)
        draw_map(grid, unit, effect_title(spec, metric, source.estimator))


def live_body(frame: Frame, source: ScoreSource, metric: str) -> None:
    """Draw progress and the filling map; rerun the whole page when the job ends, to show the stored run."""
    job = source.job
    assert job is not None
    if not job.active:
        st.rerun()
    job_view(job, key="heads")
    partial_scores = job.progress.partial
    if not isinstance(partial_scores, HeadScores):
        empty("The first numbers appear soon", "The map fills layer by layer once the model is loaded.")
        return
    effects, unit = partial_scores.arrived_effects(metric), METRICS[metric].unit
    counts = np.isfinite(effects).sum(axis=-1)
    mean = np.where(counts > 0, np.nansum(effects, axis=-1) / np.maximum(counts, 1), np.nan)
    left, right = st.columns(HALVES, gap="medium")
    with right:
        largest = divmod(int(np.nan_to_num(mean, nan=-np.inf).argmax()), mean.shape[1])
        with st.container(horizontal=True, gap="small"):
            head = head_boxes(frame.selection, *mean.shape, default=largest)
        n = int(counts[head])
        said = f": {signed(mean[head])} {unit} after {sentences.count(n)}" if n else " has not been measured yet"
        st.markdown(f"**Head {head[1]} of layer {head[0]}**{said}.")
        st.caption("Intervals, ranks and examples follow when the run is complete.")
    with left:
        ends, seen = ablation_words(source.spec).ends, {"examples so far": counts}
        draw_map(Grid(mean, colour_limit(mean), ends, selected=head, also=seen), unit, "Effects so far")
