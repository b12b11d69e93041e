"""Heads page: the map on the left, the selected head with its examples on the right, groups and ranks below."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import streamlit as st
from jaxtyping import Float, Int

from cap_viz.attribution.effect_metrics import METRICS, applicable_metrics
from cap_viz.attribution.results import EvalReport, HeadScores
from cap_viz.dashboard.components.head_map import head_boxes, head_map, pick_head, pick_point
from cap_viz.dashboard.components.job_card import ended_view, job_view, ticking
from cap_viz.dashboard.components.panels import (
    age,
    caution,
    empty,
    escaped,
    examples_fact,
    heading,
    problem,
    provenance,
)
from cap_viz.dashboard.components.share import share
from cap_viz.dashboard.frame import Frame
from cap_viz.dashboard.heads.data import (
    GENERIC_TEXT,
    SPECIFICITY,
    SPECIFICITY_UNIT,
    TASK_EFFECT,
    HeadView,
    View,
    block_effects,
    controls_of,
    downloads_of,
    estimated,
    roles_of,
    views_of,
)
from cap_viz.dashboard.heads.detail import (
    count,
    estimate_detail,
    exact_detail,
    explanations,
    group_sentence,
    overlap_sentence,
    reliability_sentence,
    role_sentence,
    specificity_sentence,
    standing,
)
from cap_viz.dashboard.heads.example import example_panel, example_selector
from cap_viz.dashboard.heads.new_run import control_jobs, new_run, no_control, offer_blocks
from cap_viz.dashboard.heads.read import reading_section, reading_toggle, roles_section
from cap_viz.dashboard.heads.source import Source, pick_source, sources, submit_problem, watched_end
from cap_viz.dashboard.heads.together import together_section
from cap_viz.dashboard.names import metric_name, model_name, task_name
from cap_viz.dashboard.overview.data import dense_evaluation
from cap_viz.dashboard.stored import arrived_effects, report_of, specificity_of
from cap_viz.dashboard.terms import GLOSSARY
from cap_viz.errors import CapVizError
from cap_viz.evaluation.eval_metrics import against_guessing
from cap_viz.figures.head_grid import Grid, colour_limit
from cap_viz.figures.ranked_bars import ranked_bars
from cap_viz.figures.specificity import effect_scatter
from cap_viz.figures.theme import CONFIG, signed
from cap_viz.models.rounding_noise import noise_floor
from cap_viz.runs.run_labels import ablation_words, making_of
from cap_viz.runs.store import StoredRun
from cap_viz.stats import HeadEstimate, Specificity
from cap_viz.tasks import load_task
from cap_viz.tasks.readable import CONTROL_TEXTS

FEWEST_FOR_BANNER = 8
MOST_BARS = 60
VIEW_NAMES = {TASK_EFFECT: "This task", GENERIC_TEXT: "Generic text", SPECIFICITY: "Specificity"}
VIEW_WIDTH, METRIC_WIDTH = 276, 352
Head = tuple[int, int]


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
    live = view.source.job is not None or (view.needs_control and bool(control_jobs(view.source)))
    ticking(lambda: body(frame, view), live=live)
    # Last, since its link holds the head that the body shows.
    with share_place:
        downloads = downloads_of(frame.store, view)
        made = making_of(view.run) if view.run and downloads else "Files follow when everything is measured."
        share("heads", downloads, said=[escaped(made)])


def controls(frame: Frame) -> View | None:
    """Draw the selectors. Returns what to show, or None if there is no run yet."""
    available = sources(frame)
    ended = watched_end({source.name for source in available})
    # Containers that wrap on a narrow screen; columns would cut the segmented controls.
    with st.container(horizontal=True, gap="small"):
        view_place, metric_place = st.container(width=VIEW_WIDTH), st.container(width=METRIC_WIDTH)
        with st.container(width="stretch"):
            source = pick_source(frame, available)
    submit_problem()
    if ended is not None:
        ended_view(ended)
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


def pick_view(frame: Frame, estimator: str) -> str:
    views = views_of(frame.task.name, estimator)
    if len(views) > 1:
        return frame.selection.segmented(
            "View", "view", views, names=lambda name: VIEW_NAMES[name], what="the view", help=GLOSSARY["view"]
        )
    frame.selection.choice("view", views, what="the view")
    st.caption(
        "This text is itself a control: other tasks are compared with it."
        if frame.task.name in CONTROL_TEXTS
        else f"Estimator: {estimator}. Generic text is compared by exact runs."
    )
    return TASK_EFFECT


def pick_metric(frame: Frame, source: Source, view: str) -> View:
    """Draw the selector of the metric, or of the text to compare with, which has one metric only."""
    controls, names = controls_of(frame, source), partial(metric_name, frame.task)
    if view != TASK_EFFECT:
        if not controls:
            return View(source, "nll", view)
        text = frame.selection.selectbox(
            "Control text",
            "control",
            list(controls),
            names=task_name,
            what="the control text",
            help="Text that asks for no reasoning, measured with the same estimator and ablation.",
        )
        return View(source, "nll", view, controls[text])
    offered = applicable_metrics(frame.task)
    if source.metric is not None:
        metric = source.metric
        st.caption(f"Metric: {names(metric)}, the one this {source.estimator} run is about.")
    elif len(offered) == 1:
        metric = frame.selection.choice("metric", offered, what="the metric")
        st.caption(f"Metric: {names(metric)}. The others compare options; {frame.task.title} has none.")
    else:
        said = "\n".join(f"- **{names(name)}** `{name}`: {GLOSSARY[name]}" for name in offered)
        metric = frame.selection.segmented("Metric", "metric", offered, names=names, what="the metric", help=said)
    return View(source, metric, view, next(iter(controls.values()), None))


def facts_of(view: View) -> list[str]:
    source, examples = view.source, view.source.spec.examples
    method = f"{source.estimator}, {source.spec.ablation} ablation"
    if source.gradient is not None:
        method += f", gradients of {len(source.gradient.spec.examples.ids)}"
    said = [
        task_name(examples.task),
        examples_fact(examples),
        method,
        metric_name(load_task(examples.task), view.metric),
    ]
    if view.name != TASK_EFFECT and view.control is not None:
        control = view.control.spec.examples
        said.append(f"control {task_name(control.task)}, {count(len(control.ids))}")
    return said if source.run is None else [*said, age(source.run.provenance["created"])]


def body(frame: Frame, view: View) -> None:
    """Draw map and detail of a stored run, or the filling map of a running one."""
    source = view.source
    if source.run is None:
        live_body(frame, source, view.metric)
        return
    if view.needs_control:
        no_control(frame, source)
        return
    try:
        if source.estimator != "exact":
            estimate_body(frame, source, source.run)
            return
        shown = HeadView.of(frame, source, source.run, view.metric)
        control = None if view.control is None else HeadView.of_control(frame, view.control)
        baseline_banner(shown)
        if view.name == SPECIFICITY and control is not None:
            specificity_body(shown, control)
        elif view.name == GENERIC_TEXT and control is not None:
            effect_body(control, shown, above=overlap_sentence(shown, control))
        else:
            effect_body(shown, control)
    except CapVizError as error:
        problem(str(error))


def effect_body(view: HeadView, other: HeadView | None, *, above: str = "") -> None:
    """Draw the effects of heads on one task or text; `other` at the same metric shares the colour scale."""
    alike = [view] if other is None or other.metric != view.metric else [view, other]
    # The wider of the two scales, so that neither text has more heads beyond the scale than on its own.
    limit = max(colour_limit(one.stats.estimate.mean) for one in alike)
    estimate, spec = view.stats.estimate, view.source.spec
    blocks, roles = block_effects(view.frame.store, spec, view.metric), roles_of(view.frame.store, spec)
    left, right = st.columns([11, 10], gap="medium")
    with right, st.container(gap="small"):
        ranks, ranked = view.stats.ranks, view.ranks_heads
        head = chosen_head(view.frame, estimate, lambda head: standing(estimate, head, ranks, ranked=ranked))
        exact_detail(view, head)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            example_selector(view, head)
            reads = reading_toggle(view)
        example_panel(view, head)
        st.caption(group_sentence(view, *head))
        if roles is not None:
            st.caption(role_sentence(roles, *head))
    with left, st.container(gap="small"):
        st.markdown(above or reliability_sentence(view))
        rounding = noise_floor(spec.model.dtype, view.metric, estimate.mean, view.n)
        if rounding is not None and rounding.below:
            caution(str(rounding))
        ends, ranked = view.words.ends, view.ranks_heads
        grid = Grid.of(estimate, ends=ends, limit=limit, selected=head, ranked=ranked)
        draw_map(grid, view.unit, effect_title(view.source, view.metric), blocks)
        with st.container(horizontal=True, gap="small"):
            with st.popover("How to read this map", icon=":material/help:"):
                explanations(view, overlap_sentence(view, other) if not above and len(alike) > 1 and other else "")
            offer_blocks(view.frame, spec)
    if reads:
        reading_section(view, head)
    lower_left, lower_right = st.columns([11, 10], gap="medium")
    with lower_left:
        if view.ranks_heads:
            draw_bars(view.frame, estimate, head, view.unit)
        else:
            st.caption("Choose another metric to rank heads: errors are too coarse for it.")
    with lower_right:
        together_section(view, head)
    roles_section(view, roles, head)


def effect_title(source: Source, metric: str) -> str:
    """Name a map of effects: `Effect of removing each head on Mini science, Answer loss`."""
    words, task = ablation_words(source.spec), load_task(source.spec.examples.task)
    estimator = "" if source.estimator == "exact" else f", {source.estimator}"
    return f"Effect of {words.doing} each head{words.by} on {task.title}, {metric_name(task, metric)}{estimator}"


def chosen_head(frame: Frame, estimate: HeadEstimate, said: Callable[[Head], str]) -> Head:
    """Draw the boxes of layer and head, and what is said of it beside them; unchosen, it is the first by rank."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        head = head_boxes(frame.selection, *estimate.mean.shape, default=estimate.top_head)
        st.markdown(said(head))
    return head


def draw_map(grid: Grid, unit: str, title: str, blocks: HeadEstimate | None = None) -> None:
    """Draw the map with its legend."""
    head_map(grid, key="heads_map", unit=unit, label=title, on_pick=pick_head, blocks=blocks)
    if grid.marked is not None:
        beyond = f"{int(grid.marked.sum())} of {grid.marked.size} heads have an effect beyond chance"
        st.caption(f"● {beyond} · ▲ △ off the scale · faded: may be zero")


def draw_bars(frame: Frame, estimate: HeadEstimate, selected: Head, unit: str, quantity: str = "effect") -> None:
    """Draw the heads of highest rank as bars with whiskers."""
    title, slider = st.columns([1, 1], vertical_alignment="center")
    title.markdown("#### Ranked heads")
    most = min(MOST_BARS, estimate.mean.size)
    with slider:
        top = most if most <= 5 else frame.selection.slider("Heads shown", "top", 5, most, default=min(25, most))
    st.plotly_chart(
        ranked_bars(estimate, top=top, selected=selected, unit=unit, quantity=quantity),
        key="heads_ranked",
        config=CONFIG,
        on_select=lambda: pick_point("heads_ranked"),
        selection_mode="points",
        alt=f"Heads of highest rank by {quantity}, with 95 % confidence intervals",
    )


def baseline_banner(view: HeadView) -> None:
    """Warn if the intact model is not clearly above guessing, by its stored accuracy, else on these examples."""
    if view.task.kind == "text":
        return
    run = dense_evaluation(view.frame, view.frame.task)
    report = EvalReport(view.scores.questions, view.scores.dense)
    if run is not None:
        report = report_of(view.frame.store, run)
    test = against_guessing(view.frame.task, report)
    if not test.clearly_above and test.n >= FEWEST_FOR_BANNER:
        caution(
            f"The intact model is right on {test.accuracy:.0%} of {test.n} questions, not clearly above guessing "
            f"({test.chance:.0%}): there may be little here for a head to carry."
        )


def specificity_body(task: HeadView, control: HeadView) -> None:
    """Draw map and ranking of the differences. Raises `CapVizError` when the runs are too small to compare."""
    assert task.source.run is not None
    assert control.source.run is not None
    found = specificity_of(task.frame.store, task.source.run, control.source.run)
    here, text = task.task.title, control.task.title.lower()
    left, right = st.columns([11, 10], gap="medium")
    with right, st.container(gap="small"):
        head = chosen_head(task.frame, found, lambda head: standing(found, head))
        st.markdown(specificity_sentence(task, control, found, *head))
        st.plotly_chart(
            effect_scatter(found.task, found.control, found.survives, names=(here, control.task.title), selected=head),
            key="heads_scatter",
            config=CONFIG,
            on_select=lambda: pick_point("heads_scatter"),
            selection_mode="points",
            alt=f"Standardised effect of every head on {here} against {text}",
        )
        st.caption(
            "Dotted: the same effect on both. Coloured: a difference beyond chance, above the line more on this task, "
            "below it more on the text."
        )
    with left, st.container(gap="small"):
        st.markdown(overlap_sentence(task, control))
        ends, also = (f"more on {text}", "more on this task"), {here: found.task, text: found.control}
        grid = Grid.of(found, ends=ends, selected=head, also=also, digits=2)
        draw_map(grid, SPECIFICITY_UNIT, f"Specificity of each head, {here} against {text}")
    lower_left, lower_right = st.columns([11, 10], gap="medium")
    with lower_left:
        draw_bars(task.frame, found, head, SPECIFICITY_UNIT, "specificity")
    with lower_right:
        specificity_notes(task, control, found)


def specificity_notes(task: HeadView, control: HeadView, found: Specificity) -> None:
    text = control.task.title.lower()
    st.markdown("#### Reading specificity")
    st.markdown(
        f"- Each effect is divided by how much heads truly differ in its run: {found.task_scale:.3f} nats per token on "
        f"{task.task.title} ({found.n_task} examples), {found.control_scale:.3f} on {text} ({found.n_control}). The "
        "noise of few examples is taken out first. Intervals resample the examples of both runs.\n"
        f"- Near 0, a head matters as much to {text} as to this task. Far from 0, it differs between the two, maybe "
        f"for reasons other than reasoning: {text} differs in subject, format and length, too."
    )


def estimate_body(frame: Frame, source: Source, run: StoredRun) -> None:
    """Draw a gradient or hybrid estimate: no head was ablated on most examples, so there are no answers to show."""
    found, metric = estimated(frame, source, run), source.metric or "nll"
    estimate, unit, ends = found.estimate, METRICS[metric].unit, ablation_words(source.spec).ends
    left, right = st.columns([11, 10], gap="medium")
    with right, st.container(gap="small"):
        head = chosen_head(frame, estimate, lambda head: standing(estimate, head))
        estimate_detail(frame, source, estimate, found.effects, metric, head)
        draw_bars(frame, estimate, head, unit)
    with left, st.container(gap="small"):
        st.markdown(found.above)
        draw_map(Grid.of(estimate, ends=ends, selected=head), unit, effect_title(source, metric))


def live_body(frame: Frame, source: Source, metric: str) -> None:
    """Draw progress and the filling map; rerun the whole page when the job ends, to show the stored run."""
    job = source.job
    assert job is not None
    if not job.active:
        st.rerun()
    job_view(job, key="heads")
    partial = job.progress.partial
    if isinstance(partial, HeadScores):
        live_map(frame, source, partial, metric)
    else:
        empty("The first numbers appear soon", "The map fills layer by layer once the model is loaded.")


def live_map(frame: Frame, source: Source, partial: HeadScores, metric: str) -> None:
    effects, unit = arrived_effects(partial, metric), METRICS[metric].unit
    counts = np.isfinite(effects).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counts > 0, np.nansum(effects, axis=-1) / counts, np.nan)
    left, right = st.columns([11, 10], gap="medium")
    with right:
        first = np.unravel_index(int(np.nan_to_num(mean, nan=-np.inf).argmax()), mean.shape)
        with st.container(horizontal=True, gap="small"):
            layer, head = head_boxes(frame.selection, *mean.shape, default=(int(first[0]), int(first[1])))
        st.markdown(live_sentence(mean, counts, layer, head, unit))
        st.caption("Intervals, ranks and examples follow when the run is complete.")
    with left:
        ends, seen = ablation_words(source.spec).ends, {"examples so far": counts}
        draw_map(Grid(mean, colour_limit(mean), ends, selected=(layer, head), also=seen), unit, "Effects so far")


def live_sentence(
    mean: Float[np.ndarray, "layer head"], counts: Int[np.ndarray, "layer head"], layer: int, head: int, unit: str
) -> str:
    n = int(counts[layer, head])
    if n == 0:
        return f"**Head {head} of layer {layer}** has not been measured yet."
    return f"**Head {head} of layer {layer}**: {signed(mean[layer, head])} {unit} after {count(n)}."
